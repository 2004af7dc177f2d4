"""Self-speculation has the autoregressive distribution, whatever the noisy stream drafts."""

import copy
import itertools

import pytest
import torch
from helpers.blocks import MASK, NOISE, VOCAB, prompts, tiny
from helpers.exact import assert_law

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.models.cached import CleanStream, InBlocks
from diffusion.models.denoiser import Denoiser
from diffusion.models.layouts import arrange
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.samplers.verifying import draw, verify
from diffusion.speculative import Drafting

END = 2
LETTERS = [5, 6, 7]  # all that may be written
FORBIDDEN = [i for i in range(VOCAB) if i not in LETTERS]


def speculate(canvas, denoiser, sampling, keys, drafts, end_id=None, keep=True):
    """The Steps of self-speculation."""
    sampler = make_sampler("speculative", draft_length=drafts)
    return denoise(canvas, Drafting(denoiser, drafts, keep), sampler, sampling, keys, end_id)


def test_verification_turns_drafts_of_any_law_into_the_target_law():
    """Joint law of up to three tokens from one draft of two: the product of the targets."""
    torch.manual_seed(0)
    n = 60_000
    p = torch.rand(3, 4, dtype=torch.float64) + 0.05
    q = torch.rand(2, 4, dtype=torch.float64) + 0.05
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    draft = torch.stack([torch.multinomial(row, n, True) for row in q], 1)
    count = torch.full((n,), 2)
    accepted, weights = verify(
        p.expand(n, -1, -1), q.expand(n, -1, -1), draft, count, torch.rand(n, 2)
    )
    token = draw(weights, torch.rand(n))
    # Where nothing was accepted the token is the first one, and so on.
    first = torch.where(accepted > 0, draft[:, 0], token)
    second = torch.where(accepted > 1, draft[:, 1], token)[accepted > 0]
    for tokens, target in zip((first, second, token[accepted == 2]), p.tolist(), strict=True):
        assert_law(tokens[:, None], {(i,): x for i, x in enumerate(target)}, 1e-3)
    # As many as the two laws have in common.
    overlap = torch.minimum(p[:2], q).sum(1)
    assert (accepted > 0).double().mean() == pytest.approx(overlap[0].item(), abs=0.005)
    assert (accepted > 1).double().mean() == pytest.approx(overlap.prod().item(), abs=0.005)


def test_a_shorter_draft_is_not_verified_beyond_its_end():
    p = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    q = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64)
    for count, expected in ((0, p[0, 0]), (1, p[0, 1]), (2, p[0, 2])):
        draft, u = torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), 0.9)
        accepted, weights = verify(p, q, draft, torch.tensor([count]), u)
        assert accepted == count and torch.equal(weights[0], expected)


def causal_law(model, prompt, length, sampling):
    """{text: probability} of all texts of ``length`` letters, one token after the other."""
    backbone = Denoiser(model, NOISE, FORBIDDEN).backbone
    law = {(): 1.0}
    for _ in range(length):
        texts = list(law)
        ids = torch.tensor([[*prompt, *text, 3] for text in texts])
        query_mask = torch.zeros_like(ids, dtype=torch.bool)
        query_mask[:, -1] = True
        # The clean stream reads at the slot before, whatever the model.
        with torch.no_grad():
            slots = query_mask if backbone.shift else query_mask.roll(-1, 1)
            logits = backbone(ids, slots, causal=True)
        logits = logits.index_fill(1, torch.tensor(FORBIDDEN), -torch.inf)
        p = sampling.dense(logits)
        law = {
            (*text, letter): law[text] * p[i, letter].item()
            for i, text in enumerate(texts)
            for letter in LETTERS
        }
    return law


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "sampling"), [(True, Sampling()), (False, Sampling(0.7, 2, 0.8))]
)
def test_the_law_of_whole_texts_is_the_causal_one(shift, sampling):
    """8,000 texts of 4 tokens, 81 in all, drafts of 2; and not all of it is easy."""
    model, length, n = tiny(shift=shift), 4, 8_000
    canvas = prompts(5, total=5 + length).take([0] * n)
    denoiser = Denoiser(model, NOISE, FORBIDDEN)
    keys = rng.row_keys(7, range(n))
    *_, last = speculate(canvas, denoiser, sampling, keys, drafts=2)
    law = causal_law(model, canvas.ids[0, :5].tolist(), length, sampling)
    assert_law(last.ids[:, 5:], law)
    passes = last.nfe.double().mean()
    assert 1.6 < passes < 3.9  # some drafts were accepted, some were not
    # The sampler `causal` has the law too, in a pass a token.
    causal = InBlocks(denoiser, 1, clean=True)
    *_, other = denoise(canvas, causal, make_sampler("causal"), sampling, keys)
    assert_law(other.ids[:, 5:], law)
    assert (other.nfe == length).all()


