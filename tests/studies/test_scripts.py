"""The scripts in studies/ are run by hand: here they are run small."""

import importlib
import itertools
import json
import math
import random
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from diffusion.autoregressive import load_causal_writer
from diffusion.errors import UserError
from diffusion.generate import load_writer
from diffusion.models.linear import Packed, packs
from studies.board.rows import expand, read_grid
from studies.board.scorer import load_scorer

FOLDER = Path(__file__).resolve().parents[2] / "studies"


def load(name):
    return importlib.import_module(f"studies.{name}")


@pytest.fixture
def run_study(monkeypatch, tmp_path, capsys):
    """Runs one here: (name, its flags) -> (what --output has, what it printed)."""

    def run(name, *flags):
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, flags), "--output", str(out)])
        load(name).main()
        return json.loads(out.read_text()), capsys.readouterr().out

    return run


def test_every_study_can_be_imported():
    for path in FOLDER.glob("*.py"):
        assert load(path.stem).__doc__


@pytest.mark.slow
def test_the_loop_and_a_sweep_small(run_study, monkeypatch, tmp_path, tiny_model, tiny_gpt2):
    small = ["--model", tiny_model, "--length", 24, "--n_steps", 3]
    monkeypatch.setattr(load("loop"), "product_rates", lambda *_: {"square": 1e11})
    flags = ["--batch_sizes", 2, "--repeats", 1, "--dtype", "float32"]
    for more in ([], ["--soft_masking"]):
        found, said = run_study("loop", *small, "--samplers", "confidence", *flags, *more)
        (row,) = found["results"]
        assert row["forwards"] == 3 and row["ratio_range"][0] <= row["ratio"] and "ratio" in said
    assert row["flop"] is None  # with soft-masking two loops are compared

    sweep = load("sweep")
    monkeypatch.setattr(sweep, "STEPS", (1, 2))
    monkeypatch.setattr(sweep, "LENGTHS", (4,))
    flags = ["--model", tiny_model, "--baseline", tiny_gpt2, "--repeats", 1]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, flags), "--output_dir", str(tmp_path)])
    sweep.main()
    found = json.loads((tmp_path / "sweep.json").read_text())["results"]
    assert [(r["steps"], r["new_tokens"]) for r in found[:3]] == [(None, 4), (1, 4), (2, 4)]
    assert [r["nfe"] for r in found[:3]] == [4, 1, 2] and (tmp_path / "sweep.png").exists()


def test_the_tables_of_samplers(monkeypatch, capsys):
    """All samplers with their options, and the rows of a run but for what they have in common."""
    folder = FOLDER / "results" / "passes" / "results.json"
    monkeypatch.setattr(sys, "argv", ["samplers.py", "--results", str(folder)])
    load("samplers").main()
    facts, numbers = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert len(facts) == 2 + len(load("samplers").SAMPLERS)
    assert any("| `remdm` |" in line and "`--n_steps remask eta" in line for line in facts)
    data = json.loads(folder.read_text())
    rows = [row for row in data["rows"] if row["conditional"]]
    assert len(numbers) == 2 + len(rows)
    cells = [[cell.strip() for cell in line.split("|")] for line in numbers[2:]]
    for row, (_, _how, rate, *_) in zip(rows, cells, strict=True):
        length, passes = (row["metrics"].get(name, [0])[0] for name in ("length", "nfe"))
        assert rate == (f"{length / passes:.2f}" if passes else "")


@pytest.mark.parametrize("grid", sorted(path.stem for path in (FOLDER / "grids").glob("*.toml")))
def test_the_rows_of_a_grid_can_be_written(grid):
    found = expand(read_grid(str(FOLDER / "grids" / f"{grid}.toml")).tables, [])
    for row in found:
        causal = Path(row.model).name.startswith("gpt2")
        (row.options.shared() if causal else row.options).check()
    assert found


def test_seeds_are_pooled_and_prompts_paired(monkeypatch, tmp_path, capsys):
    """Against the same by hand: nats 2 and tokens 1 of each prompt and seed more or less."""
    nats = {"a-1": [[4, 2], [6, 3]], "a-2": [[5, 2], [7, 3]], "b-1": [[6, 2], [9, 3]],
            "b-2": [[7, 2], [10, 3]], "b-3": [[99, 1], [99, 1]]}  # fmt: skip
    (tmp_path / "rows").mkdir()
    for name, values in nats.items():
        row = {"model": name, "settings": {"sampler": "seed", "n_steps": 4}}
        for scorer, factor in (("one", 1), ("other", 3)):
            judged = [[factor * n, tokens] for n, tokens in values]
            row |= {"scorer": scorer, "nats": judged}
            (tmp_path / "rows" / f"{name}-{scorer}.json").write_text(json.dumps(row))
    flags = [str(tmp_path), "--model", "a", "--against", "b"]
    monkeypatch.setattr(sys, "argv", ["paired.py", *flags])
    with pytest.raises(UserError, match="judged by one and other; choose one by --scorer"):
        load("paired").main()
    monkeypatch.setattr(sys, "argv", ["paired.py", *flags, "--scorer", "runs/one"])
    load("paired").main()
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")]
    assert cells[1] == "`seed`, 4" and cells[6] == "2"  # the third seed of b has no partner
    assert cells[5].startswith(f"{math.exp((22 - 32) / 10):.2f} (")


