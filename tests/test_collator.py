"""Noisy batches: who is masked, how often, and that nothing but (seed, draw) decides it."""

import math

import pytest
import torch
from helpers.exact import RATES, assert_uniform, chi_square_p

from diffusion.collator import (
    SEED_RATES,
    AnswerCollator,
    CausalCollator,
    DiffusionCollator,
    StreamCollator,
)
from diffusion.data.packing import ANSWER, CONTEXT, PADDING
from diffusion.noise import MIN_TIME, Absorbing
from diffusion.objective import IGNORE

BOS, PAD, EOS, MASK = 0, 1, 2, 4
LENGTH, PREFIX = 40, 6


def features(first: int, n: int, length: int = LENGTH) -> list[dict]:
    """Blocks as training packs them: ``<s>``, text, now and then ``</s>``, ``<s>`` or padding."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for draw in range(first, first + n):
        ids = torch.randint(5, 50, (length,), generator=generator, dtype=torch.int32)
        ids[0], ids[length // 2], ids[length // 2 + 1], ids[-1] = BOS, EOS, BOS, PAD
        out.append({"input_ids": ids, "draw": draw})
    return out


def collator(**settings) -> DiffusionCollator:
    return DiffusionCollator(Absorbing(MASK), [BOS, PAD], **{"prefix_len": PREFIX, **settings})


def clean(batch_features) -> torch.Tensor:
    return torch.stack([f["input_ids"] for f in batch_features]).long()


every_kind = pytest.mark.parametrize("kind", ["stratified", "batch"])


# ------------------------------------------------------------ what a batch holds


@every_kind
def test_labels_are_the_clean_tokens_of_the_masked_positions_alone(kind):
    rows = features(0, 64)
    batch, ids = collator(mask_schedule=kind, global_batch=64)(rows), clean(rows)
    masked = batch["input_ids"] == MASK
    assert masked.any()
    assert (batch["labels"][masked] == ids[masked]).all()
    assert (batch["labels"][~masked] == IGNORE).all()
    assert (batch["input_ids"][~masked] == ids[~masked]).all()
    assert {batch[k].dtype for k in ("input_ids", "labels", "editable")} == {torch.int64}


@every_kind
def test_prefix_and_fixed_ids_are_never_masked_but_document_ends_are(kind):
    rows = features(0, 640)
    batch, ids = collator(mask_schedule=kind, global_batch=64)(rows), clean(rows)
    masked = batch["input_ids"] == MASK
    assert not masked[:, :PREFIX].any()
    assert not masked[(ids == BOS) | (ids == PAD)].any()
    assert masked[:, PREFIX].any()  # the first position after the prefix can be
    assert masked[ids == EOS].any()
    assert (batch["editable"] == LENGTH - PREFIX - 2).all()


# ------------------------------------------------------------ how often


@pytest.mark.parametrize("schedule", RATES)
def test_masks_are_independent_with_the_probability_that_the_time_says(schedule):
    rows, editable = features(0, 6400), LENGTH - PREFIX - 2
    batch = collator(schedule=schedule, global_batch=64)(rows)
    rate = torch.tensor([RATES[schedule](t) for t in batch["t"].tolist()], dtype=torch.float64)
    masked = batch["labels"] != IGNORE
    error = masked.sum(1) - rate * editable
    variance = rate * (1 - rate) * editable

    def z_score(rows):
        return abs(error[rows].sum() / variance[rows].sum().sqrt())

    for low in range(5):  # in each fifth of the clock, and so everywhere
        assert z_score((batch["t"] * 5).long() == low) < 4
    # The spread is that of a binomial distribution (one shared draw would give `editable` times as much).
    assert (error**2).sum() / variance.sum() == pytest.approx(1, abs=0.06)
    # Every editable position is masked equally often.
    counts = masked[:, clean(rows)[0].ne(BOS) & clean(rows)[0].ne(PAD)][:, PREFIX - 1 :].sum(0)
    assert len(counts) == editable
    assert chi_square_p(counts.tolist(), [counts.double().mean().item()] * editable) > 1e-3


def test_rows_do_not_share_their_uniforms():
    masked = collator(global_batch=2)(features(0, 8000))["labels"] != IGNORE
    agree = masked[1::4] == masked[3::4]  # times of one stratum, t > 1/2
    # Two independent rows: E[r^2 + (1 - r)^2] with r, r' uniform in (1/2, 1).
    assert agree[:, PREFIX : LENGTH // 2].double().mean() == pytest.approx(0.625, abs=0.01)


# ------------------------------------------------------------ the clock


@pytest.mark.parametrize("size", [1, 3, 16, 64])
def test_times_of_a_global_batch_fall_one_into_each_stratum(size):
    rows = features(0, 20 * size, length=8)
    t = collator(prefix_len=1, global_batch=size)(rows)["t"].view(20, size)
    strata = (t * size).floor().long().sort(1).values
    assert torch.equal(strata, torch.arange(size).expand(20, size))


def test_times_are_uniform_within_their_strata_and_never_the_same():
    t = collator(global_batch=8).times(torch.arange(8000))
    assert_uniform((t * 8) % 1)
    assert_uniform(t)
    later = t[t > MIN_TIME]
    assert len(later.unique()) == len(later) > 0.995 * len(t)
    assert t.dtype == torch.float64


def test_times_are_never_below_the_smallest():
    t = collator(global_batch=10_000).times(torch.arange(100))
    assert t.min() == MIN_TIME  # the first strata lie below it altogether
    assert t.max() < 0.011


def test_batch_schedule_has_one_rate_a_batch_uniform_over_ten():
    rates = collator(mask_schedule="batch", global_batch=16).times(torch.arange(16 * 4000))
    rates = rates.view(4000, 16)
    assert (rates == rates[:, :1]).all()
    assert sorted(SEED_RATES) == [k / 10 for k in range(1, 11)]
    values, counts = rates[:, 0].unique(return_counts=True)
    assert values.tolist() == sorted(SEED_RATES)
    assert chi_square_p(counts.tolist(), [400] * 10) > 1e-3


def test_batch_schedule_masks_at_its_rate_and_everything_at_one():
    rows = features(0, 16 * 400)
    batch = collator(mask_schedule="batch", global_batch=16)(rows)
    editable = LENGTH - PREFIX - 2
    count, rate = (batch["labels"] != IGNORE).sum(1), batch["t"]
    for r in SEED_RATES:
        here = count[rate == r].double()
        if r == 1:
            assert (here == editable).all()
        else:
            spread = math.sqrt(r * (1 - r) * editable / len(here))
            assert abs(here.mean() - r * editable) < 4 * spread
    # A batch's rate is independent of its masks: other batches at one rate mask other positions.
    assert len((batch["labels"] != IGNORE)[rate == 0.5].unique(dim=0)) == (rate == 0.5).sum()


# ------------------------------------------------------------ only (seed, draw) decides


@pytest.fixture(params=["stratified", "batch", "block4"])
def batch_of(request):
    """Rows -> the tensors of a batch of either collator."""

    def batch_of(rows, seed=0):
        if request.param == "block4":
            how = PREFIX, "block4", True, 1.0
            collate = StreamCollator(Absorbing(MASK), [BOS, PAD], *how, seed=seed)
        else:
            collate = collator(mask_schedule=request.param, seed=seed)
        return {name: x for name, x in collate(rows).items() if torch.is_tensor(x)}

    return batch_of


@pytest.mark.parametrize("part", [1, 4, 8])
def test_slices_of_a_global_batch_are_the_same_rows(batch_of, part):
    """Over accumulation steps, processes and workers."""
    rows = features(0, 64)
    parts = [batch_of(rows[i : i + part]) for i in range(0, 64, part)]
    for name, whole in batch_of(rows).items():
        assert torch.equal(whole, torch.cat([found[name] for found in parts])), name


def test_the_same_seed_repeats_and_another_does_not(batch_of):
    one, again, other = (batch_of(features(0, 64), seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    for name in {"t", "labels"} & one.keys():
        assert not torch.equal(one[name], other[name])
    # The same text later in the run is masked anew.
    assert not torch.equal(one["labels"], batch_of(features(64, 64), 1)["labels"])


def test_causal_rows_predict_every_token_but_the_first():
    rows = features(0, 3)
    batch, ids = CausalCollator()(rows), clean(rows)
    assert torch.equal(batch["input_ids"], ids)
    assert torch.equal(batch["labels"][:, 1:], ids[:, 1:])
    assert (batch["labels"][:, 0] == IGNORE).all()
    assert (batch["weights"] == 1).all()


# ---------------------------------------------------------------- conversations


def test_answers_alone_are_masked_and_a_random_room_after_them_is_open():
    kinds = torch.tensor([[CONTEXT] * 3 + [ANSWER] * 4 + [CONTEXT, ANSWER] + [PADDING] * 7])
    ids = torch.arange(10, 26).masked_fill(kinds[0] == PADDING, PAD)
    collate = AnswerCollator(Absorbing(MASK), [BOS, PAD], 1, seed=3, global_batch=16)
    rows = [{"input_ids": ids, "kinds": kinds[0], "draw": i} for i in range(4000)]
    batch = collate(rows)
    learned, answer, padding = batch["labels"] != IGNORE, kinds == ANSWER, kinds == PADDING
    assert not (learned & ~answer).any()
    assert (batch["labels"][learned] == ids.expand_as(learned)[learned]).all()
    assert (batch["editable"] == 5).all()
    shares = learned.double().mean(0)[answer[0]]
    torch.testing.assert_close(shares, torch.full((5,), 0.5).double(), atol=0.03, rtol=0)

    given = batch["input_ids"] == ids
    masks = batch["input_ids"] == MASK
    seen = batch["attention_mask"].bool()
    assert torch.equal(masks, learned | (padding & seen))  # the room holds masks
    assert torch.equal(given, ~masks) and (seen | padding).all()
    room = (padding & seen).sum(1)
    assert (seen[:, 9:].int().diff(dim=1) <= 0).all()  # and is after the conversation
    counts = room.bincount(minlength=8).double() / len(room)
    torch.testing.assert_close(counts, torch.full((8,), 1 / 8).double(), atol=0.02, rtol=0)
    alone = [collate([row]) for row in rows[:9]]
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(torch.cat([one[name] for one in alone]), batch[name][:9])
