"""Loss and likelihood bound on a denoiser whose every canvas can be enumerated."""

import functools
import itertools
import math
from types import SimpleNamespace

import numpy
import pytest
import torch
from helpers.exact import RATES, chi_square_p
from helpers.tabular import TabularDenoiser

from diffusion.canvas import Canvas
from diffusion.collator import IGNORE, DiffusionCollator
from diffusion.editing.canvases import canvas_of
from diffusion.likelihood import (
    Bound,
    TextBound,
    causal_nll,
    fixed_counts,
    likelihood_bound,
    ordered_nll,
    pseudo_likelihood,
    text_bounds,
)
from diffusion.noise import choose_exactly
from diffusion.objective import cross_entropy, token_weights
from diffusion.training.trainer import DiffusionTrainer, Nats

LENGTH, VOCAB = 4, 3
TEXT = (2, 0, 1, 2)
DENOISER = TabularDenoiser(LENGTH, VOCAB, seed=1)
MASK, NOISE, BACKBONE = DENOISER.mask_id, DENOISER.noise, DENOISER.backbone
BYTES = torch.tensor([1, 2, 3, 0])
SLOW = pytest.mark.slow

every_schedule = pytest.mark.parametrize("schedule", RATES)
one_quickly = pytest.mark.parametrize(
    "schedule", [name if name == "linear" else pytest.param(name, marks=SLOW) for name in RATES]
)


def subsets(n: int):
    return (s for k in range(n + 1) for s in itertools.combinations(range(n), k))


probabilities = functools.cache(DENOISER.probabilities)


def masked_ce(hidden, text=TEXT) -> float:
    """Summed -log p of the true tokens at the positions ``hidden``, which are all masked."""
    p = probabilities(tuple(MASK if i in hidden else t for i, t in enumerate(text)))
    return -sum(math.log(p[i][text[i]]) for i in hidden)


def sum_over_counts(text=TEXT, editable=range(LENGTH)) -> float:
    """J as the sum of S_k / k, with S_k the mean over all ways to mask k positions."""
    total = 0.0
    for k in range(1, len(editable) + 1):
        ways = list(itertools.combinations(editable, k))
        total += sum(masked_ce(way, text) for way in ways) / len(ways) / k
    return total


def gauss_legendre(low: float, high: float, n: int = 40):
    nodes, weights = numpy.polynomial.legendre.leggauss(n)
    nodes = (high - low) / 2 * nodes + (high + low) / 2
    return torch.from_numpy(nodes), (weights * (high - low) / 2).tolist()


J = sum_over_counts()


# ------------------------------------------------------------ one bound, many forms


@every_schedule
def test_token_weights_give_the_bound_per_editable_token(schedule):
    """Every mask pattern of a row with its probability, at every quadrature time."""
    t, dt = gauss_legendre(0, 1, 12)
    patterns = torch.tensor([[i in s for i in range(LENGTH)] for s in subsets(LENGTH)])
    ce = torch.zeros(patterns.shape)
    for row, s in zip(ce, subsets(LENGTH), strict=True):
        p = probabilities(tuple(MASK if i in s else x for i, x in enumerate(TEXT)))
        row[list(s)] = torch.tensor([-math.log(p[i][TEXT[i]]) for i in s])
    labels = torch.tensor(TEXT).expand(patterns.shape).masked_fill(~patterns, IGNORE)
    total = 0.0
    for time, d in zip(t.tolist(), dt, strict=True):
        rate = RATES[schedule](time)
        times = torch.full((len(patterns),), time, dtype=torch.float64)
        editable = torch.full((len(patterns),), LENGTH)
        loss = (token_weights(labels, times, editable, schedule) * ce).sum(1)
        k = patterns.sum(1).double()
        total += d * (rate**k * (1 - rate) ** (LENGTH - k) * loss).sum().item()
    assert total == pytest.approx(J / LENGTH, abs=2e-3 if RATES[schedule](1.0) < 1 else 1e-6)


