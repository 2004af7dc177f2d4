"""Blocks masked by fixed counts, and which micro-batch has which layout."""

import itertools
import math

import pytest
import torch
from helpers.exact import chi_square_p
from helpers.tabular import TabularDenoiser

from diffusion.collator import DiffusionCollator, MixCollator, StreamCollator
from diffusion.likelihood import stream_bound
from diffusion.models.layouts import arrange
from diffusion.noise import Absorbing
from diffusion.objective import IGNORE, cross_entropy

BOS, PAD, MASK = 0, 1, 2
LENGTH = 31
EVEN = {"causal": 0.25, "block4": 0.25, "block16": 0.25, "full": 0.25}

every_model = pytest.mark.parametrize("shift", [True, False], ids=["shifted", "own slot"])


def features(first: int, n: int, length: int = LENGTH) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    out = []
    for draw in range(first, first + n):
        ids = torch.randint(5, 50, (length,), generator=generator, dtype=torch.int32)
        ids[0], ids[length // 2] = BOS, PAD
        out.append({"input_ids": ids, "draw": draw})
    return out


def blocks(size: int, shift=True, causal=0.0, prefix=1, seed=0, batch=16) -> StreamCollator:
    layout, spread = f"block{size}" if size else "causal", {"seed": seed, "global_batch": batch}
    return StreamCollator(Absorbing(MASK), [BOS, PAD], prefix, layout, shift, causal, **spread)


def clean_of(rows) -> torch.Tensor:
    return torch.stack([f["input_ids"] for f in rows]).long()


# ------------------------------------------------------------ what a batch holds


@every_model
@pytest.mark.parametrize("size", [1, 4, 7, LENGTH - 1])
@pytest.mark.parametrize("prefix", [1, 6])
def test_labels_are_the_masked_tokens_at_the_slots_that_predict_them(shift, size, prefix):
    rows = features(0, 32)
    batch, clean = blocks(size, shift, prefix=prefix, batch=32)(rows), clean_of(rows)
    slots = arrange(f"block{size}", LENGTH, prefix, shift)
    assert torch.equal(batch["input_ids"][:, :LENGTH], clean)  # the clean stream
    labelled = batch["labels"] != IGNORE
    assert not labelled[:, :LENGTH].any()
    noisy = torch.full_like(clean, -1)
    noisy[:, slots.place[slots.noisy]] = batch["input_ids"][:, slots.noisy]
    masked = noisy == MASK
    assert not masked[clean == PAD].any() and not masked[:, :prefix].any()
    read = slots.noisy_read[prefix:]
    labels = batch["labels"][:, read]
    assert torch.equal(labels, clean.masked_fill(~masked, IGNORE)[:, prefix:])
    assert int(labelled.sum()) == int(masked.sum())  # and nowhere else
    assert ((batch["weights"] > 0) == labelled).all()
    # The slot before a block shows the true token, whatever the block before it has masked.
    front = ~slots.noisy
    assert torch.equal(batch["input_ids"][:, front], clean[:, slots.place[front]])


@every_model
def test_the_clean_stream_learns_to_predict_every_token(shift):
    rows = features(0, 8)
    clean = clean_of(rows)
    for size, weight in ((4, 1.67), (None, 1.0)):
        batch = blocks(size, shift, causal=weight)(rows)
        assert torch.equal(batch["labels"][:, : LENGTH - 1], clean[:, 1:])
        assert (batch["labels"][:, LENGTH - 1] == IGNORE).all()
        torch.testing.assert_close(batch["weights"][:, :LENGTH].sum(1), torch.full((8,), weight))
    assert batch["layout"] == "causal" and torch.equal(batch["input_ids"], clean)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 16, 30])
@pytest.mark.parametrize("prefix", [1, 5])
def test_weights_of_a_row_sum_to_one(size, prefix):
    """So a constant cross-entropy c gives exactly c on every draw."""
    weights = blocks(size, prefix=prefix)(features(0, 64))["weights"]
    torch.testing.assert_close(weights.sum(1), torch.ones(64))
    weights = blocks(size, causal=0.5, prefix=prefix)(features(0, 64))["weights"]
    torch.testing.assert_close(weights.sum(1), torch.full((64,), 1.5))


