"""Grids, keys and the folder in which rows are kept."""

import json
import os
from pathlib import Path

import pytest
import torch

from diffusion.errors import UserError
from diffusion.models.loading import load_causal_lm
from diffusion.models.tokenizers import load_tokenizer
from diffusion.options import GenerationOptions
from studies.board import rows
from studies.board.rows import Row, Store, expand

MODELS = ["a", "b"]


def toml(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return str(path)


def test_a_list_makes_a_row_of_each_element(tmp_path):
    text = """title = 'How many?'\nabout = 'Scoreboard of steps.'\n[defaults]\ntop_k = 0
        [[row]]\nmodel = 'm'\nsampler = 'seed'\nn_steps = [4, 8]\ntemperature = [1, 0.5]
        [[row]]\nmodel = 'm'\ntop_k = 3\nconditional = [true, false]"""
    grid = rows.read_grid(toml(tmp_path, text))
    assert (grid.title, grid.about) == ("How many?", "Scoreboard of steps.")
    found = expand(grid.tables, MODELS)
    assert [(r.options.n_steps, r.options.temperature) for r in found[:4]] == [
        (4, 1), (4, 0.5), (8, 1), (8, 0.5)
    ]  # fmt: skip
    assert [r.options.top_k for r in found] == [0, 0, 0, 0, 3, 3]
    assert [r.conditional for r in found[4:]] == [True, False]
    assert found[0].settings() == {"sampler": "seed", "n_steps": 4, "top_k": 0}
    assert Row("real text", True).settings() == {}


def test_every_option_of_generation_may_stand_in_a_table():
    """So that a new sampler needs nothing here."""
    from dataclasses import fields

    samples = {int: 3, float: 0.5, str: "x", bool: True}
    types = rows._field_types()
    table = {
        f.name: next(samples[t] for t in types[f.name] if t in samples)
        for f in fields(GenerationOptions)
    }
    (row,) = expand([{"model": "m", **table}], MODELS)
    assert row.options == GenerationOptions(**table)


BAD_GRIDS = {
    "not TOML": ("[[row", "is not TOML"),
    "no row": ("", "no [[row]]"),
    "rows that are no tables": ("row = [1]", "no [[row]]"),
    "something else": ("[[row]]\n[other]\n", "'other'"),
    "a title that is no text": ("title = 3\n[[row]]", "title = 3"),
    "unknown field": ("[[row]]\nn_step = 4", "did you mean 'n_steps'"),
    "a word for a number": ("[[row]]\nn_steps = 'four'", "must be of type int"),
    "a number for a truth": ("[[row]]\nconditional = 1", "must be of type bool"),
    "one bad of a list": ("[[row]]\ntemperature = [1.0, 'hot']", "'hot'"),
    "an empty list": ("[[row]]\nn_steps = []", "no value for 'n_steps'"),
}


@pytest.mark.parametrize("case", BAD_GRIDS)
def test_a_bad_grid_gets_one_sentence(case, tmp_path):
    text, named = BAD_GRIDS[case]
    with pytest.raises(UserError) as error:
        expand(rows.read_grid(toml(tmp_path, text)).tables, MODELS)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_a_digest_depends_on_everything_and_on_nothing_else():
    assert rows.digest({"a": 1, "b": [2, "ü"]}) == rows.digest({"b": [2, "ü"], "a": 1})
    assert rows.digest({"a": 1}) != rows.digest({"a": 1.5}) != rows.digest({"b": 1.5})


def test_a_digest_of_code_follows_its_imports(tmp_path, monkeypatch):
    folder = tmp_path / "diffusion"
    (folder / "p").mkdir(parents=True)
    first = "from diffusion.b import x\nfrom diffusion import c\nfrom diffusion.p import e"
    code = {"a": first, "c": "def f():\n    from diffusion.p.g import y"}
    for name in ("a", "b", "c", "d", "p/e", "p/g"):
        (folder / f"{name}.py").write_text(code.get(name, ""))
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    before = rows.code_digest("diffusion.a")
    (folder / "d.py").write_text("3")
    assert rows.code_digest("diffusion.a") == before
    for name in ("p/g", "p/e", "c"):
        (folder / f"{name}.py").write_text("5")
        after = rows.code_digest("diffusion.a")
        assert after != before
        before = after
    with pytest.raises(ValueError, match="no module nothing"):
        rows.code_digest("nothing")


def test_a_model_is_known_by_its_weights(tiny_gpt2):
    tokenizer = load_tokenizer(str(tiny_gpt2), needs_mask=False)
    model = load_causal_lm(str(tiny_gpt2))
    before = rows.model_digest(model, tokenizer)
    assert before == rows.model_digest(load_causal_lm(str(tiny_gpt2)), tokenizer)
    assert before != rows.model_digest(model.to(torch.bfloat16), tokenizer)
    model = load_causal_lm(str(tiny_gpt2))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    assert before != rows.model_digest(model, tokenizer)


# ---------------------------------------------------------------- files

SAMPLE = {"prompt": "a", "text": " b\u2028c\n", "ids": [1, 2], "finished": False, "nfe": 3,
          "seconds": 0.5}  # fmt: skip


def test_texts_survive_the_store(tmp_path):
    store = Store(tmp_path)
    assert not store.has_texts("k")
    store.write_texts("k", [SAMPLE, SAMPLE])
    assert store.has_texts("k") and store.read_texts("k", 2) == [SAMPLE, SAMPLE]
    assert os.listdir(tmp_path / "generations") == ["k.jsonl"]
    store.write_row("r", {"x": [1.5, float("nan")]})
    assert store.read_row("r")["x"][0] == 1.5 and store.has_row("r") and not store.has_row("k")


DAMAGE = {
    "empty": ("", "is empty"),
    "cut off": ('{"prompt": "a", "te', "is damaged"),
    "another kind": ('{"a": 1}\n', "is damaged"),
    "a list": ("[1]\n", "is damaged"),
    "deep": ("[" * 9000 + "]" * 9000, "is damaged"),
    **{f"{name} {value}": (json.dumps(SAMPLE | {name: value}) + "\n", "is damaged") for name, value in
       [("text", 5), ("ids", "12"), ("ids", [-1]), ("nfe", 1e400), ("seconds", "1"), ("finished", 1)]},
    "too few": ('{"prompt": "", "text": "", "ids": [], "finished": true, "nfe": 1, "seconds": 1}\n',
                "has 1 texts, 2 are expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_generations(case, tmp_path):
    content, named = DAMAGE[case]
    store = Store(tmp_path)
    store.write_texts("k", [SAMPLE])
    store.texts_path("k").write_text(content)
    with pytest.raises(UserError) as error:
        store.read_texts("k", 2)
    assert named in str(error.value) and "delete it" in str(error.value)


def test_rows_of_another_version_or_damaged(tmp_path):
    store = Store(tmp_path)
    store.write_row("r", {})
    store.row_path("r").write_text('{"version": 99}')
    with pytest.raises(UserError, match="version 99"):
        store.read_row("r")
    store.row_path("r").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        store.read_row("r")
    store.write_row("s", {"metrics": {"gen_ppl": [120.0, 110.0, float("nan")]}, "n": 3})
    changed = store.row_path("s").read_text().replace("120.0", "12.0")
    store.row_path("s").write_text(changed)
    with pytest.raises(UserError, match="damaged"):
        store.read_row("s")


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write_texts("a", [SAMPLE])

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        store.write_texts("b", [SAMPLE])
    assert os.listdir(tmp_path / "generations") == ["a.jsonl"]


def test_stored_rows_that_do_not_fit_are_counted(tmp_path):
    store = Store(tmp_path)
    assert store.misfits(["a"]) is None  # nothing is stored
    store.write_row("a", {})
    assert store.misfits(["a", "b"]) is None  # one row more
    store.write_row("b", {})
    assert store.misfits(["a"]) is None  # one row less
    assert store.misfits(["a", "c"]) == (
        f"1 of 2 stored rows in {tmp_path} do not fit, because the program, its libraries, the "
        "settings or the machine changed since; 1 are measured again"
    )
