"""Held-out text by how much is predicted at once, out of what finetune.py prints."""

import json
import statistics
import sys
from pathlib import Path

import pytest

from diffusion.errors import UserError
from studies import likelihood

PRINTED = (
    "loading ...\n{'eval_loss': '4', 'eval_nats_per_token': '4', 'eval_standard_error': '0.4', "
    "'eval_nats_per_byte': '1'"
)
MORE = (
    ", 'eval_{0}_nats_per_token': '{1}', 'eval_{0}_standard_error': '0.2', "
    "'eval_{0}_nats_per_byte': '{2}', 'eval_{0}_standard_error_per_byte': '0.05'"
)
WAYS = {"full": (6, 1.5), "causal": (3.6, 0.9), "block4": (4.8, 1.2)}


def test_what_was_printed_is_what_is_drawn(monkeypatch, tmp_path):
    asked, unpatched = [], likelihood.subprocess.run

    def run(command, **settings):
        if "--eval_blocks_file" not in command:  # the standard library asks for the processor
            return unpatched(command, **settings)
        asked.append(command)
        roberta = "causal" not in command
        many = "".join(MORE.format(k, *v) for k, v in WAYS.items()) if roberta else ""
        by_block = {"full": [6, 7, 5], "causal": [3, 4, 5], "block4": [4, 5]}
        by_block = by_block if roberta else {"causal": [2, 2.5, 3]}
        Path(command[command.index("--eval_blocks_file") + 1]).write_text(json.dumps(by_block))
        return type("Done", (), {"stdout": PRINTED + many + "}\ndone\n", "stderr": ""})

    monkeypatch.setattr(likelihood.subprocess, "run", run)
    path = tmp_path / "likelihood.json"
    monkeypatch.setattr(
        sys, "argv", ["likelihood.py", str(path), "--texts", "books", "--dataset_dir", "d"]
    )
    likelihood.main()
    found = json.loads(path.read_text())["texts"]["books"]
    assert found["blocks"] == 128
    beyond = {"full": ([4, 4.5, 2], 3.5), "causal": ([1, 1.5, 2], 1.5), "block4": ([2, 2], 2)}
    for name, (token, byte) in WAYS.items():
        differences, mean = beyond[name]  # of two blocks the first and the last
        error = statistics.stdev(differences) / len(differences) ** 0.5
        assert found["RoBERTa"][name] == {
            "per_token": [token, 0.2], "per_byte": [byte, 0.05], "more": pytest.approx([mean, error])
        }  # fmt: skip
    # A token has four times the nats of a byte.
    assert found["GPT-2"] == {"causal": {"per_token": [4, 0.4], "per_byte": [1, 0.1]}}
    x, y, half = likelihood.line(found["RoBERTa"])
    assert (x, y) == ([1, 4, 256], [0.9, 1.2, 1.5]) and half == pytest.approx([0.098] * 3)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sum(part.endswith("/d/books/valid.txt.xz") for c in asked for part in c) == 2
    assert "causal=1,block2=1,block4=1,block8=1,block16=1,block64=1,full=1" in asked[0]


def test_where_nothing_was_measured():
    with pytest.raises(UserError, match=r"has measured nothing: .*no such model"):
        likelihood.numbers("loading\nfinetune.py: no such model")
