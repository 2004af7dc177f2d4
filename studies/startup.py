"""Seconds from a cold shell to the first frame of inference.py, against imports alone.

Cold is the process, not the disk: one round goes before to bring all files into memory. Each program
is started anew in every round, in an order that alternates. inference.py runs on a terminal of its
own, a pseudo-terminal, and its clock stops when the screen shows the prompt: that is the first
frame, the prompt and its masks, from a model that is ready to write. The others say on such a terminal
that they have imported all; nobody's ending is timed.

`import transformers.models.roberta` loads no model's code, because transformers puts that off. What a
program pays that has a RoBERTa at all is the third line. Where the rest goes is timed in one more
process, which does the same step by step.

    python studies/startup.py --output startup.json     # two minutes
"""

import argparse
import json
import os
import pty
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion import hardware
from diffusion.errors import UserError, run
from diffusion.views.tables import aligned
from studies.machine import check_run, save

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "The city was founded in"
# Of the environment: colours off, and no bytecode, without which each process compiles all anew.
LEFT_OUT = ("NO_COLOR", "PYTHONDONTWRITEBYTECODE")
COMMAND = ["inference.py", PROMPT, "--length", "16"]
IMPORTS = (
    "import torch, transformers.models.roberta",
    "import torch",
    "import torch; from transformers import RobertaForMaskedLM",
)
# What inference.py does, in its order: name -> Python.
PHASES = {
    "Python itself": "",
    "torch": "import torch",
    "transformers, with RobertaForMaskedLM": "from transformers import RobertaForMaskedLM",
    "the modules of this project": "import inference; from diffusion.job import Job; "
    "from diffusion.editing import chat, modes; from diffusion.generate import Writer; "
    "from diffusion.models import loading, tokenizers; from diffusion.options import GenerationOptions",
    "the tokenizer": "name = 'roberta-small-wikitext'; tokenizer = tokenizers.load_tokenizer(name)",
    "the weights": "model = loading.load_masked_lm(name, tokenizer)",
    "to the first frame": "writer = Writer.from_model(model, tokenizer, name); "
    f"steps = writer.generate([{PROMPT!r}], GenerationOptions(length=16), [0]); next(steps)",
    "the first pass, after it": "next(steps)",
}
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def until_shown(command: list[str], text: str) -> float:
    """Seconds until a Python program shows a text on its terminal; then it is ended.

    Raises:
        UserError: it ends before.
    """
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 80))
    env = {k: v for k, v in os.environ.items() if k not in LEFT_OUT} | {"TERM": "xterm-256color"}
    with tempfile.TemporaryFile() as errors, open(terminal, "rb", buffering=0) as screen:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stdout=side,
                                   stdin=subprocess.DEVNULL, stderr=errors)  # fmt: skip
        os.close(side)
        try:
            seen = b""
            while text.encode() not in ESCAPES.sub(b"", seen):
                try:
                    seen += screen.read(4096)
                except OSError:  # the other side is closed
                    errors.seek(0)
                    told = errors.read().decode(errors="replace").strip()[-300:]
                    raise UserError(
                        f"{' '.join(command)} ended without showing {text!r}: {told}"
                    ) from None
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def phases(codes: dict[str, str]) -> dict[str, float]:
    """Seconds of each phase in a process that goes through them in their order."""
    laps = "\n".join(f"{code}\nat.append(time.time())" for code in codes.values())
    program = f"import time\nat = []\n{laps}\nprint(at)"
    started = time.time()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=True)  # fmt: skip
    at = [started, *json.loads(done.stdout)]
    return {name: at[i + 1] - at[i] for i, name in enumerate(codes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", help="write the numbers to this JSON file")
    args = parser.parse_args()
    check_run(args.repeats, args.output)
    own = f"python {shlex.join(COMMAND)}"
    tasks = {own: lambda: until_shown(COMMAND, PROMPT)}
    for code in IMPORTS:
        command = ["-c", f"{code}\nprint('imported', flush=True)"]
        tasks[f'python -c "{code}"'] = partial(until_shown, command, "imported")
    rounds = []
    for i in range(args.repeats + 1):
        order = list(tasks) if i % 2 else list(reversed(tasks))
        rounds.append({name: tasks[name]() for name in order})
    rounds = rounds[1:]
    seconds = {name: [one[name] for one in rounds] for name in tasks}
    head = ["", "seconds, median and range", "inference.py by it"]
    rows, results = [], []
    for name, runs in seconds.items():
        ratios = [one[own] / one[name] for one in rounds]
        results.append({"program": name, "seconds": runs, "ratios": ratios})
        cells = (f"{statistics.median(v):.2f} ({min(v):.2f}-{max(v):.2f})" for v in (runs, ratios))
        rows.append([name, *cells])
    print("\n".join(aligned([head, *rows], 1)))
    parts = [phases(PHASES) for _ in range(args.repeats)]
    medians = {name: statistics.median(one[name] for one in parts) for name in PHASES}
    told = [[name, f"{spent:.2f}"] for name, spent in medians.items()]
    print("\n".join(aligned([["inference.py, step by step", "seconds"], *told], 1)))
    device = hardware.choose_device("auto")
    save(args.output, "startup", device, hardware.choose_dtype("auto", device), options=vars(args),
         results=results, phases=medians)  # fmt: skip


if __name__ == "__main__":
    run(main)