@one_quickly
def test_the_training_loss_estimates_the_bound(schedule):
    """Collator, weights and cross-entropy together, over many rows."""
    rows = 30_000
    collate = DiffusionCollator(NOISE, [], 0, schedule=schedule, global_batch=100)
    batch = collate([{"input_ids": torch.tensor(TEXT), "draw": i} for i in range(rows)])
    hidden = batch["labels"] != IGNORE
    assert batch["weights"].dtype == torch.float32
    ce = cross_entropy(BACKBONE(batch["input_ids"], hidden), batch["labels"][hidden])
    per_row = batch["weights"].masked_scatter(hidden, batch["weights"][hidden] * ce).sum(1)
    error = per_row.mean().item() - J / LENGTH
    assert abs(error) < 4 * per_row.std().item() / math.sqrt(rows) + 1e-3


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_cross_entropy_and_its_gradient_are_those_of_torch(dtype, error):
    """The values in single precision whatever the logits are in; each row has a weight of its own."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(150, 9, generator=generator) * 10).to(dtype).requires_grad_()
    labels, weight = torch.arange(150) % 9, torch.rand(150, generator=generator)
    exact = logits.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
    found = cross_entropy(logits, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=error, atol=error)
    assert len(cross_entropy(logits[:0], labels[:0])) == 0


# ------------------------------------------------------------ the loss of the trainer


@pytest.mark.parametrize("loss", ["nelbo", "mean"])
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_trainer_loss_is_the_weighted_mean_however_it_is_accumulated(parts, loss):
    """Over a global batch of 8 rows; a mask rate of 1 for the plain mean, so that each row counts the
    same."""
    kind = "batch" if loss == "mean" else "stratified"
    collate = DiffusionCollator(NOISE, [], 0, mask_schedule=kind, loss=loss, global_batch=8, seed=5)
    batch = collate([{"input_ids": torch.tensor(TEXT), "draw": i} for i in range(8)])
    self = SimpleNamespace(
        causal=False,
        batches=collate,
        args=SimpleNamespace(global_batch=8),
        accelerator=SimpleNamespace(num_processes=1),
    )
    items, total = (batch["labels"] != IGNORE).sum(), 0.0
    for i in range(0, 8, 8 // parts):
        part = {name: value[i : i + 8 // parts] for name, value in batch.items()}
        loss_of = DiffusionTrainer.compute_loss
        total += loss_of(self, Nats(BACKBONE), part, num_items_in_batch=items).item()
    hidden = [[i for i, x in enumerate(row) if x != IGNORE] for row in batch["labels"].tolist()]
    losses = list(map(masked_ce, hidden))
    if loss == "nelbo":
        pairs = zip(losses, batch["t"].tolist(), strict=True)
        expected = sum(nats / t for nats, t in pairs) / LENGTH / 8
    else:
        expected = sum(losses) / sum(map(len, hidden))
    assert total == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------ masking exact counts


def test_fixed_counts_are_the_published_formula():
    for editable, total in itertools.product((1, 2, 5, 16), (1, 3, 128)):
        for first, b in itertools.product(range(1, editable + 1), range(total)):
            expected = 1 + ((first - 1 + round(b * editable / total)) % editable)
            ours = fixed_counts(torch.tensor(first), torch.tensor(editable), torch.tensor(b), total)
            assert ours == expected


def test_fixed_counts_estimate_the_bound_exactly():
    """The estimator's expectation over k_1 and masks is J for every single draw."""
    per_count = [
        numpy.mean([masked_ce(s) for s in itertools.combinations(range(LENGTH), k)])
        for k in range(1, LENGTH + 1)
    ]
    for b in range(7):
        first = torch.arange(1, LENGTH + 1)
        counts = fixed_counts(first, torch.tensor(LENGTH), torch.tensor(b), 7).tolist()
        estimate = numpy.mean([per_count[k - 1] * LENGTH / k for k in counts])
        assert estimate == pytest.approx(J, abs=1e-9)