# ---------------------------------------------------------------- infilling


def test_rouge_l_against_all_subsequences():
    rouge_l, draw = load("infilling").rouge_l, random.Random(0)
    for _ in range(100):
        a, b = ([draw.choice("xyz") for _ in range(draw.randint(1, 6))] for _ in range(2))
        parts = [
            {s for n in range(len(side) + 1) for s in itertools.combinations(side, n)}
            for side in (a, b)
        ]
        longest = max(map(len, parts[0] & parts[1]))
        precision, recall = longest / len(a), longest / len(b)
        f1 = 2 * precision * recall / (precision + recall) if longest else 0
        assert rouge_l(a, b) == pytest.approx(f1)
    assert rouge_l([], ["x"]) == 0


def test_a_gap_stands_between_words(tiny_model):
    infilling, tokenizer = load("infilling"), load_writer(str(tiny_model)).tokenizer
    text = "The river runs through the old town and under the stone bridge, and the mill was built."
    places = {infilling.cut(tokenizer, text, 2, random.Random(seed)) for seed in range(20)}
    assert {gap.span for gap in places} == {" old", " stone"}  # those of 2 tokens
    for gap in places:
        assert gap.left + gap.span + gap.right == text
        assert gap.span[0] == gap.right[0] == " "
    assert infilling.cut(tokenizer, "abc" * 20, 2, random.Random(0)) is None
    text = " ".join(["The mill was built."] * 5)
    gap = infilling.cut(tokenizer, text, infilling.SENTENCE, random.Random(0))
    assert gap.span == " The mill was built." and gap.left + gap.span + gap.right == text
    assert infilling.cut(tokenizer, text[:30], infilling.SENTENCE, random.Random(0)) is None


def test_a_sentence_stands_between_full_stops():
    text = 'He met Dr. Brown in 1946. She left the U.S. in May! They slept. 33 came. "No." It did.'
    infilling = load("infilling")
    pieces = re.findall(r" ?\S+", text)
    found = ["".join(pieces[i:j]) for i, j in infilling.sentences(pieces)]
    # "33 came." begins with no capital, so it is none, and neither is what stands before it.
    assert found == [" She left the U.S. in May!"]
    for more, places in ((30, [(1, 33)]), (31, [])):  # 32 tokens, and 33
        assert infilling.sentences(["Well.", " Go", *[" on"] * more, ".", " We"]) == places


