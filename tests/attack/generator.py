"""A generator of bad inputs: every option of every script by the kind of its field, and files that
a script reads, damaged at random.

What is tried follows from the option dataclasses, so that a new option is attacked without a line
here. Everything is drawn from a seed: input number i is the same in every run.
"""

import io
import json
import pickle
import random
import types
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

import compare
import gpt2_inference
import inference
from diffusion.editing.options import EditingOptions
from diffusion.options import GenerationOptions, SamplingOptions
from diffusion.samplers.catalog import SAMPLERS, SCHEDULES
from diffusion.training.arguments import GROUPS
from diffusion.training.checks import RunArguments
from studies import scoreboard
from studies.board.options import ScoreOptions

LONG = "x" * 5000
STEERING = "\x1b]0;title\x07\x1b[2J"
NOT_UTF8 = "\udcff\udce4"  # how Python hands over bytes of the command line that are no UTF-8

INTEGERS = ["-1", "0", "1.5", "1e3", "", "abc", "nan", "0x10", str(-(2**63)), str(2**31), str(2**63),
            str(2**64), str(10**30), "9" * 5000, "１２", "1_0", " 4 ", STEERING]  # fmt: skip
NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e-400", "5e-324", "1e39", "1e308", "1e309", "", "abc",
           "1,5", "9" * 5000, "-0.0", "１", STEERING]  # fmt: skip
NAMES = ["", " ", "x", "None", "FULL", "seed ", "-", "*", "%s%n", "../..", LONG, STEERING,
         NOT_UTF8, "a\nb", "e\u0301", "\u202eabc", "🙂"]  # fmt: skip
TEXTS = ["", " ", "\n", "<mask>", "<mask:0>", "<mask:99999999999>", "<mask:5-2>", "<mask:-1>",
         "<mask:1-99999999>", "</s>", "<s></s><pad>", STEERING + "text", NOT_UTF8, "a\nb", "\u202etext",
         "a" * 100_000, "The <mask:2> " * 500, "河" * 300, "{}{0}%s", "\u2028\u2029", "🙂" * 40]  # fmt: skip
TRUTHS = ["maybe", "2", "", "None", STEERING]
PATHS = ["", " ", ".", "..", "/", "no/such", "x" * 300, LONG, "~nosuchuser", "~nosuchuser/x",
         "loop", "loop/x", "dangling", "empty", "empty/", "noise", "noise/x", "deep.json", "blank",
         "pickle", "/dev/null", "/proc/self/mem", "new/", STEERING, NOT_UTF8, "a\nb", "%s",
         "-", "https://example.invalid/x", "a:b", "[x]", "owner/name/more", "prompts.txt"]  # fmt: skip

# More of these is more work, which is no mistake.
WORK = ("num_samples", "repeats", "max_steps", "num_train_epochs", "draws", "points",
        "eval_draws", "slowdown", "max_eval_blocks", "gradient_accumulation_steps", "n_steps",
        "likelihood_blocks", "length", "max_len")  # fmt: skip
# Would reach for the network, another program's settings, or processes.
LEFT_OUT = ("hub_token", "deepspeed", "fsdp", "fsdp_config", "parallelism_config",
            "ddp_backend", "local_rank", "debug", "torch_compile", "torch_compile_backend",
            "torch_compile_mode", "report_to", "tpu_num_cores",
            "dataloader_num_workers")  # fmt: skip

INPUTS = ("model", "baseline", "tokenizer", "scorer", "dataset", "eval_dataset", "dataset_dir",
          "replay", "results", "settings", "score", "resume_from_checkpoint")  # fmt: skip
OUTPUTS = ("output", "output_dir", "save_animation", "markdown", "logging_dir")
PROSE = ("infill", "rewrite", "keep", "interpolate")


@dataclass
class Attack:
    """One bad input: a script, its arguments, and the files it is given."""

    kind: str  # the class it is counted under
    script: str
    arguments: list[str]
    stdin: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)  # written before

    def __str__(self) -> str:
        shown = " ".join(a if len(a) < 60 else f"{a[:30]}..." for a in self.arguments)
        return ascii(f"{self.script} {shown}".strip())[1:-1]


