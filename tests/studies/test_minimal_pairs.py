"""studies/minimal_pairs: the pairs are those that were measured, as many of each kind."""

import hashlib
import json
from collections import Counter

from studies.minimal_pairs import make

PAIRS = make.pairs()
DIGEST = "6f524fc84d00d128d344a75598137d312c36e80cd1568eb250f06b4a0f751f3e"


def test_the_pairs_are_the_measured_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(make, "__file__", str(tmp_path / "make.py"))
    make.main()
    written = (tmp_path / "pairs.jsonl").read_bytes()
    assert [json.loads(line) for line in written.splitlines()] == PAIRS
    assert hashlib.sha256(written).hexdigest() == DIGEST


def test_every_phenomenon_has_as_many_different_pairs():
    assert Counter(pair["phenomenon"] for pair in PAIRS) == dict.fromkeys(make.PHENOMENA, 100)
    assert len({(pair["sentence_good"], pair["sentence_bad"]) for pair in PAIRS}) == 1200
    # Neither form of the word that decides is right more often for its own sake.
    for name, forms in {
        "subject_verb_agreement": (" was ", " were "),
        "agreement_over_a_clause": (" was ", " were "),
        "reflexive_gender": (" himself", " herself"),
    }.items():
        good = [pair["sentence_good"] for pair in PAIRS if pair["phenomenon"] == name]
        assert all(35 <= sum(form in sentence for sentence in good) <= 65 for form in forms)
