"""A sample of the bad inputs; all of them: `python tests/attack/run.py`."""

import random

import pytest
from attack.generator import Attack, Generator
from attack.run import attempt, prepare

SAMPLE, SEED = 90, 0
PARTS = 2  # for as many workers


@pytest.fixture(scope="module")
def attacks(code_read_once, tmp_path_factory):
    return Generator(prepare(tmp_path_factory.mktemp("given"))).all()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_bad_inputs_are_refused_in_one_sentence_or_work(attacks, part):
    sample = random.Random(SEED).sample(attacks, SAMPLE)[part::PARTS]
    refused = 0
    for attack in sample:
        outcome, shown = attempt(attack)
        assert outcome in ("refused", "works"), f"{outcome}: {attack}\n{shown}"
        refused += outcome == "refused"
    assert refused > len(sample) / 2  # they are bad


def test_the_attack_sees_a_fault(attacks, monkeypatch):
    """A traceback, a message of two lines, a file that is replaced, and a pickle that runs."""
    import inference
    from diffusion.errors import UserError

    attack = Attack("", "inference", ["The river"])

    def outcome(act):
        monkeypatch.setattr(inference, "main", act)
        return attempt(attack)[0]

    def sentence():
        raise UserError("one")

    def steers():
        raise SystemExit(print("\x1b[2J", file=__import__("sys").stderr) or 2)

    def replaces():
        open("prompts.txt", "w").close()
        raise UserError("one")

    def executes():
        import pickle

        with open("pickle", "rb") as file:
            pickle.load(file)

    assert outcome(lambda: None) == "works"
    assert outcome(sentence) == "refused"
    assert outcome(lambda: 1 / 0) == "traceback"
    assert outcome(steers) == "control characters"
    assert outcome(replaces) == "changed a file"
    assert outcome(executes) == "ran code"
    assert len({str(a) + a.kind + str(a.files) for a in attacks}) > 0.95 * len(attacks) > 3000