def test_greedy_texts_are_those_of_the_causal_sampler():
    for shift in (True, False):
        denoiser = Denoiser(tiny(shift=shift), NOISE, [0, 1])
        canvas, keys = prompts(2, 9, 5, new=8), rng.row_keys(0, range(3))
        greedy = Sampling(0.0)
        causal = InBlocks(denoiser, 1, clean=True)
        *_, expected = denoise(canvas, causal, make_sampler("causal"), greedy, keys)
        for drafts in (1, 3, 5):
            *_, last = speculate(canvas, denoiser, greedy, keys, drafts)
            assert torch.equal(last.ids, expected.ids)
            assert (last.nfe <= expected.nfe).all()
        torch.testing.assert_close(last.confidence, expected.confidence, equal_nan=True)


def test_each_step_reveals_what_it_confirms_and_slots_add_up():
    model = tiny()
    canvas = prompts(5, total=17)
    steps = list(
        speculate(canvas, Denoiser(model, NOISE, [0, 1]), Sampling(), rng.row_keys(3, [0]), 3)
    )
    assert steps[0].slots == 0 and steps[0].nfe == 0
    # The prompt, and one group of the token before, the one at the stop and three behind it.
    assert steps[1].slots == 5 + 5 and steps[1].revealed.sum() == 1
    written = torch.zeros(1, 17, dtype=torch.bool)
    for before, step in itertools.pairwise(steps):
        assert step.nfe == before.nfe + 1 and step.slots > before.slots
        assert 1 <= step.revealed.sum() <= 4 and not (step.revealed & written).any()
        new = step.revealed[0].nonzero()[:, 0]
        assert torch.equal(new, torch.arange(new[0], new[0] + len(new)))
        written |= step.revealed
        assert torch.equal(step.masked, ~written & ~canvas.frozen)
    assert torch.equal(written, ~canvas.frozen)


def test_an_end_in_a_draft_ends_the_text_there():
    model = copy.deepcopy(tiny())
    model.lm_head.bias.data[END] += 200.0
    canvas, keys = prompts(5, 3), rng.row_keys(0, range(2))
    denoiser = Denoiser(model, NOISE, [0, 1])
    *_, last = speculate(canvas, denoiser, Sampling(), keys, 3, end_id=END)
    assert last.nfe.tolist() == [1, 1] and not last.masked.any()
    assert last.padding.sum(1).tolist() == [14, 16]
    # And where another token is all there is, drafts are accepted whole.
    model.lm_head.bias.data[END] -= 400.0
    model.lm_head.bias.data[7] += 200.0
    *_, last = speculate(canvas, denoiser, Sampling(), keys, 3, end_id=7)
    assert last.nfe.tolist() == [1, 1]
    steps = list(speculate(canvas, denoiser, Sampling(), keys, 3))
    assert steps[2].revealed.sum(1).tolist() == [4, 4]  # three drafts and one more


