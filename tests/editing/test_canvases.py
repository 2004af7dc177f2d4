"""Canvases for editing: what is given stays, what is written fits in, and the laws are the exact
ones."""

import re

import pytest
import torch
from helpers.exact import ExactLaws, assert_law
from helpers.tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Allowed, Canvas, encode
from diffusion.denoise import denoise
from diffusion.editing.canvases import (
    interpolation_canvas,
    rewrite_canvas,
)
from diffusion.editing.templates import parse_template
from diffusion.errors import UserError
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.unmasking import Ancestral, Confidence, FirstHitting
from diffusion.views.frames import written_text


def write(writer, canvas, samples, **options):
    options = GenerationOptions(**options)
    options.check()
    *_, last = writer.denoise(canvas, options, samples, may_end=False)
    return last


# ---------------------------------------------------------------- blanks


def test_a_rule_conditions_the_prediction():
    denoiser = TabularDenoiser(2, 3, seed=4)
    ids = torch.full((20_000, 2), 3)
    tokens = torch.tensor([[True, False, True, True]] * 2)
    kinds = torch.tensor([1, 0]).expand(ids.shape)
    canvas = Canvas(ids, ids != 3, ids != 3, Allowed(kinds, tokens))
    *_, last = denoise(canvas, denoiser, Confidence(1), Sampling(), rng.row_keys(0, len(ids)))
    p, q = denoiser.probabilities((3, 3))
    law = {(a, b): p[a] / (p[0] + p[2]) * q[b] for a in (0, 2) for b in range(3)}  # both at once
    assert_law(last.ids, law)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The <mask:0> sat", "<mask:0>' has no number of tokens of at least one"),
        ("The <mask:8-2> sat", "<mask:8-2>"),
        ("The <mask:two> sat", "<mask:two>"),
        (f"The <mask:{'9' * 5000}> sat", "has no number of tokens"),
        ("The <mask> sat", "no blank"),
        ("<mask:1-90> and <mask:1-90>", "8100 combinations"),
    ],
)
def test_a_template_that_makes_no_sense(text, named):
    with pytest.raises(UserError, match=named):
        parse_template(text)


def test_ranges_and_spaces_in_blanks():
    template = parse_template("a <mask: 2 - 4 > b<mask:3>")
    assert template.texts == ["a ", " b", ""]
    assert template.blanks == [range(2, 5), range(3, 4)]
    assert template.fixed() == ["a", " b", ""]


# ---------------------------------------------------------------- rewriting

TEXT = "The river runs through the old town and under the stone bridge. 1887, naïve 河."


def keys_of(*samples, seed=0):
    return rng.fold_in(rng.seed_key(seed), torch.tensor(samples))


@pytest.mark.parametrize("sampler", ["random-remask", "first-hitting"])
def test_strength_1_is_writing_from_nothing(writer, sampler):
    text = " " + TEXT[:40]  # a text without a space in front gets none
    canvas = rewrite_canvas(writer.tokenizer, text, 1.0, keys_of(0, 1), None)
    step = write(writer, canvas, [0, 1], sampler=sampler)
    options = GenerationOptions(sampler=sampler, max_len=64, length=canvas.ids.shape[1] - 1)
    options.check()
    *_, scratch = writer.generate(["", ""], options, [0, 1])
    assert torch.equal(step.ids, scratch.ids)


def test_a_rewrite_begins_with_a_space_only_if_the_text_does(writer):
    for text, keep in ((TEXT, None), ('"old town"', ["old"])):
        canvas = rewrite_canvas(writer.tokenizer, text, 1.0, keys_of(*range(30)), keep)
        step = write(writer, canvas, range(30))
        new = [written_text(writer.tokenizer, step, row) for row in range(30)]
        assert not any(one[0] in " \t\n\r\f\v" for one in new)
        assert keep is None or all(re.search(r"(?<!\w)old(?!\w)", one) for one in new)
    canvas = rewrite_canvas(writer.tokenizer, " " + TEXT, 1.0, keys_of(0), None)
    assert canvas.allowed.kinds[0, 1] == 0  # any token


def test_protecting_words_does_not_move_the_masks_of_the_others(writer):
    plain = rewrite_canvas(writer.tokenizer, TEXT, 0.5, keys_of(3), None)
    kept = rewrite_canvas(writer.tokenizer, TEXT, 0.5, keys_of(3), ["old town"])
    differ = plain.frozen != kept.frozen
    assert kept.frozen[differ].all() and (kept.frozen | ~plain.frozen).all()


