"""studies/minimal_pairs: the pairs are those that were measured."""

import hashlib
import json

from studies.minimal_pairs import make

DIGEST = "6f524fc84d00d128d344a75598137d312c36e80cd1568eb250f06b4a0f751f3e"


def test_the_pairs_are_the_measured_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(make, "__file__", str(tmp_path / "make.py"))
    make.main()
    written = (tmp_path / "pairs.jsonl").read_bytes()
    assert [json.loads(line) for line in written.splitlines()] == make.pairs()
    assert hashlib.sha256(written).hexdigest() == DIGEST