def test_nothing_stands_behind_an_end_within_an_accepted_draft():
    """Texts of which every third token is an end: some ends come from drafts."""
    model, n = copy.deepcopy(tiny()), 200
    model.lm_head.bias.data[END] += 5.0
    canvas = prompts(5, total=17).take([0] * n)
    keys = rng.row_keys(0, range(n))
    steps = list(speculate(canvas, Denoiser(model, NOISE, [0, 1]), Sampling(), keys, 3, end_id=END))
    last = steps[-1]
    end = ((last.ids == END) & ~canvas.frozen & ~last.padding).int().argmax(1)
    column = torch.arange(17)
    ended = end > 0
    assert ended.sum() > n / 2
    assert torch.equal(last.padding[ended], (column > end[:, None])[ended])
    several = sum(((s.ids == END) & s.revealed).any(1) & (s.revealed.sum(1) > 1) for s in steps[1:])
    assert several.sum() > 5  # an end behind accepted tokens, where it was cut


@pytest.mark.parametrize("shift", [True, False])
def test_a_row_depends_on_no_cache_no_batch_and_no_padding(shift):
    """Nothing of a draft looks beyond the end of its own row."""
    denoiser = Denoiser(tiny(shift=shift), NOISE, [0, 1])
    sizes, new, n = (2, 9, 5), 9, 30
    canvas = prompts(*sizes, new=new).take([i % 3 for i in range(3 * n)])
    keys = rng.row_keys(0, range(3 * n))
    *_, together = speculate(canvas, denoiser, Sampling(), keys, 3)
    *_, anew = speculate(canvas, denoiser, Sampling(), keys, 3, keep=False)
    assert torch.equal(together.ids, anew.ids) and torch.equal(together.nfe, anew.nfe)
    assert (anew.slots > together.slots).all() and not together.masked.any()
    for row, size in enumerate(sizes):
        some = canvas.take(slice(row, None, 3))
        cut = Canvas(*(part[:, : size + new] for part in (some.ids, some.frozen, some.padding)))
        *_, alone = speculate(cut, denoiser, Sampling(), keys[row::3], 3)
        assert torch.equal(alone.ids, together.ids[row::3, : size + new])
        assert torch.equal(alone.slots, together.slots[row::3])
        assert torch.equal(alone.nfe, together.nfe[row::3])


@pytest.mark.parametrize("shift", [True, False])
def test_drafts_are_the_predictions_of_the_noisy_stream_at_every_stop(shift, monkeypatch):
    """From each place at which the verification can stop: the logits of the two-stream pass over a
    block that begins there. Without this a draft would be worse, and its law the same."""
    drafts, checked = 2, 0
    real = CleanStream.run

    def run(self, rows, ids, until, noisy, clean_at, noisy_at):
        nonlocal checked
        hidden = real(self, rows, ids, until, noisy, clean_at, noisy_at)
        logits = self.backbone.head(hidden)
        here, behind = int(clean_at[1][0]) + 1, logits[len(clean_at[0]) :]
        for j in range(int(until[0]) - here + 1):
            first, end = here + j, min(here + j + drafts + 1, ids.shape[1])
            slots = arrange(f"block{drafts + 1}", end, first, shift)
            masked = ids[:, :end].clone()
            masked[:, first:] = MASK
            at = slots.noisy_read[first + 1 : end]
            where = torch.zeros(1, len(slots.place), dtype=torch.bool)
            where[0, at] = True
            expected = self.backbone(slots.fill(ids[:, :end], masked), where, layout=slots)
            ours = behind[j * drafts : j * drafts + len(at)]
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
            checked += len(at)
        return hidden

    monkeypatch.setattr(CleanStream, "run", run)
    denoiser = Denoiser(tiny(shift=shift), NOISE, FORBIDDEN)
    list(speculate(prompts(5), denoiser, Sampling(), rng.row_keys(0, [0]), drafts))
    assert checked > 20
