"""Held-out text by how much is predicted at once, out of what finetune.py prints."""

import json
import sys

import pytest

from benchmarks import likelihood
from diffusion.errors import UserError

PRINTED = (
    "loading ...\n{'eval_loss': '4', 'eval_nats_per_token': '4', 'eval_standard_error': '0.4', "
    "'eval_nats_per_byte': '1', 'eval_full_nats_per_byte': '1.5', 'eval_full_standard_error_per_byte': "
    "'0.02', 'eval_causal_nats_per_byte': '0.9', 'eval_causal_standard_error_per_byte': '0.01', "
    "'eval_block4_nats_per_byte': '1.2', 'eval_block4_standard_error_per_byte': '0.015'}\ndone\n"
)


def test_what_was_printed_is_what_is_drawn(monkeypatch, tmp_path):
    asked = []

    def run(command, **settings):
        asked.append(command)
        only = PRINTED.split(", 'eval_full")[0] + "}"  # of a model with one way of reading
        return type("Done", (), {"stdout": only if "causal" in command else PRINTED, "stderr": ""})

    monkeypatch.setattr(likelihood.subprocess, "run", run)
    path = tmp_path / "likelihood.json"
    monkeypatch.setattr(
        sys, "argv", ["likelihood.py", str(path), "--texts", "books", "--dataset_dir", "d"]
    )
    likelihood.main()
    found = json.loads(path.read_text())["texts"]["books"]
    assert found["RoBERTa"] == {"full": [1.5, 0.02], "causal": [0.9, 0.01], "block4": [1.2, 0.015]}
    assert found["GPT-2"] == {"causal": [1.0, 0.1]}  # 0.4 a token, four of whose nats are a byte's
    assert likelihood.line(found["RoBERTa"])[:2] == ([1, 4, 256], [0.9, 1.2, 1.5])
    assert likelihood.line(found["RoBERTa"])[2] == pytest.approx([0.0196, 0.0294, 0.0392])
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert all("d/books/valid.txt.xz" in c for c in asked if "finetune.py" in c)
    assert "causal=1,block2=1,block4=1,block8=1,block16=1,block64=1,full=1" in asked[0]


def test_where_nothing_was_measured():
    with pytest.raises(UserError, match=r"has measured nothing: .*no such model"):
        likelihood.numbers("loading\nfinetune.py: no such model")
