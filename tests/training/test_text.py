"""Which text is trained on: columns of tables, the first blocks, streams."""

import json

import pytest
from helpers.training import assert_same_weights, losses

from diffusion.data import corpus


@pytest.fixture
def table(text, tmp_path):
    """The documents of `text` as JSON lines."""
    documents, path = corpus.load_documents(text), tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps({"id": 1, "story": d}) + "\n" for d in documents))
    return path


def test_a_table_and_a_stream_of_it_are_the_text(run, warm, text, table, tmp_path):
    flags = ["--max_steps", 4, "--max_eval_blocks", 2, "--max_train_samples", 12]
    ways = {
        "text": ["--dataset", text],
        "table": ["--dataset", table, "--text_column", "story"],
        "stream": ["--dataset", table, "--text_column", "story", "--streaming"],
    }
    for name, way in ways.items():
        _, err = run(*flags, *way, name=name, start=["--model", warm])
        assert "in 10 blocks" in err  # two of twelve are held out
    for name in ("table", "stream"):
        assert losses(tmp_path / name) == losses(tmp_path / "text")
        assert_same_weights(
            tmp_path / name / "model.safetensors", tmp_path / "text/model.safetensors"
        )


def test_the_first_blocks_are_those_of_all(run, text, seen):
    """Which they are, from what is seen in an epoch of them."""
    _, err = run("--eval_dataset", text, "--num_train_epochs", 1, "--max_train_samples", 8)
    assert "in 8 blocks" in err
    assert sum(len(batch["input_ids"]) for batch in seen) == 8
