"""Draft, verify, re-mask: its law by enumeration, its passes, and the denoiser that reads drafts."""

import pytest
import torch
from helpers.blocks import MASK, NOISE, prompts, tiny
from helpers.draws import LARGE, SMALL, assert_trajectory, run, same, start
from helpers.exact import ExactLaws
from test_frozen import denoiser_of

from diffusion import rng
from diffusion.canvas import Query
from diffusion.denoise import denoise
from diffusion.models.cached import InBlocks, Verifying
from diffusion.models.denoiser import Denoiser
from diffusion.models.layouts import arrange
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.samplers.unmasking import Confidence
from diffusion.samplers.verifying import DraftVerifyRemask

FOUR = (0, 2, 3, 4)  # what is to be written in LARGE


@pytest.mark.parametrize(
    ("tokens", "score", "first", "last", "again"),
    [
        (1, "nll", 1.2, 0.5, (3, 2, 1)),  # four drafts: round(4 * (1 - k / 4)) tokens
        pytest.param(2, "gap", 1.5, 0.3, (2,), marks=pytest.mark.slow),  # two drafts
        pytest.param(3, "nll", 1.0, 0.0, (2,), marks=pytest.mark.slow),  # 4 / 3, rounded up
    ],
)
def test_every_step_has_its_law(tokens, score, first, last, again):
    exact, drafts = ExactLaws(LARGE, 0.9), len(again) + 1
    steps = []
    for k in range(drafts):
        warmth = first + (last - first) * k / (drafts - 1)
        steps.append(lambda c, x=warmth: exact.draft_step(c, x))
        if k < drafts - 1:
            steps.append(lambda c, n=again[k]: exact.verify_step(c, FOUR, n, score))
    ours = run(
        LARGE,
        DraftVerifyRemask(tokens, score, first, last),
        Sampling(0.9),
        40_000,
        31,
        len(steps) + 1,
    )
    assert len(ours) == len(steps) + 1 and (ours[-1].nfe == 2 * drafts - 1).all()
    assert_trajectory(ours, exact.trajectory(start(LARGE), steps))


def test_one_draft_is_sampling_in_one_pass():
    one = run(SMALL, DraftVerifyRemask(3, first=1), Sampling(0.8), 50)
    other = run(SMALL, Confidence(1), Sampling(0.8), 50)
    assert torch.equal(one[-1].ids, other[-1].ids) and len(one) == len(other) == 2


def test_rows_do_not_depend_on_each_other_and_short_blocks_take_fewer_passes():
    """Blocks of 4 of 7 tokens: two drafts, then ceil(3 / 2) = 2; of 5: two, then one."""

    def write(*rows):
        canvas, keys = prompts(5, 7, total=12).take(list(rows)), rng.row_keys(0, rows)
        sampler = make_sampler("arpc:tokens_per_draft=2", block_length=4)
        denoiser = Verifying(denoiser_of("model"), 4)
        return list(denoise(canvas, denoiser, sampler, Sampling(), keys))

    together = write(0, 1)[-1]
    assert together.nfe.tolist() == [6, 4] and not together.masked.any()
    for row in (0, 1):
        alone = write(row)[-1]
        assert torch.equal(alone.ids[0], together.ids[row])
        assert alone.nfe == together.nfe[row]


@torch.no_grad()
@pytest.mark.parametrize("shift", [True, False])
def test_a_draft_is_read_as_training_reads_clean_text(shift):
    """Visible tokens are predicted by the causal stream; masks afterwards as without that pass."""
    denoiser = Denoiser(tiny(shift=shift), NOISE, [0, 1])
    canvas = prompts(3, 6, total=15)
    query_mask = torch.zeros_like(canvas.frozen)
    for row, first in enumerate((3, 6)):
        query_mask[row, first : first + 4] = True
    drafted = torch.where(query_mask, 7 + torch.arange(15) % 5, canvas.ids)
    half = query_mask & (torch.arange(15) % 2 == 0)
    redone = NOISE.corrupt(drafted, half)
    kinds = [Verifying(denoiser, 4, keep).start(canvas) for keep in (True, False)]
    plain = InBlocks(denoiser, 4).start(canvas)
    for ids, asked in ((canvas.ids, query_mask), (drafted, query_mask), (redone, half)):
        query = Query(ids, asked, torch.arange(2))
        sizes = [kind.slots(query).tolist() for kind in kinds]
        kept, anew = (kind(query) for kind in kinds)
        torch.testing.assert_close(kept, anew)
        if asked is query_mask and ids is drafted:
            # Four slots: the last before the block, and all of the block but its last.
            assert sizes == [[4, 4], [6, 9]]
            expected = []
            for row, first in enumerate((3, 6)):
                slots = arrange("causal", first + 4, first, denoiser.backbone.shift)
                where = torch.zeros(1, len(slots.place), dtype=torch.bool)
                where[0, slots.clean_read[query_mask[row, : first + 4].nonzero()[:, 0]]] = True
                text = ids[row : row + 1, : first + 4]
                expected.append(denoiser.backbone(slots.fill(text, text), where, layout=slots))
            known = torch.isfinite(kept)
            torch.testing.assert_close(kept[known], torch.cat(expected)[known])
        else:
            torch.testing.assert_close(kept, plain(query))
    assert (redone == MASK).any()


def test_texts_are_equal_without_the_cache():
    canvas, keys = prompts(1, 7, 4, total=16), rng.row_keys(1, range(3))
    model = denoiser_of("model")

    def write(keep):
        sampler = make_sampler("arpc:tokens_per_draft=2", block_length=5)
        return denoise(canvas, Verifying(model, 5, keep), sampler, Sampling(), keys)

    same(write(True), write(False))
