"""Try bad inputs, and show by class what came of them.

python tests/attack/run.py                     # all of them, some minutes
python tests/attack/run.py --number 500 --seed 3
python tests/attack/run.py --kind "replay files"

An input is either refused (exit code 2, one sentence, nothing changed) or it works. All else is a
fault: a traceback, a sentence of two lines, an escape sequence in a message, a file that changed, code of a
pickle that ran, or more time than `SECONDS`.
"""

import argparse
import contextlib
import io
import os
import random
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from accelerate.state import AcceleratorState
from attack.generator import SOFT, Attack, Generator
from helpers.models import SENTENCES, save_gpt2, save_roberta

import compare
import finetune
import gpt2_inference
import inference
from diffusion.errors import run
from studies import scoreboard

SCRIPTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (compare, finetune, gpt2_inference, inference, scoreboard)
}
SECONDS = 60


class TooLong(BaseException):
    """No library may catch it."""


def call(attack: Attack) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a script run in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what a new process starts with
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    before = sys.argv, sys.stdin

    def too_long(number, frame):
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    sys.argv = [f"{attack.script}.py", *attack.arguments]
    sys.stdin = io.TextIOWrapper(io.BytesIO(attack.stdin), encoding="utf-8")
    code = 0
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                run(SCRIPTS[attack.script].main)
            except SystemExit as end:
                code = end.code
            except TooLong:
                code = -1
            except BaseException:
                code = 1
                traceback.print_exc()
    finally:
        signal.alarm(0)
        sys.argv, sys.stdin = before
    for stream in streams:
        stream.flush()
    return code, *(s.buffer.getvalue().decode("utf-8") for s in streams)


def prepare(folder: Path) -> dict[str, Path]:
    """Models, a text, and what the scripts themselves write, for the generator."""
    given = {"masked": save_roberta(folder / "masked"), "text": folder / "text.txt"}
    given["causal"] = save_gpt2(folder / "causal", given["masked"])
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    lines = [" ".join(draw.choices(words, k=14)) for _ in range(60)]
    given["text"].write_text("\n\n\n".join(lines))
    generator = Generator(given)
    with contextlib.chdir(folder):
        for script, *more in (
            ("compare", "--output_dir", "compared"),
            ("scoreboard",),
            ("finetune", "--save_strategy", "steps", "--save_steps", "1", *SOFT),
        ):
            place(generator.files(script))
            attack = Attack("", script, [*generator.base[script], *more])
            code, _, err = call(attack)
            assert code == 0, err
    given["replay"] = folder / "compared" / "compare.json"
    given["results"] = folder / "board" / "results.json"
    given["run"] = folder / "trained"
    return given


def place(files: dict[str, bytes]) -> None:
    """Write the files of an attack into the current folder."""
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


def furnish() -> None:
    """The things in the current folder that the paths of the generator name."""
    os.symlink("loop", "loop")
    os.symlink("nowhere", "dangling")
    os.mkdir("empty")
    Path("noise").write_bytes(random.Random(0).randbytes(2000))
    Path("deep.json").write_text("[" * 9000 + "]" * 9000)
    Path("blank").touch()
    Path("prompts.txt").write_text("The river\nShe opened\n")
    Path("pickle").write_bytes(b"cbuiltins\nopen\n(Vexecuted\nVw\ntR.")


def contents() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


def attempt(attack: Attack) -> tuple[str, str]:
    """``refused`` or ``works``, or else the kind of fault; and what was printed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        furnish()
        place(attack.files)
        before = contents()
        code, out, err = call(attack)
        after = contents()
        ran = Path("executed").exists()
    shown = f"{out[-1500:]}\n{err[-3000:]}"
    if ran:
        return "ran code", shown
    if code == -1:
        return "too long", shown
    if "Traceback" in err:
        return "traceback", shown
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029]", err.replace("\r", "")):
        return "control characters", ascii(shown)
    kept = {name: after.get(name) for name in before}
    if code == 0:
        # Only what a flag names as an output may be another file than before.
        changed = {name for name in before if kept[name] != before[name]}
        named = {word.split("=", 1)[-1] for word in attack.arguments}
        named |= {"trained", "board", "copy"}
        stray = {name for name in changed if name.split("/")[0] not in named}
        return ("changed a file", f"{stray} {shown}") if stray else ("works", shown)
    if code != 2:
        return f"exit code {code}", shown
    last = err.splitlines()[-1] if err else ""
    if not last.startswith(f"{attack.script}.py: ") or len(last) > 1100:
        return "no sentence", shown
    if kept != before:
        return "changed a file", shown
    return "refused", shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, help="a random sample of so many; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of that sample")
    parser.add_argument("--kind", help="of this class alone")
    parser.add_argument("--part", type=int, default=0, help="other damages to files in each")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        attacks = Generator(prepare(Path(folder))).all(args.part)
        if args.kind:
            attacks = [a for a in attacks if a.kind == args.kind]
        if args.number:
            attacks = random.Random(args.seed).sample(attacks, min(args.number, len(attacks)))
        table = defaultdict(Counter)
        for done, attack in enumerate(attacks):
            print(f"\r{done} of {len(attacks)}", end="", file=sys.stderr, flush=True)
            outcome, shown = attempt(attack)
            table[attack.kind][outcome] += 1
            if outcome not in ("refused", "works"):
                print(f"\n--- {outcome}: {attack}\n{shown.strip()}\n", flush=True)
    print(f"\n{'class':18} {'tried':>6} {'refused':>8} {'works':>6} {'faults':>7}")
    for kind, found in sorted(table.items()):
        tried, refused, works = found.total(), found["refused"], found["works"]
        print(f"{kind:18} {tried:6} {refused:8} {works:6} {tried - refused - works:7}")


if __name__ == "__main__":
    main()