def test_the_bound_of_constant_predictions_is_their_cross_entropy():
    rows = clean_of(features(0, 12))
    sizes = torch.ones(50, dtype=torch.long)
    for size in (None, 1, 4, 16):
        collate = blocks(size, causal=float(size is None), batch=24)
        slots = arrange(collate.layout, LENGTH, 1, True)
        uniform = lambda ids, query_mask, layout: torch.zeros(int(query_mask.sum()), 50)  # noqa: E731
        bound = stream_bound(uniform, rows, collate, slots, sizes, draws=2, batch_size=5)
        assert bound.nats_per_token == pytest.approx(math.log(50), rel=1e-6)
        assert bound.standard_error == pytest.approx(0, abs=1e-6)
        assert bound.tokens == 12 * (LENGTH - 1 - (size is not None))  # PAD is in no block


def test_the_bound_is_the_same_in_parts():
    """Over processes and in batches of any size."""
    rows = clean_of(features(0, 10))
    sizes, collate = torch.ones(50, dtype=torch.long), blocks(4, batch=10)
    slots = arrange("block4", LENGTH, 1, True)
    table = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    model = lambda ids, query_mask, layout: table[ids[query_mask]]  # noqa: E731
    whole, parts = stream_bound(model, rows, collate, slots, sizes), []
    for rank in (0, 1):
        spread = {"shard": (rank, 2), "gather": lambda values: parts.append(values) or values}
        stream_bound(model, rows, collate, slots, sizes, batch_size=3, **spread)
    total = torch.cat(parts).sum(0)[:, 0]
    assert total.tolist() == pytest.approx(whole.by_block, rel=1e-12)


# ------------------------------------------------------------ how many


def masked_counts(size, batch, rows=None, part=None) -> torch.Tensor:
    """(rows, blocks) masked tokens of full blocks of a global batch."""
    collate, editable = blocks(size, batch=batch), torch.ones(rows or batch, 33, dtype=torch.bool)
    masked, _ = collate.masks(torch.arange(rows or batch), editable)
    return masked[:, 1:].reshape(len(masked), -1, size).sum(2)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("batch", [4, 16, 24])
