"""Bad inputs of every script. `pytest` tries a sample; `ATTACK=all pytest tests/attack` tries all, and with
`ATTACK_PART=1` other pairs of options and other damages to files.

An input is either refused (exit code 2, one sentence, nothing changed) or it works. All else is a
fault: a traceback, a sentence of two lines, an escape sequence in a message, a file that changed, code of a
pickle that ran, or more time than `SECONDS`.
"""

import contextlib
import os
import pickle
import random
import re
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from attack.generator import SOFT, VALUES, Attack, Generator
from helpers.models import SENTENCES, save_gpt2, save_roberta

import compare
import finetune
import gpt2_inference
import inference
from diffusion.errors import UserError
from studies import scoreboard

SCRIPTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (compare, finetune, gpt2_inference, inference, scoreboard)
}
SECONDS = 60
SAMPLE, SEED = 30, 0
ALL, PART = os.environ.get("ATTACK") == "all", int(os.environ.get("ATTACK_PART", 0))
SHARES = 8 if ALL else 1


class TooLong(BaseException):
    """No library may catch it."""


@pytest.fixture
def call(run_script, capsys):
    """Runs the script of an attack: (exit code, standard output, standard error)."""

    def too_long(number, frame):
        raise TooLong

    def call(attack: Attack) -> tuple[int, str, str]:
        AcceleratorState._reset_state(reset_partial_state=True)  # what a new process starts with
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
        try:
            return run_script(SCRIPTS[attack.script], *attack.arguments, stdin=attack.stdin)
        except TooLong:
            return -1, *capsys.readouterr()
        except BaseException:
            traceback.print_exc()
            return 1, *capsys.readouterr()
        finally:
            signal.alarm(0)

    return call


def place(files: dict[str, bytes]) -> None:
    """Write the files of an attack into the current folder."""
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


@pytest.fixture
def given(call, code_read_once, tmp_path) -> dict[str, Path]:
    """Models, a text, and what the scripts themselves write, for the generator."""
    given = {"masked": save_roberta(tmp_path / "masked"), "text": tmp_path / "text.txt"}
    given["causal"] = save_gpt2(tmp_path / "causal", given["masked"])
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    lines = [" ".join(draw.choices(words, k=14)) for _ in range(60)]
    given["text"].write_text("\n\n\n".join(lines))
    generator = Generator(given)
    with contextlib.chdir(tmp_path):
        for script, *more in (
            ("compare", "--output_dir", "compared"),
            ("scoreboard",),
            ("finetune", "--save_strategy", "steps", "--save_steps", "1", *SOFT),
        ):
            place(generator.files(script))
            code, _, err = call(Attack("", script, [*generator.base[script], *more]))
            assert code == 0, err
    given["replay"] = tmp_path / "compared" / "compare.json"
    given["results"] = tmp_path / "board" / "results.json"
    given["run"] = tmp_path / "trained"
    return given


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


def attempt(call, attack: Attack) -> tuple[str, str]:
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
    changed = {name for name in before if after.get(name) != before[name]}
    if code == 0:
        # Only what a flag names as an output may be another file than before.
        named = {word.split("=", 1)[-1] for word in attack.arguments}
        named |= {"trained", "board", "copy"}
        stray = {name for name in changed if name.split("/")[0] not in named}
        return ("changed a file", f"{stray} {shown}") if stray else ("works", shown)
    if code != 2:
        return f"exit code {code}", shown
    last = err.splitlines()[-1] if err else ""
    if not last.startswith(f"{attack.script}.py: ") or len(last) > 1100:
        return "no sentence", shown
    return ("changed a file" if changed else "refused"), shown


def check(call, attacks: list[Attack]) -> None:
    """Each is refused in one sentence or works, and most are refused."""
    found = [(attack, *attempt(call, attack)) for attack in attacks]
    faults = [
        f"{outcome}: {attack}\n{shown}"
        for attack, outcome, shown in found
        if outcome not in ("refused", "works")
    ]
    assert not faults, "\n".join(faults)
    assert sum(outcome == "refused" for _, outcome, _ in found) > len(attacks) / 2


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_bad_inputs_are_refused_in_one_sentence_or_work(call, given, share):
    attacks = Generator(given).all(PART)
    different = {(str(a), a.kind, *map(hash, a.files.values())) for a in attacks}
    assert len(different) > 0.9 * len(attacks) > 3000
    some = attacks[share::SHARES] if ALL else random.Random(SEED).sample(attacks, SAMPLE)
    check(call, some)


def test_bad_values_of_options_are_refused_in_one_sentence_or_work(
    call, kept_models, tiny_model, tiny_gpt2, tmp_path
):
    """A few, of the scripts that write."""
    given = {"masked": tiny_model, "causal": tiny_gpt2, "text": tmp_path / "text.txt"}
    generator = Generator(given)
    found = [
        generator.option(script, name, kind, value)
        for script, name, kind in generator.options
        for value in VALUES[kind]
        if script in ("inference", "gpt2_inference") and kind in ("name", "truth", "integer")
    ]
    check(call, random.Random(SEED).sample(found, 25))


def test_the_attack_sees_a_fault(call, monkeypatch):
    """A traceback, a message that steers a terminal, a file that is replaced, a pickle that runs."""

    def outcome(act):
        monkeypatch.setattr(inference, "main", act)
        return attempt(call, Attack("", "inference", ["The river"]))[0]

    def sentence():
        raise UserError("one")

    def steers():
        raise SystemExit(print("\x1b[2J", file=sys.stderr) or 2)

    def replaces():
        open("prompts.txt", "w").close()
        raise UserError("one")

    def executes():
        with open("pickle", "rb") as file:
            pickle.load(file)

    assert outcome(lambda: None) == "works"
    assert outcome(sentence) == "refused"
    assert outcome(lambda: 1 / 0) == "traceback"
    assert outcome(steers) == "control characters"
    assert outcome(replaces) == "changed a file"
    assert outcome(executes) == "ran code"
