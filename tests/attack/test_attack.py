"""A sample of the bad inputs; all of them: `python tests/attack/run.py`."""

import pickle
import random
import sys

import pytest
from attack.generator import VALUES, Attack, Generator
from attack.run import attempt, prepare

import inference
from diffusion.errors import UserError

SAMPLE, SEED = 50, 0


def check(attacks: list[Attack]) -> None:
    """Each is refused in one sentence or works, and most are refused."""
    refused = 0
    for attack in attacks:
        outcome, shown = attempt(attack)
        assert outcome in ("refused", "works"), f"{outcome}: {attack}\n{shown}"
        refused += outcome == "refused"
    assert refused > len(attacks) / 2


@pytest.mark.slow
def test_bad_inputs_are_refused_in_one_sentence_or_work(code_read_once, tmp_path):
    attacks = Generator(prepare(tmp_path)).all()
    different = {(str(a), a.kind, *map(hash, a.files.values())) for a in attacks}
    assert len(different) > 0.9 * len(attacks) > 3000
    check(random.Random(SEED).sample(attacks, SAMPLE))


def test_bad_values_of_options_are_refused_in_one_sentence_or_work(
    kept_models, tiny_model, tiny_gpt2, tmp_path
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
    check(random.Random(SEED).sample(found, 25))


def test_the_attack_sees_a_fault(monkeypatch):
    """A traceback, a message that steers a terminal, a file that is replaced, a pickle that runs."""

    def outcome(act):
        monkeypatch.setattr(inference, "main", act)
        return attempt(Attack("", "inference", ["The river"]))[0]

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
