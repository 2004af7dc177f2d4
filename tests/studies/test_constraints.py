"""studies/constraints.py and fill_in.py: what is given stays, and the rest is what the networks say."""

import json
import re
import sys
from collections import Counter

import pytest
import torch
from helpers.models import SENTENCES
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from diffusion.autoregressive import load_causal_writer
from diffusion.data import packing
from diffusion.data.corpus import plain_documents
from diffusion.errors import UserError
from diffusion.generate import load_writer
from diffusion.models.tokenizers import load_tokenizer
from studies import constraints, fill_in, infilling
from studies.board.scorer import load_scorer

TEXT = "The river runs through the old town. In 1887 the mill was built, and She left it. It burnt."


def run(monkeypatch, script, folder, *flags):
    """What --output has after a run with these flags."""
    out = folder / "out.json"
    monkeypatch.setattr(sys, "argv", ["script", *map(str, flags), "--output", str(out)])
    script.main()
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def baseline(tiny_gpt2):
    return load_causal_writer(str(tiny_gpt2), dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    """That of the embedded models, to which a word is a token or two."""
    return load_tokenizer("roberta-small-wikitext")


def passages_of(writer, *texts):
    """Passages of which the first tokens, the last one and some between are given."""
    found = []
    for number, text in enumerate(texts):
        ids = torch.tensor([0, *writer.tokenizer(text, add_special_tokens=False)["input_ids"]])
        given = torch.arange(len(ids)) % (3 + number) == 0
        given[:3] = given[-1] = True
        found.append(constraints.Passage(text, ids, given, torch.zeros_like(ids), 1))
    return found


def test_a_passage_ends_with_a_sentence(tokenizer):
    def cut(text, least):
        return constraints.to_a_full_stop(tokenizer, text, least)

    assert cut(TEXT, 7) == TEXT.removesuffix(" It burnt.")
    first = "The river runs through the old town."
    size = len(tokenizer(first, add_special_tokens=False)["input_ids"])
    assert cut(TEXT[:60], size) == first and cut(TEXT[:60], size + 1) is None
    for no in ("They met Mr. Brown in town", "It cost 2. more", "He left. and came", "He left."):
        assert cut(no, 2) is None


def test_what_each_task_gives(tokenizer):
    text = f"{TEXT} Nobody knows who built it or why, but on the third day of every May it is lit."
    end, length, words = (constraints.task(tokenizer, text, name) for name in constraints.TASKS)
    total = len(end.ids)
    assert tokenizer.decode(end.ids[1:]) == text and 33 < total < 60
    for passage, last in ((end, 16), (length, 1)):
        assert passage.end == last and not passage.kinds.any()
        assert passage.fixed.tolist() == [i < 17 or i >= total - last for i in range(total)]
        assert (passage.canvas() == passage.ids).equal(passage.fixed)
    assert constraints.end_of(tokenizer, length) == "."
    kept = tokenizer.decode(words.ids[words.fixed][1:])
    assert words.end == 0 and kept == "The In 1887 She It Nobody May"
    for few in ((TEXT[:80], "length"), (TEXT.lower().replace("1887", "may"), "words")):
        assert constraints.task(tokenizer, *few) is None
    # An end of 16 tokens that would begin within a word begins with it.
    text = text.removesuffix("lit.") + "unfathomabletownliness."
    end = constraints.task(tokenizer, text, "end")
    alone = constraints.task(tokenizer, text[: -len(" it is unfathomabletownliness.")] + " so, " + "x" * 40,
                             "end")  # fmt: skip
    for passage in (end, alone):
        said = constraints.end_of(tokenizer, passage)
        assert said[0] == " " and passage.text.endswith(said) and passage.end >= 16
    assert alone.end > 16


def test_kept_is_what_stands_in_the_text(tokenizer):
    passage = constraints.task(tokenizer, f"{TEXT} {TEXT}", "words")
    names = "The In 1887 She It The In 1887 She It"
    assert constraints.names(passage.text) == names.split()
    assert constraints.names("Élise ate 3kg of ice, said iPod") == ["Élise", "3kg", "iPod"]
    assert constraints.keeps(tokenizer, passage, f"{names} and more Names")
    assert not constraints.keeps(tokenizer, passage, names.replace("In", "Inn"))
    assert not constraints.keeps(tokenizer, passage, names.removesuffix(" It"))
    end = constraints.task(tokenizer, f"{TEXT} {TEXT}", "end")
    said = constraints.end_of(tokenizer, end)
    assert constraints.keeps(tokenizer, end, "Any" + said)
    assert not constraints.keeps(tokenizer, end, said + " ")


@pytest.mark.parametrize("sampler", ["confidence", "first-hitting"])
def test_the_masked_model_keeps_what_is_given_and_sees_it_all(writer, tiny_model, sampler):
    passages = passages_of(writer, TEXT[:40], TEXT[20:70])
    texts = constraints.by_diffusion(writer, sampler, 0.0, passages)
    network = AutoModelForMaskedLM.from_pretrained(tiny_model).eval()
    for passage, ids in zip(passages, texts, strict=True):
        assert len(ids) == len(passage.ids) and (ids == passage.ids)[passage.fixed].all()
        # Again, one pass at a time: the surest mask, or the first one.
        mine = passage.canvas().masked_fill(~passage.fixed, 4)
        while (masks := (mine == 4).nonzero().flatten()).numel():
            with torch.no_grad():
                logits = network(mine[None]).logits[0, masks - 1]
            logits[:, :5] = -torch.inf  # special tokens
            sure, tokens = logits.softmax(-1).max(-1)
            which = sure.argmax() if sampler == "confidence" else 0
            mine[masks[which]] = tokens[which]
        assert mine.equal(ids)


def test_gpt2_keeps_what_is_given_and_continues_from_it(writer, baseline, tiny_gpt2):
    passages = passages_of(writer, TEXT[:40], TEXT[20:70])
    network = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    for passage, ids in zip(passages, constraints.in_order(baseline, 0.0, passages), strict=True):
        assert len(ids) == len(passage.ids)
        with torch.no_grad():
            logits = network(ids[None]).logits[0, :-1]
        logits[:, :5] = -torch.inf
        assert ids[1:].equal(passage.ids[1:].where(passage.fixed[1:], logits.argmax(-1)))
    both = [constraints.in_order(baseline, 1.0, passages, draw) for draw in (0, 0, 1)]
    assert both[0][1].equal(both[1][1]) and not both[0][1].equal(both[2][1])
    alone = constraints.in_order(baseline, 1.0, passages[:1])[0]
    assert alone.equal(both[0][0])  # whatever else is in the batch


@pytest.mark.slow
def test_no_token_runs_into_a_kept_word(tokenizer):
    """By the embedded models, whose tokens begin with spaces; both keep all words as text."""
    writer = load_writer("roberta-small-wikitext")
    baseline = load_causal_writer("gpt2-small-wikitext")
    passage = constraints.task(tokenizer, f"{TEXT}\nAlthough He was old, in May it burnt.", "words")
    texts = constraints.in_order(baseline, 1.0, [passage] * 6)
    texts += constraints.by_diffusion(writer, "confidence", 1.0, [passage] * 2)
    for ids in texts:
        assert constraints.keeps(tokenizer, passage, constraints.text_of(tokenizer, ids))


def test_gpt2_draws_from_its_distribution(writer, baseline, tiny_gpt2):
    """Of 4,000 copies, the second free token behind a given one; top-k 50 and top-p 0.95 as
    transformers has them."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    ids = torch.tensor([0, 20, 30, 40])
    given = torch.tensor([True, False, True, False])
    passage = constraints.Passage("", ids, given, torch.zeros_like(ids))
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


def test_what_is_measured_of_a_text(writer, baseline, tiny_gpt2):
    passages = passages_of(writer, TEXT[:36], TEXT[:36])  # up to the full stop
    good, bad = passages[0].ids, passages[0].ids.clone()
    the = writer.tokenizer.convert_tokens_to_ids("Ġthe")
    bad[-4:] = the
    scorer = load_scorer(str(tiny_gpt2))
    found = constraints.columns(writer.tokenizer, passages, [good, bad], [scorer])
    assert found["kept"] == [1, 0]

    def nats(ids):
        with torch.no_grad():
            log_p = baseline.model(ids[None]).logits[0, :-1].log_softmax(-1)
        return -log_p[torch.arange(len(log_p)), ids[1:]]

    assert found[f"nats by {tiny_gpt2}"] == pytest.approx(
        [nats(good)[1:].sum().item(), nats(bad)[1:].sum().item()], rel=1e-4
    )
    # Of the end that was asked for, behind what was written before it.
    asked_for = torch.cat([bad[:-1], good[-1:]])
    assert found[f"of the end by {tiny_gpt2}"] == pytest.approx(
        [nats(good)[-1].item(), nats(asked_for)[-1].item()], rel=1e-4
    )
    assert abs(nats(good)[-1] - nats(asked_for)[-1]) > 0.01


@pytest.mark.slow
def test_constraints_from_flags_to_json(monkeypatch, tmp_path, capsys, tiny_model, tiny_gpt2):
    texts = [" ".join(SENTENCES[n:] + SENTENCES[:n]) for n in range(3)]  # known to the tokenizer
    monkeypatch.setattr(infilling, "load_documents", lambda *args: texts)
    flags = ("--model", tiny_model, "--baseline", tiny_gpt2, "--scorers", tiny_gpt2,
             "--passage_len", 60)  # fmt: skip
    found = run(monkeypatch, constraints, tmp_path, *flags)
    assert found["text"] == "passages.txt" and list(found["tasks"]) == ["end", "length", "words"]
    for part in found["tasks"].values():
        rows = {row["method"]: row for row in part["rows"]}
        assert part["passages"] > 1
        assert list(rows) == [
            "confidence at 0", "confidence at 1", "left to right at 0", "left to right at 1",
            "GPT-2 at 0", "GPT-2 at 1", "what was there",
        ]  # fmt: skip
        assert [row["numbers"]["kept"][0] for row in rows.values()] == [1] * 7
    assert "tokens to write; more: than confidence at 0" in capsys.readouterr().out
    for length, said in (
        (64, "--passage_len 64: .* see 63 tokens"),
        (40, "--passage_len 40 must be .*41"),
        (41, "--tasks end: [01] of [0-9]+ passages fit it"),
    ):
        with pytest.raises(UserError, match=said):
            run(monkeypatch, constraints, tmp_path, *flags, "--passage_len", length)


# ---------------------------------------------------------------- learning to fill gaps


def test_a_lesson_is_what_the_model_reads_later(tokenizer):
    """Each block of the training is <s>, what the model is asked with, the hole, a mark and </s>."""
    text = f"{TEXT} Then it was built again in {{}}, by nine men of the old town, and it stands there now."
    texts = [text.format(year) for year in range(1900, 1940)]
    found = list(fill_in.lessons(tokenizer, texts, tokens=44))
    assert len(found) == 40
    sizes = Counter(size for size, _ in found)
    assert max(sizes.values()) - min(sizes.values()) <= 1 and len(sizes) > 3
    documents = plain_documents("\n\n\n".join(lesson.replace("\n", "\n\n") for _, lesson in found))
    assert documents == [lesson for _, lesson in found]
    blocks = packing.pack(documents, tokenizer, 46)
    assert len(blocks) == 40 and (blocks[:, 0] == tokenizer.bos_token_id).all()
    assert (blocks[:, -1] == tokenizer.eos_token_id).all()
    for block, (size, lesson), text in zip(blocks.tolist(), found, texts, strict=True):
        right, number, words = re.fullmatch(r"(.*) \| (\d+)\n(.*) \|", lesson, re.DOTALL).groups()
        # What of the second line is the hole the number says.
        words = words.split(" ")
        left = " ".join(words[: -int(number)])
        span = "".join(f" {w}" for w in words[-int(number) :])
        assert text.startswith(f"{left}{span} {right}")
        gap = infilling.Gap(left, span, f" {right}", 0)
        start = tokenizer(gap.context(), add_special_tokens=False)["input_ids"]
        assert block[1 : 1 + len(start)] == start
        if size != infilling.SENTENCE:
            assert len(tokenizer(span, add_special_tokens=False)["input_ids"]) == size


def test_who_has_learned_to_fill_says_when_the_gap_is_full(monkeypatch, baseline):
    gap = infilling.Gap("She opened", " the old window", " again.", 4)
    asked = []
    answers = [" the door | and", " the big old.|", " a\n| 3", "s all of it and more"]
    monkeypatch.setattr(infilling, "written", lambda *args: asked.append(args[1]) or answers)
    fills = infilling.filled_in(baseline, 1.0, gap, [0, 1, 2, 3])
    assert fills == [" the door", " the big old.", " a", "s all of it and more"]
    assert asked == ["again. | 3\nShe opened"]


def test_the_text_of_lessons_from_flags(monkeypatch, tmp_path, capsys):
    source, out = tmp_path / "text.txt", tmp_path / "lessons.txt"
    source.write_text("\n\n\n".join([TEXT + " " + TEXT] * 8))
    flags = [str(source), "--tokens", "40", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["fill_in.py", *flags])
    fill_in.main()
    lessons = plain_documents(out.read_text())
    assert len(lessons) == 8
    assert all(lesson.count(" |") == 2 and lesson.endswith(" |") for lesson in lessons)
    assert "8 of 8 passages have a gap (" in capsys.readouterr().err
    source.write_text("abc" * 400)
    with pytest.raises(UserError, match="no passage with a gap between words"):
        fill_in.main()
