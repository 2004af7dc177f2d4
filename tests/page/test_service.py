"""What the page does, without a browser: texts, places, likelihoods and limits."""

import random

import pytest
import torch
from helpers.kinds import KINDS, NASTY, TEXTS, Anything, tokenizer_of

import diffusion
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.page.service import _trimmed
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.views.frames import Framer, written_text

TEXT = "The river runs through the old town and under the stone bridge."
EACH = [(i, i + 1) for i in range(0, 2 * 1999, 2)]  # places


def last(stream):
    *_, end = stream
    return end


def test_a_text_is_that_of_the_python_api(service, drafter):
    options = {"sampler": "remdm", "eta": "0.1", "n_steps": 6, "temperature": 0.8, "seed": 3}
    frame = last(service.write("The river", 9, options))
    (text,) = diffusion.write(drafter, ["The river"], length=9, **options | {"eta": 0.1})
    assert frame.text == text and frame.written == 9


@pytest.mark.parametrize(
    "call, value",
    [
        (lambda s: s.write("x" * 5000, 4, {}), "5000"),
        (lambda s: s.write("\ud800", 4, {}), "UTF-8"),
        (lambda s: s.write(7, 4, {}), "int"),
        (lambda s: s.write("a", 257, {}), "257"),
        (lambda s: s.write("a", 60, {"n_steps": 5, "sampler": "nothing"}), "nothing"),
        (lambda s: s.write("a", 60, {"sampler": "remdm", "eta": 2}), "eta"),
        (lambda s: s.write("a", 60, {"temperature": "warm"}), "warm"),
        (lambda s: s.write("a", 4, {"n_steps": 5000, "sampler": "confidence"}), "5000"),
        (lambda s: s.write(TEXT * 9, 4, {}), "positions"),
        (lambda s: s.touch(TEXT, [(0, 999)], "", 0, {}), "999"),
        (lambda s: s.touch(TEXT, ["a"], "", 0, {}), "a"),
        (lambda s: s.touch(TEXT, [(3, 4)], "", 0, {}), "nothing is selected"),
        (lambda s: s.touch(TEXT, [(4, 9)], "<mask:1-99>", 0, {}), "99"),
        (lambda s: s.touch("a " * 1999, EACH, "<mask:1-256>", 0, {}), "over a million"),
        (lambda s: s.touch(TEXT, [(4, 9)], "<mask:0>", 0, {}), "mask:0"),
        (lambda s: s.touch(TEXT, [(4, 9)], "<mask:99>", 0, {}), "positions"),
        (lambda s: s.touch(TEXT, [(4, 9)], "", -1, {}), "-1"),
        (lambda s: s.touch(TEXT, [(4, 9)], "", 1, {"sampler": "arpc"}), "left to right"),
        (lambda s: s.touch(TEXT, [(4, 9)], 7, 1, {}), "int"),
        (lambda s: s.touch(TEXT, [(4, float("inf"))], "", 1, {}), "inf"),
        (lambda s: s.write("a", "many", {}), "many is not a whole number"),
        (lambda s: s.write("a", 2.5, {}), "2.5 is not a whole number"),
        (lambda s: s.write("a", 4, ["seed"]), "by name"),
        (lambda s: [s.likeliest(TEXT, float("nan"))], "nan"),
        (lambda s: [s.score(TEXT, 4, 0)], "list"),
        (lambda s: [s.likeliest(TEXT, 99)], "99"),
        (lambda s: [s.score([TEXT] * 17, 4, 0)], "17"),
        (lambda s: [s.score([TEXT], 99, 0)], "99"),
        (lambda s: [s.score([], 4, 0)], "0"),
        (lambda s: [s.compare("a", 4, 9, {})], "9"),
    ],
)
def test_limits_are_enforced_by_the_server(service, call, value):
    with pytest.raises(UserError) as error:
        list(call(service))
    assert value in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- touch


def outside(text: str, places) -> list[str]:
    """What is left of a text without some places."""
    ends = [0, *(x for place in places for x in place), len(text)]
    return [text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)]