def test_choose_exactly_takes_every_subset_equally_often():
    n = 30_000
    u = torch.rand(n, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    candidates = torch.tensor([1, 0, 1, 1, 0, 1]).bool().expand(n, 6)
    chosen = choose_exactly(torch.full((n,), 2), candidates, u)
    assert not (chosen & ~candidates).any()
    assert (chosen.sum(1) == 2).all()
    counts = chosen.unique(dim=0, return_counts=True)[1]
    assert chi_square_p(counts.tolist(), [n / 6] * 6) > 1e-3
    every = torch.arange(n) % 5
    assert (choose_exactly(every, candidates, u).sum(1) == every).all()


# ------------------------------------------------------------ the evaluation


class Spy:
    """A denoiser that notes which canvases it was shown."""

    def __init__(self, backbone=DENOISER.backbone):
        self.backbone, self.seen = backbone, []

    def __call__(self, ids, rows, *_, **kwargs):
        self.seen += [
            (tuple(i), tuple(r)) for i, r in zip(ids.tolist(), rows.tolist(), strict=True)
        ]
        return self.backbone(ids, rows)


def texts(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (n, LENGTH), generator=torch.Generator().manual_seed(seed))


def evaluate(backbone, blocks, editable=None, **settings) -> Bound:
    if editable is None:
        editable = torch.ones_like(blocks, dtype=torch.bool)
    return likelihood_bound(backbone, blocks, editable, NOISE, BYTES, **settings)


@pytest.mark.parametrize("text", [TEXT, (0, 0, 0, 0)])
def test_the_evaluated_bound_is_the_exact_bound(text):
    blocks = torch.tensor(text).expand(4000, LENGTH)
    bound = evaluate(BACKBONE, blocks, draws=10, batch_size=4000)
    exact = sum_over_counts(text) / LENGTH
    assert bound.nats_per_token == pytest.approx(exact, abs=0.01)
    assert abs(bound.nats_per_token - exact) < 4 * bound.standard_error


def test_each_draw_is_the_mean_loss_over_its_masks_and_blocks_are_pooled_by_tokens():
    """All fields, recomputed by hand from the masks that the evaluation chose."""
    blocks = texts(23)
    editable = torch.ones_like(blocks, dtype=torch.bool)
    editable[::2, 0] = False  # rows of 3 and of 4 editable tokens
    editable[5, 1:3] = False
    spy, draws = Spy(), 3
    bound = evaluate(spy, blocks, editable, draws=draws, batch_size=5, seed=4)

    values, by_rate = [[] for _ in blocks], [[] for _ in range(5)]
    calls = iter(spy.seen)
    for start in range(0, 23, 5):
        for _ in range(draws):
            for i in range(start, min(start + 5, 23)):
                canvas, hidden = next(calls)
                text = blocks[i].tolist()
                chosen = [j for j in range(LENGTH) if hidden[j]]
                assert chosen and all(editable[i, j] for j in chosen)
                assert canvas == tuple(MASK if h else t for h, t in zip(hidden, text, strict=True))
                values[i].append(masked_ce(chosen, text) / len(chosen))
                share = (len(chosen) - 0.5) / editable[i].sum().item()
                by_rate[math.floor(share * 5)].append(values[i][-1])
    assert next(calls, None) is None

    size = editable.sum(1).tolist()
    per_block = [numpy.mean(v) for v in values]
    mean = sum(v * n for v, n in zip(per_block, size, strict=True)) / sum(size)
    spread = sum((n * (v - mean)) ** 2 for v, n in zip(per_block, size, strict=True))
    assert bound.nats_per_token == pytest.approx(mean, rel=1e-6)
    assert bound.standard_error == pytest.approx(math.sqrt(spread * 23 / 22) / sum(size), rel=1e-6)
    length = sum(BYTES[t].item() for t in blocks[editable].tolist())
    assert bound.nats_per_byte == pytest.approx(mean * sum(size) / length, rel=1e-6)
    assert (bound.tokens, bound.blocks) == (sum(size), 23)
    assert math.isnan(evaluate(BACKBONE, blocks[:1]).standard_error)
    for ours, ones in zip(bound.by_mask_rate, by_rate, strict=True):
        assert ours == pytest.approx(numpy.mean(ones), rel=1e-6) if ones else math.isnan(ours)


def test_counts_of_an_evaluation_are_spread_evenly():
    spy = Spy()
    evaluate(spy, texts(10), draws=6, batch_size=3)
    counts = sorted(sum(hidden) for _, hidden in spy.seen)
    assert counts == [1] * 15 + [2] * 15 + [3] * 15 + [4] * 15


def test_masks_of_an_evaluation_are_uniform_over_positions():
    spy = Spy()
    evaluate(spy, texts(6000), batch_size=6000)
    for k in (1, 2, 3):
        chosen = [hidden for _, hidden in spy.seen if sum(hidden) == k]
        counts = [chosen.count(h) for h in set(chosen)]
        assert len(counts) == math.comb(LENGTH, k)
        assert chi_square_p(counts, [len(chosen) / len(counts)] * len(counts)) > 1e-3


def test_batch_size_and_processes_do_not_change_the_evaluation():
    blocks, settings, reported = texts(11), {"draws": 2, "seed": 9}, []
    whole = evaluate(
        BACKBONE, blocks, batch_size=4, on_batch=lambda *x: reported.append(x), **settings
    )
    assert reported == [(4, 11), (8, 11), (11, 11)]
    assert evaluate(BACKBONE, blocks, batch_size=2, **settings) == whole

    parts = []
    for rank in range(3):
        spy = Spy()
        gather = lambda x: parts.append(x) or x  # noqa: E731
        evaluate(spy, blocks, shard=(rank, 3), gather=gather, **settings)
        assert len(spy.seen) == 2 * len(range(rank, 11, 3))  # each does its share
    joined = evaluate(
        BACKBONE, blocks, shard=(0, 3), gather=lambda x: torch.cat([x, *parts[1:]]), **settings
    )
    assert joined == whole


def test_the_nll_in_order_is_the_distribution_of_writing_from_left_to_right_on_the_full_canvas():
    """The probabilities of all texts sum to 1, and each is the product along the one order; what
    is not editable is seen from the start."""
    every = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    editable = torch.ones_like(every, dtype=torch.bool)
    bound = ordered_nll(DENOISER.backbone, every, editable, NOISE, BYTES, batch_size=7)
    nats = torch.tensor(bound.by_block, dtype=torch.float64) * LENGTH
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-6)
    for text, value in list(zip(every.tolist(), nats.tolist(), strict=True))[::17]:
        canvas = [VOCAB] * LENGTH
        expected = 0.0
        for i, token in enumerate(text):
            expected -= math.log(DENOISER.probabilities(tuple(canvas))[i][token])
            canvas[i] = token
        assert value == pytest.approx(expected, abs=1e-5)
    editable[:, 2] = False
    (text,) = every[50:51].tolist()
    some = ordered_nll(DENOISER.backbone, every[50:51], editable[50:51], NOISE, BYTES)
    canvas, expected = [VOCAB, VOCAB, text[2], VOCAB], 0.0
    for i in (0, 1, 3):
        expected -= math.log(DENOISER.probabilities(tuple(canvas))[i][text[i]])
        canvas[i] = text[i]
    assert some.nats_per_token == pytest.approx(expected / 3, abs=1e-5) and some.tokens == 3


