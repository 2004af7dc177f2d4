"""Texts to distil from: what the model writes causally after real first sentences."""

import json
import sys

import pytest
from helpers.models import save_roberta

from diffusion.errors import UserError
from diffusion.generate import load_writer
from studies import distill

DOCUMENTS = [f"The river runs past {n} houses. It is long. Boats go on it." for n in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    save_roberta(folder / "model", layouts={"causal": 1.0, "block4": 1.0})
    (folder / "text.txt").write_text("\n\n\n".join([*DOCUMENTS, "Go!"]))
    return folder


@pytest.fixture
def distilled(folder, monkeypatch, tmp_path):
    def run(*flags, name="own.jsonl"):
        argv = ["distill.py", folder / "text.txt", "--model", folder / "model", "--texts", 6,
                "--batch_size", 4, "--output", tmp_path / name, *flags]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(x) for x in argv])
        distill.main()
        return [json.loads(line)["text"] for line in (tmp_path / name).read_text().splitlines()]

    return run


def test_texts_go_on_from_first_sentences_and_end_with_a_whole_one(distilled, folder):
    texts = distilled("--real", 0.5)
    real = [text for text in texts if text in DOCUMENTS]
    assert len(texts) == 9 and len(real) == 3
    for text in texts:
        assert any(text.startswith(d[: d.index(".") + 1]) for d in DOCUMENTS)
        assert text.rstrip("\"'\u201d")[-1] in ".!?"
    # Alone, a text is the same.
    number = next(n for n, text in enumerate(texts) if text not in real)
    prompt = texts[number][: texts[number].index(".") + 1]
    writer = load_writer(str(folder / "model"), dtype="float32")
    assert distill.continued(writer, [prompt], 0.7, [number]) == [texts[number]]


def test_a_run_goes_on_where_it_was_and_nothing_else_is_overwritten(distilled, tmp_path):
    whole = distilled("--dtype", "float32")
    lines = (tmp_path / "own.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "begun.jsonl").write_text("".join(lines[:5]))
    assert distilled("--dtype", "float32", name="begun.jsonl") == whole
    for content in ("something\n", "".join(lines[1:]), "".join([*lines, lines[0]])):
        (tmp_path / "other.jsonl").write_text(content)
        with pytest.raises(UserError, match=r"other\.jsonl holds something else"):
            distilled(name="other.jsonl")
        assert (tmp_path / "other.jsonl").read_text() == content


def test_too_few_documents_are_said(distilled):
    with pytest.raises(UserError, match="--texts 40: only 20 documents have a first sentence"):
        distilled("--texts", 40)
