"""Which text is trained on: columns of tables, the first blocks, streams."""

import json

import pytest
from helpers.training import RUN, SIZE, assert_same_weights, files, losses, one_sentence

from diffusion.data import corpus


@pytest.fixture
def table(text, tmp_path):
    """The documents of `text` as JSON lines."""
    documents, path = corpus.load_documents(text), tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps({"id": 1, "story": d}) + "\n" for d in documents))
    return path


def test_a_table_and_a_stream_of_it_are_the_text(train, warm, text, table, tmp_path):
    flags = [*RUN, "--model", warm, "--max_steps", 4, "--max_eval_blocks", 2]
    ways = {
        "text": ["--dataset", text],
        "table": ["--dataset", table, "--text_column", "story"],
        "stream": ["--dataset", table, "--text_column", "story", "--streaming"],
    }
    for name, way in ways.items():
        code, err = train(*flags, *way, "--max_train_samples", 12, "--output_dir", tmp_path / name)
        assert code == 0, err
        assert "in 10 blocks" in err  # two of twelve are held out
    for name in ("table", "stream"):
        assert losses(tmp_path / name) == losses(tmp_path / "text")
        assert_same_weights(
            tmp_path / name / "model.safetensors", tmp_path / "text/model.safetensors"
        )


def test_the_first_blocks_are_those_of_all(train, text, tmp_path, seen):
    """Which they are, from what is seen in an epoch of them."""
    out = tmp_path / "out"
    code, err = train(*RUN, *SIZE, "--dataset", text, "--eval_dataset", text, "--num_train_epochs", 1,
                      "--max_train_samples", 8, "--output_dir", out)  # fmt: skip
    assert code == 0, err
    assert "in 8 blocks" in err
    assert sum(len(ids) for _, ids in seen) == 8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max_train_samples", 0], ["--max_train_samples 0", "at least 1"]),
        (["--text_column", "story"], ["no column 'story'", "--text_column"]),
    ],
)
def test_what_cannot_be_read_is_refused(train, tmp_path, flags, words):
    (tmp_path / "table.jsonl").write_text('{"text": "a"}\n')
    before = files(tmp_path)
    code, err = train(*RUN, *SIZE, "--dataset", tmp_path / "table.jsonl", "--output_dir",
                      tmp_path / "out", *flags)  # fmt: skip
    assert code == 2
    one_sentence(err, *words)
    assert files(tmp_path) == before
