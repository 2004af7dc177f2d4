"""benchmarks/constraints.py and fill_in.py: what is given stays, and the rest is what the networks say."""

import json
import random
import sys

import pytest
import torch
from helpers.models import SENTENCES
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from benchmarks import constraints, fill_in, infilling
from diffusion.data.corpus import plain_documents
from diffusion.errors import UserError
from diffusion.evaluation.scorer import load_scorer
from diffusion.generate import load_writer
from diffusion.models.causal import load_causal_writer
from diffusion.models.tokenizers import load_tokenizer

TEXT = "The river runs through the old town. In 1887 the mill was built, and She left it. It burnt."


def run(monkeypatch, script, folder, *flags):
    """What --output has after a run with these flags."""
    out = folder / "out.json"
    monkeypatch.setattr(sys, "argv", ["script", *map(str, flags), "--output", str(out)])
    script.main()
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def writer(tiny_model):
    return load_writer(str(tiny_model), dtype="float32")


@pytest.fixture(scope="module")
def baseline(tiny_gpt2):
    return load_causal_writer(str(tiny_gpt2), dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    """That of the embedded models, to which a word is a token or two."""
    return load_tokenizer("roberta-small-wikitext")


def asked(writer, *texts):
    """Passages of which the first tokens, the last one and some between are given."""
    found = []
    for number, text in enumerate(texts):
        ids = torch.tensor([0, *writer.tokenizer(text, add_special_tokens=False)["input_ids"]])
        given = torch.arange(len(ids)) % (3 + number) == 0
        given[:3] = given[-1] = True
        found.append(constraints.Passage(ids, given, 1))
    return found


def test_a_passage_ends_with_a_sentence(tokenizer):
    def cut(text, least):
        return constraints.to_a_full_stop(tokenizer, text, least)

    assert cut(TEXT, 7) == TEXT.removesuffix(" It burnt.")
    assert cut(TEXT[:60], 7) == "The river runs through the old town."
    assert cut(TEXT[:60], 10) is None
    assert cut("They met Mr. Brown in the old town", 3) is None


def test_what_each_task_gives(tokenizer):
    text = (
        f"{TEXT} Nobody knows who has built it or why, but on the third day of every May it is lit."
    )
    end, length, words = (constraints.task(tokenizer, text, name) for name in constraints.TASKS)
    total = len(end.ids)
    assert tokenizer.decode(end.ids[1:]) == text and 33 < total < 60
    for passage, last in ((end, 16), (length, 1)):
        assert passage.end == last
        assert passage.given.tolist() == [i < 17 or i >= total - last for i in range(total)]
        assert (passage.asked() == passage.ids).equal(passage.given)
        assert passage.beginning().given.nonzero().flatten().tolist() == list(range(17))
    assert tokenizer.decode(length.ids[length.given][17:]) == "."
    kept = tokenizer.decode(words.ids[words.given][1:])
    assert words.end == 0 and kept == "The In 1887 She It Nobody May"
    assert words.beginning().given.sum() == 2  # <s> The
    assert constraints.task(tokenizer, TEXT[:80], "length") is None  # too little to write
    assert constraints.task(tokenizer, TEXT.lower().replace("1887", "may"), "words") is None


@pytest.mark.parametrize("sampler", ["confidence", "first-hitting"])
def test_the_masked_model_keeps_what_is_given_and_sees_it_all(writer, tiny_model, sampler):
    passages = asked(writer, TEXT[:40], TEXT[20:70])
    texts = constraints.by_diffusion(writer, sampler, 0.0, passages)
    network = AutoModelForMaskedLM.from_pretrained(tiny_model).eval()
    for passage, ids in zip(passages, texts, strict=True):
        assert len(ids) == len(passage.ids) and (ids == passage.ids)[passage.given].all()
        # Again, one pass at a time: the surest mask, or the first one.
        mine = passage.asked().masked_fill(~passage.given, 4)
        while (masks := (mine == 4).nonzero().flatten()).numel():
            with torch.no_grad():
                logits = network(mine[None]).logits[0, masks - 1]
            logits[:, :5] = -torch.inf  # special tokens
            sure, tokens = logits.softmax(-1).max(-1)
            which = sure.argmax() if sampler == "confidence" else 0
            mine[masks[which]] = tokens[which]
        assert mine.equal(ids)


def test_gpt2_keeps_what_is_given_and_goes_on_from_it(writer, baseline, tiny_gpt2):
    passages = asked(writer, TEXT[:40], TEXT[20:70])
    network = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    for passage, ids in zip(passages, constraints.in_order(baseline, 0.0, passages), strict=True):
        assert len(ids) == len(passage.ids)
        with torch.no_grad():
            logits = network(ids[None]).logits[0, :-1]
        logits[:, :5] = -torch.inf
        assert ids[1:].equal(passage.ids[1:].where(passage.given[1:], logits.argmax(-1)))
    both = [constraints.in_order(baseline, 1.0, passages, draw) for draw in (0, 0, 1)]
    assert both[0][1].equal(both[1][1]) and not both[0][1].equal(both[2][1])
    alone = constraints.in_order(baseline, 1.0, passages[:1])[0]
    assert alone.equal(both[0][0])  # whatever else is in the batch
    free = constraints.not_told(baseline, 1.0, passages)[0]
    assert free[:4].equal(passages[0].ids[:4]) and not free.equal(both[0][0])


def test_gpt2_draws_by_its_law(writer, baseline, tiny_gpt2):
    """Of 4,000 copies, the second free token behind a given one; top-k 50 and top-p 0.95 as
    transformers has them."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    ids = torch.tensor([0, 20, 30, 40])
    passage = constraints.Passage(ids, torch.tensor([True, False, True, False]))
    texts = torch.stack(constraints.in_order(baseline, 1.0, [passage] * 4000))
    assert (texts[:, 2] == 30).all()
    network = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    first, counts = texts[:, 1].mode().values, torch.zeros(320)
    chosen = texts[texts[:, 1] == first]
    with torch.no_grad():
        logits = network(torch.stack([torch.tensor([0, first, 30])])).logits[:, -1]
    logits[:, :5] = -torch.inf
    logits = TopPLogitsWarper(0.95)(None, TopKLogitsWarper(50)(None, logits))
    expected = logits.softmax(-1)[0] * len(chosen)
    counts = chosen[:, 3].bincount(minlength=320)
    assert not counts[expected == 0].any()
    some = expected > 0
    chi2 = ((counts - expected)[some] ** 2 / expected[some]).sum()
    assert len(chosen) > 200 and chi2 < some.sum() + 5 * (2 * some.sum()) ** 0.5


def test_the_best_is_the_likeliest_of_all(writer, baseline):
    passages = asked(writer, TEXT[:40])
    drawn = [constraints.in_order(baseline, 1.0, passages, draw)[0] for draw in range(4)]
    nats = []
    for ids in drawn:
        text = constraints.text_of(writer.tokenizer, ids)
        again = torch.tensor([[0, *writer.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            log_p = baseline.model(again).logits[0, :-1].log_softmax(-1)
        nats.append(-log_p[torch.arange(1, len(log_p)), again[0, 2:]].sum().item())
    best = constraints.reranked(baseline, 4, passages)[0]
    assert best.equal(drawn[min(range(4), key=nats.__getitem__)]) and len(set(nats)) > 1


def test_what_is_measured_of_a_text(writer, baseline, tiny_gpt2):
    passages = asked(writer, TEXT[:36], TEXT[:36])  # up to the full stop
    good, bad = passages[0].ids, passages[0].ids.clone()
    bad[-1] = 30
    scorer = load_scorer(str(tiny_gpt2))
    found = constraints.columns(writer.tokenizer, passages, [good, bad], [scorer])
    assert found["kept"] == [1, 0]
    with torch.no_grad():
        log_p = baseline.model(good[None]).logits[0, :-1].log_softmax(-1)
    nats = -log_p[torch.arange(len(log_p)), good[1:]]
    assert found[f"nats by {tiny_gpt2}"][0] == pytest.approx(nats[1:].sum().item(), rel=1e-4)
    # Of the end that was asked for, in both.
    assert found[f"of the end by {tiny_gpt2}"] == pytest.approx([nats[-1].item()] * 2, rel=1e-4)


def test_constraints_from_flags_to_json(monkeypatch, tmp_path, capsys, tiny_model, tiny_gpt2):
    texts = [" ".join(SENTENCES[n:] + SENTENCES[:n]) for n in range(4)]  # known to the tokenizer
    monkeypatch.setattr(constraints, "load_documents", lambda *args: texts)
    flags = ("--model", tiny_model, "--baseline", tiny_gpt2, "--scorers", tiny_gpt2,
             "--passage_len", 60, "--candidates", 2)  # fmt: skip
    found = run(monkeypatch, constraints, tmp_path, *flags)
    assert found["text"] == "passages.txt" and list(found["tasks"]) == ["end", "length", "words"]
    for part in found["tasks"].values():
        rows = {row["method"]: row for row in part["rows"]}
        assert part["passages"] > 1
        assert list(rows) == [
            "confidence at 0", "confidence at 1", "left to right at 0", "left to right at 1",
            "GPT-2 at 0", "GPT-2 at 1", "GPT-2, best of 2", "GPT-2 at 1, not told", "what was there",
        ]  # fmt: skip
        told = [row["numbers"]["kept"][0] for name, row in rows.items() if "not told" not in name]
        assert told == [1] * 8 and rows["GPT-2 at 1, not told"]["numbers"]["kept"][0] < 0.5
    assert "tokens to write; more: than confidence at 0" in capsys.readouterr().out
    for more, said in (
        (("--passage_len", 64), "--passage_len 64 must be a number from 41 to 63"),
        (("--baseline", "gpt2-small-wikitext"), "has another vocabulary than "),
        (("--passage_len", 41), "--tasks end: [01] of [0-9]+ passages fit it"),
    ):
        with pytest.raises(UserError, match=said):
            run(monkeypatch, constraints, tmp_path, *flags, *more)


# ---------------------------------------------------------------- learning to fill holes


def test_a_lesson_is_what_the_model_is_asked_later(tokenizer):
    texts = [f"{TEXT} Then it was built again in {year}." for year in range(1900, 1930)]
    found = list(fill_in.lessons(tokenizer, texts, seed=0))
    assert len(found) > 10
    draw, cuts = random.Random(0), []
    for text in texts:
        if hole := infilling.cut(tokenizer, text, draw.choice(infilling.LENGTHS), draw):
            cuts.append(hole)
    for hole, lesson in zip(cuts, plain_documents("\n\n\n".join(found)), strict=True):
        start = hole.told()
        assert lesson == start + hole.span + " |"
        right, left = start.split("\n")
        assert left == hole.left
        assert right == f"{hole.right.strip()} | {len(hole.span.split())}"
    assert len({hole.tokens for hole in cuts}) > 2


def test_who_has_learned_to_fill_says_when_the_hole_is_full(monkeypatch, baseline):
    hole = infilling.Hole("She opened", " the old window", " again.", 4)
    asked, answers = [], iter([" the door | and", " the big old door |", "s all of it and more"])

    def written(writer, prompt, temperature, hole, samples):
        asked.append(prompt)
        return [next(answers)]

    monkeypatch.setattr(infilling, "written", written)
    fills = [infilling.filled_in(baseline, 1.0, hole, [0])[0] for _ in range(3)]
    assert fills == [" the door", " the big old door", "s all of it and more"]
    assert set(asked) == {"again. | 3\nShe opened"}


def test_infilling_with_a_model_that_fills(monkeypatch, tmp_path, tiny_model, tiny_gpt2):
    found = run(monkeypatch, infilling, tmp_path, "--model", tiny_model, "--baseline", tiny_gpt2,
        "--filler", tiny_gpt2, "--scorers", tiny_gpt2, "--lengths", 2, "--passages", 3,
        "--passage_len", 30, "--candidates", 2)  # fmt: skip
    (rows,) = found["tokens"].values()
    assert [row["method"] for row in rows][-4:] == [
        "GPT-2 that fills in at 0", "GPT-2 that fills in at 1", "GPT-2 that fills in, best of 2",
        "what was cut out",
    ]  # fmt: skip


def test_the_text_of_lessons_from_flags(monkeypatch, tmp_path):
    source, out = tmp_path / "text.txt", tmp_path / "lessons.txt"
    source.write_text("\n\n\n".join([TEXT + " " + TEXT] * 8))
    flags = [str(source), "--passage_len", "40"]
    monkeypatch.setattr(sys, "argv", ["fill_in.py", *flags, "--output", str(out)])
    fill_in.main()
    assert len(plain_documents(out.read_text())) > 4
    source.write_text("abc" * 400)
    with pytest.raises(UserError, match="no passage with a hole between words"):
        fill_in.main()