def test_masks_grow_with_the_strength_and_have_its_share(writer):
    share, before = [], None
    for strength in (0.0, 0.3, 0.7, 1.0):
        canvas = rewrite_canvas(writer.tokenizer, TEXT, strength, keys_of(*range(400)), None)
        masked = ~canvas.frozen[:, 1:]
        assert before is None or (masked | ~before).all()
        before = masked
        share.append(masked.double().mean().item())
    assert share[0] == 0 and share[-1] == 1
    assert share[1] == pytest.approx(0.3, abs=0.02) and share[2] == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("make", [lambda: FirstHitting(), lambda: Ancestral(3)])
def test_rewriting_follows_the_exact_law(make):
    """Re-noise each token with probability t0, then denoise: enumerated over all mask sets."""

    class Characters:
        """Text of the digits 0-2 behind the token 0."""

        bos_token_id, mask_token_id = 0, 3
        eos_token_id = sep_token_id = unk_token_id = None
        all_special_ids = ()

        def get_vocab(self):
            return {}

        def __call__(self, text, **_):
            places = [(i, i + 1) for i in range(len(text))]
            return {"input_ids": [int(c) for c in text], "offset_mapping": places}

    denoiser, strength, text = TabularDenoiser(4, 3, seed=8), 0.4, "120"
    laws, sampler = ExactLaws(denoiser), make()
    keys = rng.row_keys(1, 20_000)
    canvas = rewrite_canvas(Characters(), text, strength, keys, None)
    *_, last = denoise(canvas, denoiser, sampler, Sampling(), keys)
    masks = ([(int(c), 1 - strength), (3, strength)] for c in text)
    noisy = laws.independent((0, 1, 2, 0), [[(0, 1.0)], *masks])
    if isinstance(sampler, FirstHitting):
        steps = [laws.until_full(laws.random_order_step)] * 3
    else:
        t = [1 - k / 3 * (1 - 1e-5) for k in range(4)]
        steps = [lambda c, k=k: laws.ancestral_step(c, t[k + 1] / t[k]) for k in range(3)]
        steps.append(laws.argmax_step)
    law = {}
    for start, probability in noisy.items():
        for end, x in laws.trajectory(start, steps)[-1].items():
            law[end] = law.get(end, 0) + probability * x
    assert_law(last.ids, law)


# ---------------------------------------------------------------- between two texts

TEXTS = (
    "The river runs through the old town and under the stone bridge.",
    "She opened the window, and listened to 河 rain.",
)


def mixtures(writer, weights, texts=TEXTS, sample=0):
    keys = keys_of(sample).expand(len(weights))
    return interpolation_canvas(writer.tokenizer, texts, weights, keys)


def test_words_of_both_texts_in_changing_proportion(writer):
    tokenizer = writer.tokenizer
    texts = ("The river runs by the old stone bridge.", "She opened windows and heard 河 rain.")
    lengths = [len(encode(tokenizer, text)) for text in texts]
    weights = [0.0, 0.25, 0.5, 0.75, 1.0]
    shares = torch.zeros(5, 2, dtype=torch.float64)
    for sample in range(40):
        canvas = mixtures(writer, weights, texts, sample)
        for row, weight in enumerate(weights):
            length = round((1 - weight) * lengths[0] + weight * lengths[1])
            assert (~canvas.padding[row]).sum() == 1 + length
            given = tokenizer.decode(canvas.ids[row, 1 : 1 + length]).replace("<mask>", " ")
            for side, text in enumerate(texts):
                words = text.split()
                found = [w for w in words if w in given.split()]
                shares[row, side] += len(found) / len(words) / 40
    # Of the first text (1-w)^2, of the second w^2, less what meets.
    for side, order in enumerate((range(5), range(4, -1, -1))):
        along = [shares[row, side].item() for row in order]
        assert along == sorted(along, reverse=True)
        assert along[0] == pytest.approx(1)
        assert along[1] == pytest.approx(0.56, abs=0.1)


def test_between_two_equal_texts_there_is_only_that_text(writer):
    step = write(writer, mixtures(writer, [0.0, 0.3, 0.5, 1.0], (TEXTS[0], TEXTS[0])), [0] * 4)
    assert {written_text(writer.tokenizer, step, row) for row in range(4)} == {TEXTS[0]}