def test_the_causal_nll_is_the_exact_one():
    """A table of p(token | all before): the probabilities of all texts sum to 1, and each is the
    product of its conditionals; of some tokens it is the mean of theirs."""
    table = {
        prefix: torch.randn(VOCAB, generator=torch.Generator().manual_seed(hash(prefix) % 2**31))
        for n in range(LENGTH)
        for prefix in itertools.product(range(VOCAB), repeat=n)
    }

    def backbone(ids, rows, causal):
        assert causal
        where = rows.nonzero().tolist()
        return torch.stack([table[tuple(ids[i, :j].tolist())] for i, j in where])

    texts = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    chains = -torch.tensor(
        [
            [table[tuple(t[:j])].double().log_softmax(0)[t[j]] for j in range(LENGTH)]
            for t in texts.tolist()
        ]
    )
    editable = torch.ones_like(texts, dtype=torch.bool)
    bound = causal_nll(backbone, texts, editable, BYTES, batch_size=7)
    assert bound.by_block == pytest.approx(chains.mean(1).tolist(), rel=1e-5)
    assert (-LENGTH * torch.tensor(bound.by_block)).exp().sum().item() == pytest.approx(1, abs=1e-5)
    editable[:, 0] = editable[3, 1] = False
    some = causal_nll(backbone, texts, editable, BYTES)
    assert some.nats_per_token == pytest.approx(chains[editable].mean().item(), rel=1e-6)
    assert (some.tokens, some.blocks) == (3 * len(texts) - 1, len(texts))


# ------------------------------------------------------------ the bounds of single texts

SENTENCES = ["The river runs.", "She opened the window and listened.", "He", "In 1887 the railway"]


def test_pseudo_likelihood_is_the_loop_written_by_hand(writer):
    encoded = writer.tokenizer(SENTENCES, add_special_tokens=False)["input_ids"]
    canvas = canvas_of(writer.tokenizer, [torch.tensor([0, *row]) for row in encoded])
    hidden = ~canvas.padding
    hidden[:, [0, 2]] = False
    hidden[2] = False
    hidden[2, 1] = True
    backbone, noise = writer.denoiser.backbone, writer.denoiser.noise
    got = pseudo_likelihood(backbone, canvas, hidden, noise, batch_size=7)
    model = backbone.model
    for row in range(len(SENTENCES)):
        ids = canvas.ids[row][~canvas.padding[row]]
        total = []
        for position in hidden[row].nonzero()[:, 0].tolist():
            masked = ids.clone()
            masked[position] = 4
            where = torch.arange(2, 2 + len(ids))[None]
            with torch.no_grad():
                logits = model(input_ids=masked[None], position_ids=where).logits[0]
            # This model is shifted: token i is read at slot i - 1.
            total.append(logits[position - 1].log_softmax(-1)[ids[position]].item())
        assert got[row].item() == pytest.approx(sum(total) / len(total), abs=1e-4)


@pytest.mark.parametrize("editable", [(0, 1, 2, 3), (1, 3), (2,)])
def test_the_bound_is_the_exact_one_within_its_standard_error(editable):
    ids = torch.tensor([TEXT])
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[0, list(editable)] = True
    canvas = Canvas(ids, ~rows, torch.zeros_like(rows))
    (draws,) = text_bounds(BACKBONE, canvas, rows, NOISE, draws=4000, batch_size=4000)
    bound = TextBound.of(draws, len(editable), 8)
    exact = sum_over_counts(editable=editable)
    assert abs(bound.nats - exact) <= 4 * bound.standard_error + 1e-6
    assert bound.standard_error < 0.05
    assert bound.nats_per_token == pytest.approx(bound.nats / len(editable))
    assert bound.nats_per_byte == pytest.approx(bound.nats / 8)
    one = TextBound.of(torch.tensor([2.0]), 3, 6)
    assert one.standard_error is None and one.nats == 6