class Generator:
    """Draws attacks.

    Args:
        given: folders and files that exist: ``masked``, ``causal``, ``text`` and, as examples of
            what is read, ``replay``, ``results`` and ``run`` (an output folder of finetune.py with a
            checkpoint).
    """

    def __init__(self, given: dict[str, Path]):
        self.given = given
        masked, causal, text = (str(given[name]) for name in ("masked", "causal", "text"))
        pair = ["--model", masked, "--baseline", causal]
        small = ["--max_len", "24", "--dtype", "float32", "--device", "cpu"]
        board = ["--dataset", text, "--scorer", causal, "--num_samples", "2", "--length", "4",
                 "--prompt_len", "4", "--block_size", "16", "--likelihood_blocks", "0",
                 "--dtype", "float32", "--device", "cpu"]  # fmt: skip
        train = ["--config", "layers=1,width=16,heads=2,vocab=300", "--dataset", text, "--use_cpu",
                 "--block_size", "16", "--prefix_len", "1", "--max_steps", "1", "--dtype", "float32",
                 "--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2",
                 "--max_eval_blocks", "2", "--save_strategy", "no", "--eval_strategy", "no",
                 "--output_dir", "trained", "--disable_tqdm", "true"]  # fmt: skip
        plain = ["--sampler", "seed", "--n_steps", "2"]
        self.base = {
            "inference": ["The river", "--model", masked, *small, *plain],
            "gpt2_inference": ["The river", "--model", causal, *small],
            "compare": ["The river", *pair, *small, "--n_steps", "2", "--repeats", "1", "--no_animate",
                        "--no_live"],
            "scoreboard": [*pair, "--settings", "grid.toml", *board, "--output_dir", "board"],
            "finetune": train,
        }  # fmt: skip
        self.grid = b'[[row]]\nmodel = "%s"\nsampler = "seed"\nn_steps = 2\n' % masked.encode()
        owners = {
            "inference": (GenerationOptions, inference.InferenceOptions, EditingOptions),
            "gpt2_inference": (SamplingOptions, gpt2_inference.ScriptOptions),
            "compare": (GenerationOptions, compare.CompareOptions),
            "scoreboard": (ScoreOptions,),
            "finetune": (*GROUPS, RunArguments),
        }
        assert scoreboard.main and set(owners) == set(self.base)
        self.options = [
            (script, option.name, kind_of(option, hints[option.name]))
            for script, classes in owners.items()
            for owner in classes
            for hints in [typing.get_type_hints(owner)]
            for option in fields(owner)
            if option.init and option.name not in LEFT_OUT
        ]

    def all(self, part: int = 0) -> list[Attack]:
        """Every option with every value of its kind, then 100 damages to each kind of file; other
        ones in each ``part``."""
        found = [
            self.option(script, name, kind, value)
            for script, name, kind in self.options
            for value in VALUES[kind]
            if not (name in WORK and _works(value))
        ]
        found += self.pairs(part)
        found += [
            Attack("unknown flags", s, [*self.base[s], f]) for s in self.base for f in UNKNOWN
        ]
        found += [Attack("prompts", s, [t, *self.base[s][1:]], files=self.files(s))
                  for s in ("inference", "gpt2_inference", "compare") for t in TEXTS]  # fmt: skip
        found += [Attack("piped prompts", s, self.base[s][1:], stdin=raw)
                  for s in ("inference", "gpt2_inference") for raw in PIPED]  # fmt: skip
        return found + [damage(i) for damage in self.damages()
                for i in range(100 * part, 100 * part + 100)]  # fmt: skip

    def pairs(self, part: int, number: int = 300) -> list[Attack]:
        """Two options at once, each with a bad value or a good one of its choices."""
        draw, found = random.Random(f"pairs {part}"), []
        for _ in range(number):
            script = draw.choice(list(self.base))
            flags = []
            for _ in range(2):
                _, name, kind = draw.choice([o for o in self.options if o[0] == script])
                values = CHOICES.get(name, ()) if draw.random() < 0.6 else ()
                value = draw.choice(values or VALUES[kind])
                if not (name in WORK and _works(value)):
                    flags.append(f"--{name}={value}")
            arguments = [*self.base[script], *flags]
            found.append(Attack("pairs of options", script, arguments, files=self.files(script)))
        return found

    def files(self, script: str) -> dict[str, bytes]:
        return {"grid.toml": self.grid} if script == "scoreboard" else {}

    def option(self, script: str, name: str, kind: str, value: str) -> Attack:
        arguments = [*self.base[script], f"--{name}={value}"]
        if name == "replay":
            arguments = [f"--replay={value}", "--no_animate", "--no_live"]
        elif name == "results":
            arguments = [f"--results={value}"]
        elif name == "model" and script == "finetune":  # --config would stand in its way
            arguments = [f"--model={value}", *arguments[2:-1]]
        elif name in ("infill", "rewrite", "score"):  # instead of a prompt
            arguments = arguments[1:]
        elif name == "interpolate":
            arguments = [*self.base[script][1:], "--interpolate", value, "The end."]
            if value.startswith("-"):
                arguments = [*self.base[script][1:], f"--interpolate={value}"]
        return Attack(f"{kind}s", script, arguments, files=self.files(script))

    # ------------------------------------------------------------ damaged files

    def damages(self):
        """Functions number -> `Attack`, one for each file that a script reads."""
        given, pair = self.given, self.base["compare"][1:5]

        def replay(i):
            bad = damaged(given["replay"].read_bytes(), f"replay {i}")
            page = ["--save_animation", f"film{random.Random(i).choice(['.html', '.png', '.gif'])}"]
            return Attack("replay files", "compare", ["--replay", "r.json", "--no_live", *page],
                          files={"r.json": bad})  # fmt: skip

        def results(i):
            bad = damaged(given["results"].read_bytes(), f"results {i}")
            return Attack("results files", "scoreboard", ["--results", "r.json", "--markdown", "page.md"],
                          files={"r.json": bad})  # fmt: skip

        def settings(i):
            draw = random.Random(f"toml {i}")
            rows = f'[[row]]\nmodel = "{pair[1]}"\n'
            number = draw.randint(1, 3)
            lines = [f"{draw.choice(KEYS)} = {draw.choice(TOML)}" for _ in range(number)]
            text = draw.choice(["", 'title = "t"\n', "x", "[defaults]\n"]) + rows + "\n".join(lines)
            return Attack("settings files", "scoreboard", self.base["scoreboard"],
                          files={"grid.toml": text.encode(errors="surrogateescape")})  # fmt: skip

        def text(i):
            draw = random.Random(f"text {i}")
            name = draw.choice(["t.txt", "t.txt.xz", "t.json", "t"])
            raw = draw.choice([b"", b"\xff\xfe", draw.randbytes(300), b"\n" * 50, b"= a =\n" * 9,
                               b"word " * 40, b"\0" * 99, "\u2028x ".encode() * 60])  # fmt: skip
            arguments = [*self.base["finetune"], "--dataset", name]
            return Attack("text files", "finetune", arguments, files={name: raw})

        def folder(kind: str, source: Path, names: tuple[str, ...], script: str, *arguments: str):
            def attack(i):
                draw = random.Random(f"{kind} {i}")
                name = draw.choice([n for n in names if (source / n).is_file()])
                copied = {str(Path("copy", p.relative_to(source))): p.read_bytes()
                          for p in source.rglob("*") if p.is_file() and p.name != ".lock"}  # fmt: skip
                bad = damaged(copied[f"copy/{name}"], f"{kind} {name} {i}")
                files = {**copied, f"copy/{name}": bad, **self.files(script)}
                return Attack(kind, script, list(arguments), files=files)

            return attack

        board = given["results"].parent
        kept = tuple(str(p.relative_to(board)) for p in sorted(board.glob("*/*.json*")))
        model_files = (
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        )
        steps = self.base["inference"][3:]
        run = [*self.base["finetune"], *SOFT, "--resume_from_checkpoint", "copy/checkpoint-1",
               "--max_steps", "2"]  # fmt: skip
        last = "checkpoint-1/"
        states = (*(last + n for n in ("optimizer.pt", "scheduler.pt", "rng_state.pth",
                  "model.safetensors", "config.json", "ema.safetensors", "soft.safetensors")),)  # fmt: skip
        return [
            replay, results, settings, text,
            folder("masked models", given["masked"], model_files, "inference", "The river", "--model",
                   "copy", *steps),
            folder("causal models", given["causal"], model_files, "gpt2_inference", "The river",
                   "--model", "copy", *self.base["gpt2_inference"][3:]),
            folder("stores", board, kept, "scoreboard", *self.base["scoreboard"], "--output_dir", "copy"),
            folder("checkpoints", given["run"], states, "finetune", *run),
        ]  # fmt: skip