def test_what_is_measured_of_a_fill(tiny_model, tiny_gpt2):
    infilling = load("infilling")
    baseline = load_causal_writer(str(tiny_gpt2))
    gap = infilling.Gap("She opened the", " window and", " listened to the rain.", 3)

    def nats(text):
        """Of all tokens but the first, by transformers' own loss."""
        ids = torch.tensor([[0, *baseline.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        labels = ids.clone()
        labels[:, 1] = -100
        model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
        return model(input_ids=ids, labels=labels).loss.item() * (ids.shape[1] - 2)

    fills = [" Window, and", " and a"]
    scorer = load_scorer(str(tiny_gpt2))
    found = infilling.columns(baseline.tokenizer, [gap] * 2, fills, [scorer])
    assert found["ROUGE-L"] == [1, 0.5] and found["exact"] == [1, 0]
    sizes = [len(baseline.tokenizer(fill, add_special_tokens=False)["input_ids"]) for fill in fills]
    assert found["tokens"] == sizes
    # By differences of whole texts, each read by itself.
    lefts = [nats(gap.left + fill) for fill in fills]
    each = [(left - nats(gap.left)) / n for left, n in zip(lefts, sizes, strict=True)]
    whole = [nats(gap.left + fill + gap.right) for fill in fills]
    behind = [both - left for both, left in zip(whole, lefts, strict=True)]
    assert found[f"a token by {tiny_gpt2}"] == pytest.approx(each, rel=1e-3)
    assert found[f"right side by {tiny_gpt2}"] == pytest.approx(behind, rel=1e-3)
    # The best of several is the likeliest of what was written, and as long as the gap.
    fills = infilling.continued(baseline, 1.0, gap, [3, 4, 5])
    assert len(set(fills)) == 3 and all(len(fill.split()) <= 3 for fill in fills)
    best = min(fills, key=lambda fill: nats(gap.left + fill + gap.right))
    assert infilling.reranked(infilling.continued, baseline, baseline, 3, gap, 1) == best


@pytest.mark.slow
def test_infilling_from_flags_to_json(run_study, tiny_model, tiny_gpt2):
    flags = ("--model", tiny_model, "--baseline", tiny_gpt2, "--filler", tiny_gpt2, "--scorers",
             tiny_gpt2, "--lengths", 2, "--passages", 3, "--candidates", 2, "--passage_len")  # fmt: skip
    found, said = run_study("infilling", *flags, 30)
    assert found["text"] == "passages.txt"
    (rows,) = found["tokens"].values()
    assert [row["method"] for row in rows] == [
        "confidence at 0", "confidence at 1", "left to right at 0", "left to right at 1",
        "ancestral at 0", "ancestral at 1", "GPT-2 at 0", "GPT-2 at 1", "GPT-2, best of 2",
        "GPT-2 that fills in at 0", "GPT-2 that fills in at 1", "GPT-2 that fills in, best of 2",
        "what was cut out",
    ]  # fmt: skip
    assert rows[-1]["numbers"]["ROUGE-L"] == [1, 1, 1] and rows[-1]["numbers"]["exact"][0] == 1
    nats = f"right side by {tiny_gpt2}"
    assert rows[0]["more"][nats] == [0, 0, 0]
    difference = rows[7]["numbers"][nats][0] - rows[0]["numbers"][nats][0]
    assert rows[7]["more"][nats][0] == pytest.approx(difference)
    assert "gaps of 2 tokens; more: than confidence at 0" in said
    with pytest.raises(UserError, match=r"has 64 positions, .* use a smaller --passage_len"):
        run_study("infilling", *flags, 58)


# ---------------------------------------------------------------- training


def test_the_recipe_it_began_with_is_timed_beside_the_layouts(run_study, monkeypatch, tiny_model):
    monkeypatch.setattr(load("training"), "product_rate", lambda *_, **__: 1e9)
    flags = ["--model", tiny_model, "--layouts", "full", "--batch_size", 2, "--length", 15]
    data, out = run_study("training", *flags, "--repeats", 2, "--dtype", "bfloat16")
    found = {r["layout"]: r for r in data["results"]}
    assert list(found) == ["full", "reference", "reference, float32"] and "tokens/s" in out
    vocab, width = AutoModelForMaskedLM.from_pretrained(tiny_model).lm_head.decoder.weight.shape
    # Logits of all slots are 3 x 2 operations for each weight of the head and slot, whatever is masked.
    head = 3 * 2 * (vocab * width + width * width) * 2 * 16
    more = found["reference"]["flop"] - found["full"]["flop"]
    assert 0 <= more < head < found["reference"]["flop"] == found["reference, float32"]["flop"]
    assert all(r["tokens_per_second"] > 0 for r in found.values())


@pytest.mark.slow
def test_blocks_are_timed_against_a_cached_model(run_study, tiny_model, tiny_gpt2):
    data, _ = run_study("speed", "--model", tiny_model, "--baseline", tiny_gpt2, "--prompt",
        "The river", "--length", 16, "--batch_sizes", 1, 2, "--repeats", 1)  # fmt: skip
    found = {(int(n), r["way"]): r for n, some in data["results"].items() for r in some}
    assert len(found) == 16
    for batch in (1, 2):
        # A block in so many passes; one token a pass for who reads from left to right.
        passes = {way: r["passes"] for (size, way), r in found.items() if size == batch}
        assert list(passes.values()) == [16, 16, 4, 8, 16, 16, 10, 16] and "GPT-2" in passes
        assert found[batch, "GPT-2"]["times_as_fast"] == 1
    for (batch, _), r in found.items():
        assert r["tokens_per_second"] == pytest.approx(batch * 16 / r["seconds"])
        least, most = r["times_as_fast_range"]
        assert 0 < least <= r["times_as_fast"] <= most


def test_what_is_timed_is_packed_as_what_writes_is_and_the_other_is_not():
    writer = load_causal_writer("gpt2-small-wikitext", dtype="float32")
    cpu = writer.device, torch.float32
    made = load("machine").random_model(AutoModelForCausalLM, writer.model.config, *cpu)
    plain = load("speed").unpacked(writer).model
    for model, packed in ((writer.model, packs(*cpu)), (made, packs(*cpu)), (plain, False)):
        assert sum(isinstance(part, Packed) for part in model.modules()) == 25 * packed
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        found = plain(ids).logits
        torch.testing.assert_close(writer.model(ids).logits, found, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- memory


def test_what_a_generation_holds_at_its_peak(run_study, monkeypatch):
    """What must be there is known from the shape: two layers of width 8, 32 tokens."""
    memory = load("memory")
    monkeypatch.setitem(memory.SIZES, "small", (2, 8, 1, 32))

    def here(shape, way, batch, args):  # not in a process of its own
        cpu = torch.device("cpu"), torch.float32
        return memory.measure(shape, way, batch, args.length, args.n_steps, *cpu)

    monkeypatch.setattr(memory, "apart", here)
    found, said = run_study("memory", "--shapes", "small", "--ways", "guidance", "--batch_sizes", 4,
        "--length", 96, "--dtype", "float32", "--device", "cpu")  # fmt: skip
    (row,) = found["results"]
    assert row["rows_of_logits"] == 4 * 80  # 16 tokens are given
    assert row["logits"] == 4 * 80 * 32 * 4
    body = 2 * (12 * 8**2 + 13 * 8)
    assert row["weights"] == 4 * (body + 32 * 8 + 32 + 98 * 8 + 8 + 2 * 8 + 8**2 + 3 * 8)
    assert row["peak"] >= row["libraries"] > 0
    assert said.splitlines()[-1].split()[:3] == ["small", "guidance", "4"]