def test_counts_of_a_global_batch_are_stratified(size, batch):
    counts = masked_counts(size, batch).flatten()
    tally = torch.bincount(counts, minlength=size + 1)[1:]
    assert int(tally.sum()) == batch * 32 // size
    assert tally.max() - tally.min() <= 2  # a stratum may straddle two counts
    if len(counts) % size == 0:
        assert (tally - len(counts) / size).abs().max() <= 1
    # And so is any run of rows: what one process or accumulation step has of it.
    for part in masked_counts(size, batch).split(max(1, batch // 4)):
        tally = torch.bincount(part.flatten(), minlength=size + 1)[1:]
        assert tally.max() - tally.min() <= 3


@pytest.mark.parametrize("size", [3, 4])
def test_every_set_of_masks_has_its_probability(size):
    """k uniform, then every k-subset equally often, in each block of the batch alike."""
    n = 12_000
    collate = blocks(size, batch=6)
    masked, _ = collate.masks(torch.arange(n), torch.ones(n, 1 + 3 * size, dtype=torch.bool))
    for block in masked[:, 1:].view(n, 3, size).unbind(1):
        codes = (block.long() * 2 ** torch.arange(size)).sum(1)
        sets = range(1, 2**size)
        observed = torch.bincount(codes, minlength=2**size)[1:].tolist()
        expected = [n / size / math.comb(size, s.bit_count()) for s in sets]
        assert sum(observed) == n
        assert chi_square_p(observed, expected) > 1e-3


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_mean_over_counts_and_masks_is_the_enumerated_bound(size):
    """On a denoiser in which a block sees only what is before it and itself."""
    vocab, text = 3, (2, 0, 1, 2)
    denoiser = TabularDenoiser(4, vocab, seed=3)

    def nats(seen: tuple, position: int) -> float:
        return -math.log(denoiser.probabilities(seen)[position][text[position]])

    expected = 0.0
    for start in range(0, 4, size):
        inside = range(start, min(start + size, 4))
        for k in range(1, len(inside) + 1):
            ways = list(itertools.combinations(inside, k))
            for way in ways:
                seen = [vocab if i in way or i >= inside.stop else text[i] for i in range(4)]
                ce = sum(nats(tuple(seen), i) for i in way) / k
                expected += ce * len(inside) / len(inside) / len(ways) / 4
    n = 16_000
    # Ids: tokens 0-2 are 10-12, after a <s>; the mask of the table is 3.
    ids = torch.tensor([BOS, *(10 + t for t in text)])
    batch = StreamCollator(Absorbing(13), [BOS], 1, f"block{size}", False, 0.0, global_batch=16)(
        [{"input_ids": ids, "draw": draw} for draw in range(n)]
    )
    slots = arrange(f"block{size}", 5, 1, False)
    labelled = batch["labels"] != IGNORE
    per_row = torch.zeros(n, dtype=torch.float64)
    for slot in range(5, len(slots.place)):
        row = labelled[:, slot].nonzero()[:, 0]
        place = int(slots.place[slot])
        start = 1 + (place - 1) // size * size
        canvas = torch.full((len(row), 4), vocab)
        canvas[:, : start - 1] = ids[1:start] - 10
        own = slots.noisy_read[start : start + size]
        canvas[:, start - 1 : start - 1 + len(own)] = batch["input_ids"][row][:, own] - 10
        query_mask = torch.zeros_like(canvas, dtype=torch.bool)
        query_mask[:, place - 1] = True
        ce = cross_entropy(denoiser.backbone(canvas, query_mask), batch["labels"][row, slot] - 10)
        per_row[row] += (ce * batch["weights"][row, slot]).double()
    error = per_row.mean().item() - expected
    assert abs(error) < 4 * per_row.std().item() / math.sqrt(n) + 1e-6


# ------------------------------------------------------------ the mix


def mix(shares=EVEN, seed=0, micro=4, batch=16) -> MixCollator:
    spread = {"seed": seed, "global_batch": batch, "micro_batch": micro}
    return MixCollator(Absorbing(MASK), [BOS, PAD], 1, shares, True, 1.67, **spread)


@pytest.mark.slow
def test_of_24_successive_micro_batches_each_layout_has_its_share():
    for shares in (EVEN, {"causal": 0.5, "block4": 0.2, "block16": 0.2, "full": 0.1}):
        collate = mix(shares)
        order = [collate.layout(n) for n in range(24 * 40)]
        for start in range(0, len(order), 24):
            for name, share in shares.items():
                assert abs(order[start : start + 24].count(name) - 24 * share) < 1
        for name, share in shares.items():  # no bias by rounding
            assert order.count(name) == pytest.approx(share * len(order), abs=12)
        # In random order: each place of the window has each layout.
        for place in range(24):
            assert set(order[place::24]) == set(shares)
    assert order[:24] != [mix(shares, seed=1).layout(n) for n in range(24)]


def test_a_micro_batch_has_the_layout_of_its_number():
    collate, rows = mix(), features(0, 96)
    for number, start in enumerate(range(0, 96, 4)):
        name = collate.layout(number)
        batch = collate(rows[start : start + 4])
        assert batch.get("layout", "full") == name
        for half in (rows[start : start + 2], rows[start + 2 : start + 4]):  # two processes
            assert collate(half).get("layout", "full") == name
        if name == "full":
            own = DiffusionCollator(Absorbing(MASK), [BOS, PAD], 1, global_batch=4)
        else:
            weight = 1.0 if name == "causal" else 1.67
            own = blocks(None if name == "causal" else int(name[5:]), causal=weight)
        expected = own(rows[start : start + 4])
        for key in expected:
            same = batch[key] == expected[key]
            assert same if isinstance(same, bool) else same.all(), key