CHOICES = {
    "sampler": [*SAMPLERS, "remdm:eta=2", "remdm:remask=psi,eta=1", "klass:history=", "p2:score=hidden",
                "threshold:score=entropy", "wino:threshold=nan", "remdm:", ":", "causal:x=1", "saber:mu=2"],
    "attention": ["auto", "block", "full"], "schedule": list(SCHEDULES), "block_length": ["1", "4", "1000"],
    "guidance": ["1.5"], "length": ["1", "5"], "n_steps": ["1", "40"],
    "layouts": ["causal=1,block4=1", "block4", "block999", "full=0", "full=1,full=2", "causal=nan", ",",
                "block4=1e-400", "=", "block", "block-4"],
    "config": ["layers=1", "layers=1,width=0,heads=2,vocab=300", "layers=1,width=16,heads=0,vocab=300",
               "layers=1000000,width=2,heads=1,vocab=300", "type=bert,layers=1,width=16,heads=2,vocab=300",
               f"layers=1,width={10**30},heads=2,vocab=300"],
    "objective": ["causal", "diffusion"], "optim": ["muon", "sgd", "adafactor"], "loss": ["mean"],
    "mask_schedule": ["seed"], "eval_strategy": ["epoch", "steps"], "save_strategy": ["epoch", "best"],
    "soft_masking": ["true"], "mixing": ["spherical"], "ema": ["0.9"], "metric_for_best_model": ["x"],
    "json": ["true"], "num_samples": ["2"], "unconditional": ["true"],
    "lr_scheduler_type": ["cosine", "polynomial", "reduce_lr_on_plateau", "cosine_with_min_lr"],
    "output": ["prompts.txt", "empty"], "dtype": ["bfloat16", "float16"], "cache": ["false"],
}  # fmt: skip
SOFT = ["--soft_masking", "--ema", "0.9"]
UNKNOWN = ["--unknown", "--unknown=1", "-x", "--", "--=", "extra", "--seed", "--", STEERING, NOT_UTF8,
           "--max_len=24=24", "-" * 3000, "--SEED", "---seed"]  # fmt: skip