@pytest.mark.parametrize("by", ["", "<mask:2>", "very <mask:1>, and <mask:2>!", " a\tb "])
def test_what_is_not_selected_stays(service, by):
    draw = random.Random(0)
    for text in [*NASTY[:6], *TEXTS]:
        whole = service.tokens(text)
        assert "".join(whole) == text
        cuts = sorted(draw.sample(range(len(text) + 1), min(4, len(text) + 1)))
        places = list(zip(cuts[::2], cuts[1::2], strict=False))
        if not any(text[a:b].strip() for a, b in places) or "</s>" in text:
            continue
        edit = last(service.touch(text, places, by, 1, {}))
        assert edit.replaced == _trimmed(text, places)
        assert outside(edit.frame.text, edit.places) == outside(text, edit.replaced)
        if by and "<mask" not in by:
            assert all(edit.frame.text[a:b] == by for a, b in edit.places)
        if by.startswith("very"):
            assert all(edit.frame.text[a:].startswith("very ") for a, b in edit.places)
            assert all(edit.frame.text[:b].endswith("!") for a, b in edit.places)


@pytest.mark.parametrize("kind", KINDS)
def test_words_keep_their_neighbours_with_every_tokenizer(service, kind, monkeypatch):
    tokenizer = tokenizer_of(kind)
    monkeypatch.setattr(service, "tokenizer", tokenizer)
    monkeypatch.setattr(service, "framer", Framer(tokenizer))
    text, model = TEXTS[1], Anything(tokenizer)

    def of_anything(self, canvas, options, samples, may_end):
        keys = torch.tensor(samples)
        return denoise(canvas, model, make_sampler("first-hitting"), Sampling(), keys)

    monkeypatch.setattr(Writer, "denoise", of_anything)
    start = text.index("listened")
    for sample in range(5):
        edit = last(service.touch(text, [(start, start + 8)], "", sample, {}))
        assert edit.frame.text.startswith(text[: start - 1])
        assert edit.frame.text.endswith(text[start + 8 :])


def test_another_sample_is_another_text_and_the_same_is_the_same(service):
    texts = [last(service.touch(TEXT, [(4, 22)], "", n, {})).frame.text for n in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_of_several_lengths_one_is_written(service):
    edit = last(service.touch(TEXT, [(4, 9)], "<mask:1-3>", 0, {}))
    ((start, end),) = edit.places
    assert edit.frame.text[start:end].strip() and edit.frame.written in (1, 2, 3)


def test_the_likeliest_tokens_are_those_of_the_whole_distribution(service, drafter):
    *five, own = service.likeliest(TEXT, 3)
    ids = torch.tensor([[drafter.tokenizer.bos_token_id, *drafter.tokenizer(
        TEXT, add_special_tokens=False)["input_ids"]]])  # fmt: skip
    token = int(ids[0, 4])
    ids[0, 4] = drafter.tokenizer.mask_token_id
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[0, 4] = True
    logits = drafter.denoiser.reader(ids, hidden)[0]
    logits[drafter.denoiser.forbidden] = -torch.inf
    p = logits.softmax(-1)
    best = p.sort(descending=True)
    assert [value for _, value in five] == pytest.approx(best.values[:5].tolist(), abs=1e-4)
    assert five[0][0] == drafter.tokenizer.decode([int(best.indices[0])])
    assert own[1] == pytest.approx(p[token].item(), abs=1e-4)


# ---------------------------------------------------------------- score


def test_scores_are_those_of_the_python_api_in_order(service, drafter):
    found = service.score(TEXTS, 4, 1)
    bounds = dict(zip(TEXTS, diffusion.score(drafter, TEXTS, draws=4, seed=1), strict=True))
    assert [one["text"] for one in found] == sorted(
        TEXTS, key=lambda text: bounds[text].nats_per_token
    )
    for one in found:
        assert one["nats"] == pytest.approx(bounds[one["text"]].nats)
        assert "".join(piece for piece, _ in one["token_nats"]) == one["text"]
        (_, own) = service.likeliest(one["text"], 2)[-1]
        assert torch.tensor(-one["token_nats"][2][1]).exp() == pytest.approx(own, abs=2e-2)
        assert service.scored(one).text == one["text"]


def test_texts_of_the_page_are_shown_as_everywhere(service, drafter):
    *_, step = diffusion.steps(drafter, "The river", length=5)
    assert last(service.write("The river", 5, {})).text == written_text(drafter.tokenizer, step, 0)