PIPED = [b"", b"\n\n\n", b"\xff\xfe\n", b"\0\n", b"The river\n\xff\n", b"a" * 200_000, b"\r\r\n",
         b"\x1b]0;t\x07\n", "\u2028\u202e\n".encode(), b"<mask> </s>\n", b"x\n" * 30]  # fmt: skip
KEYS = ("sampler", "n_steps", "seed", "temperature", "max_len", "length", "conditional", "top_k", "title",
        "model", "eta", "about", '"a b"', "n_steps.x")  # fmt: skip
TOML = ("9" * 5000, "-1", "nan", "inf", "1e400", "true", '""', '"\\u001b]0;t"', "[]", "[[]]", "{}", "{a=1}",
        "1979-05-27", '"' + "x" * 9000 + '"', "[0, 0]", '["seed", 1]', "0x7fffffffffff",
        "'''\n\n'''", '"seed"', "[1, 2, 3]", "9223372036854775807", '"\udcff"')  # fmt: skip

VALUES = {"integer": INTEGERS, "number": NUMBERS, "name": NAMES, "text": TEXTS, "truth": TRUTHS,
          "input": PATHS, "output": PATHS}  # fmt: skip


def kind_of(option, hint) -> str:
    """Which of `VALUES` an option is attacked with."""
    for names, kind in ((INPUTS, "input"), (OUTPUTS, "output"), (PROSE, "text")):
        if option.name in names:
            return kind
    parts = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    if typing.get_origin(hint) is typing.Union:
        parts = set(typing.get_args(hint))
    if bool in parts:
        return "truth"
    if float in parts:
        return "number"
    return "integer" if int in parts else "name"


def _works(value: str) -> bool:
    """Whether a value may be a number of things to do."""
    try:
        return 10**9 >= float(value) > 100
    except ValueError:
        return False


# ---------------------------------------------------------------- damage


LEAVES = [None, True, -1, 0, 10**9, 2**63, 10**30, -(10**18), 1e30, 1e308, float("nan"), float("inf"),
          "", "x", "\ud800", STEERING, "<script>alert(1)</script>", "x" * 200_000, [], {}, [[]], [None],
          {"": None}, ["x"] * 3000, "../../etc/passwd", [10**9] * 3, "9" * 400]  # fmt: skip


class _Written:
    """What a pickle would do when it is read: leave a file behind."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def damaged(content: bytes, seed: str) -> bytes:
    """The content of a file with something wrong: cut, overwritten, a pickle that would run code,
    or, where it is JSON, with a value missing, of another kind or out of all bounds."""
    draw = random.Random(seed)
    if content[:1] in b"{[" and draw.random() < 0.8:
        try:
            return json.dumps(_damage(json.loads(content), draw)).encode()
        except ValueError:  # an object a line
            lines = content.splitlines()
            at = draw.randrange(len(lines))
            lines[at] = json.dumps(_damage(json.loads(lines[at]), draw)).encode()
            return b"\n".join(lines)
    at = draw.randrange(len(content))
    zipped = io.BytesIO()
    torch.save(_Written(), zipped)
    # The first eight bytes are where safetensors has the length of its header.
    return draw.choice([content[:at], b"", draw.randbytes(500), draw.randbytes(8) + content[8:],
                        content[:at] + draw.randbytes(8) + content[at + 8 :],
                        b"[" * 9000 + b"]" * 9000, pickle.dumps(_Written()), zipped.getvalue()])  # fmt: skip


def _damage(data, draw: random.Random):
    """JSON with one place changed."""
    if draw.random() < 0.03:
        return draw.choice(LEAVES)
    place = data
    while True:
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner and draw.random() < 0.8):
            break
        place = inner
    if draw.random() < 0.2:
        del place[key]
    else:
        place[key] = draw.choice(LEAVES)
    return data
