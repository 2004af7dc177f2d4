"""What holds in every step of the loop, whatever the sampler."""

import itertools

import pytest
import torch
from helpers.exact import sharpen
from helpers.tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.proposal import Sampling
from diffusion.samplers.make import Blocks, EarlyCommit
from diffusion.samplers.remasking import P2, RandomRemask, ReMDM, Saber, Wino
from diffusion.samplers.unmasking import (
    Ancestral,
    Confidence,
    EntropyBound,
    Factor,
    FirstHitting,
    Klass,
    Threshold,
)

LENGTH, VOCAB = 5, 4
M = VOCAB
ROWS = 60

MAKERS = {
    "seed": lambda: RandomRemask(4),
    "ancestral": lambda: Ancestral(6),
    "ancestral, one step": lambda: Ancestral(1, schedule="cosine-a"),
    "first-hitting": lambda: FirstHitting(),
    "confidence": lambda: Confidence(3),
    "confidence, random": lambda: Confidence(8, "entropy", alg_temp=0.5),
    "confidence, schedule": lambda: Confidence(4, "margin", "cosine-a"),
    "threshold": lambda: Threshold(0.7),
    "factor": lambda: Factor(1.5),
    "entropy-bound": lambda: EntropyBound(0.4),
    "klass": lambda: Klass(0.4, 2.0, 1),
    "remdm": lambda: ReMDM(5, eta=0.3),
    "remdm, conf, late": lambda: ReMDM(5, "conf", clock_delay=0.5),
    "remdm, loop": lambda: ReMDM(9, "loop", time_power=0.7),
    "p2": lambda: P2(4, eta=1.5),
    "p2, released": lambda: P2(3, score="released"),
    "wino": lambda: Wino(0.3, 0.5),
    "saber": lambda: Saber(2, 1),
    "blocks of confidence": lambda: Blocks(Confidence(4), 2),
    "blocks of ancestral": lambda: Blocks(Ancestral(5), 2),
    "blocks of remdm": lambda: Blocks(ReMDM(5, "rescale", eta=0.9), 3),
    "blocks of p2": lambda: Blocks(P2(4), 2),
    "blocks of saber": lambda: Blocks(Saber(2, 1), 4),
    "early commit": lambda: EarlyCommit(Confidence(5), 1.0),
    "early commit, blocks of klass": lambda: EarlyCommit(Blocks(Klass(0.4, 2.0, 1), 2), 2.0),
    "early commit, seed": lambda: EarlyCommit(RandomRemask(4), 2.0),
}
# Those that open what they wrote, that may wait, and that ask about what is written.
REMASKING = {n for n in MAKERS if any(k in n for k in ("seed", "remdm", "p2", "wino", "saber"))}
WAITING = {n for n in MAKERS if "ancestral" in n or n in REMASKING}
JUDGING = {n for n in MAKERS if any(k in n for k in ("p2", "wino", "saber"))}

every_sampler = pytest.mark.parametrize("name", MAKERS)


class Watched(TabularDenoiser):
    """Notes every forward pass, and checks that what it is asked for makes sense."""

    def __init__(self, judging: bool = False):
        super().__init__(LENGTH, VOCAB, seed=6)
        self.judging = judging
        self.query_mask, self.padding_seen = [], []

    def start(self, canvas):
        self.canvas = canvas
        return self

    def __call__(self, query):
        ids, rows, shadows = query.ids, query.query_mask, query.shadows
        padding, frozen = query.padding, self.canvas.frozen[query.rows]
        assert torch.equal(frozen & (ids != self.canvas.ids[query.rows]), frozen & False)
        assert rows.any(1).all(), "a row was computed of which nothing was wanted"
        assert not (rows & frozen).any(), "a prediction was wanted of what is given"
        assert self.judging or (ids[rows] == M).all(), "one was wanted of what is written"
        if shadows is not None:
            assert torch.equal(shadows, rows & (ids != M)), "a visible token was not hidden"
        self.query_mask.append(rows.clone())
        self.padding_seen.append(None if padding is None else padding.clone())
        return super().__call__(query)


def mixed_canvas(rows: int = ROWS) -> Canvas:
    """Rows with different given tokens at different places; the first has nothing to write,
    the last everything."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (rows, LENGTH), generator=generator)
    frozen = torch.rand(rows, LENGTH, generator=generator) < 0.4
    frozen[0], frozen[-1] = True, False
    return Canvas(ids.masked_fill(~frozen, M), frozen, torch.zeros_like(frozen))


def padded_canvas() -> Canvas:
    """Every third row ends two positions early."""
    canvas = mixed_canvas()
    padding = torch.zeros_like(canvas.frozen)
    padding[::3, 3:] = True
    return Canvas(canvas.ids.masked_fill(padding, 1), canvas.frozen | padding, padding)


def run(name, canvas=None, sampling=None, keys=None, denoiser=None):
    canvas = canvas or mixed_canvas()
    keys = rng.row_keys(0, len(canvas.ids)) if keys is None else keys
    sampling = sampling or Sampling(0.9, top_p=0.95)
    stream = denoise(canvas, denoiser or Watched(name in JUDGING), MAKERS[name](), sampling, keys)
    steps = list(itertools.islice(stream, 20))
    assert len(steps) < 20, "the loop does not end"
    return steps


@every_sampler
@pytest.mark.parametrize("make_canvas", [mixed_canvas, padded_canvas])
def test_what_is_given_never_changes_and_steps_report_what_changed(name, make_canvas):
    canvas = make_canvas()
    given = canvas.ids.clone()
    denoiser = Watched(name in JUDGING)
    steps = run(name, canvas, denoiser=denoiser)
    for step in steps:
        assert torch.equal(step.ids[canvas.frozen], given[canvas.frozen])
        assert not (step.revealed | step.remasked | step.masked)[canvas.frozen].any()
        assert torch.equal(step.masked, step.ids == M)
        assert torch.equal(step.frozen, canvas.frozen)
    assert torch.equal(canvas.ids, given)  # the caller's canvas is not written to
    assert not steps[-1].masked.any()
    written = steps[-1].ids[~canvas.padding]
    assert (written >= 0).all() and (written < VOCAB).all()
    assert steps[0].index == 0 and not steps[0].revealed.any() and not steps[0].remasked.any()
    assert torch.equal(steps[0].ids, given)
    for before, after in itertools.pairwise(steps):
        assert after.index == before.index + 1
        changed = before.ids != after.ids
        assert torch.equal(changed, after.revealed | after.remasked)
        assert (before.masked & ~after.masked == after.revealed).all()
        assert (~before.masked & after.masked == after.remasked).all()
        assert after.seconds >= before.seconds >= 0
    assert any(step.remasked.any() for step in steps) == (name in REMASKING)
    for before, after in itertools.pairwise(steps if name not in REMASKING else []):
        unfinished = before.masked.any(1)
        assert name in WAITING or after.revealed.any(1)[unfinished].all()
        assert not after.revealed[~unfinished].any()
    # Forward passes are counted as they were made.
    assert steps[-1].nfe.sum() == denoiser.rows_seen
    assert denoiser.calls <= steps[-1].index
    assert steps[0].nfe.sum() == 0 and steps[-1].nfe[0] == 0  # nothing to write costs nothing
    assert steps[-1].nfe.max() <= steps[-1].index
    assert name in REMASKING or steps[-1].nfe.max() <= LENGTH
    for before, after in itertools.pairwise(steps):
        cost = after.nfe - before.nfe
        assert ((cost == 0) | (cost == 1)).all()
        assert (cost >= after.revealed.any(1)).all()
        if name not in JUDGING:
            assert (cost[~before.masked.any(1)] == 0).all()  # a finished row costs nothing


@every_sampler
def test_what_is_written_is_of_the_nucleus_and_its_confidence_is_its_probability_then(name):
    denoiser = TabularDenoiser(LENGTH, VOCAB, seed=6)
    steps = run(name, sampling=Sampling(0.7, top_k=3, top_p=0.6), denoiser=denoiser)
    for before, after in itertools.pairwise(steps):
        assert (after.confidence.isnan() == (after.masked | after.frozen)).all()
        untouched = ~after.revealed & ~after.masked & ~after.frozen
        assert torch.equal(after.confidence[untouched], before.confidence[untouched])
        for row, place in after.revealed.nonzero()[:40].tolist():
            p = denoiser.probabilities(tuple(before.ids[row].tolist()))[place]
            token = after.ids[row, place].item()
            assert after.confidence[row, place].item() == pytest.approx(p[token], rel=1e-4)
            assert sharpen(p, 0.7, 3, 0.6)[token] > 0


@every_sampler
@pytest.mark.parametrize("make_canvas", [mixed_canvas, padded_canvas])
def test_a_row_does_not_depend_on_the_other_rows(name, make_canvas):
    """Permuted, alone, and in a larger batch."""
    canvas, keys = make_canvas(), rng.row_keys(3, ROWS)
    whole = run(name, canvas, keys=keys)[-1]
    assert not torch.equal(whole.ids, run(name, canvas, keys=rng.row_keys(1, ROWS))[-1].ids)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    permuted = run(name, canvas.take(order), keys=keys[order])[-1]
    for field in ("ids", "nfe", "confidence"):
        expected = getattr(whole, field)[order]
        torch.testing.assert_close(
            getattr(permuted, field), expected, rtol=0, atol=0, equal_nan=True
        )
    for row in (0, 1, 17, ROWS - 1):
        one = slice(row, row + 1)
        alone = run(name, canvas.take(one), keys=keys[one])[-1]
        assert torch.equal(alone.ids, whole.ids[one])
        assert torch.equal(alone.nfe, whole.nfe[one])


@every_sampler
def test_draws_of_different_steps_and_positions_are_independent(name):
    """With predictions that never change, repeated random numbers would write repeated tokens."""
    denoiser = TabularDenoiser(LENGTH, VOCAB)
    denoiser.table = torch.zeros_like(denoiser.table)
    ids = torch.full((4000, LENGTH), M)
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    canvas = Canvas(ids, nowhere, nowhere)
    texts = run(name, canvas, Sampling(), denoiser=denoiser)[-1].ids
    if name == "ancestral, one step":
        return  # its leftovers are not drawn
    for i, j in itertools.combinations(range(LENGTH), 2):
        agree = (texts[:, i] == texts[:, j]).double().mean().item()
        assert agree == pytest.approx(1 / VOCAB, abs=0.03)


def test_padding_is_passed_on_with_its_rows_and_absent_without():
    denoiser, canvas = Watched(), padded_canvas()
    run("first-hitting", canvas, denoiser=denoiser)
    for rows, padding in zip(denoiser.query_mask, denoiser.padding_seen, strict=True):
        assert padding.shape == rows.shape
        assert not (padding & rows).any()
    need = (canvas.ids == M).any(1)
    assert torch.equal(denoiser.padding_seen[0], canvas.padding[need])
    denoiser = Watched()
    run("first-hitting", denoiser=denoiser)
    assert all(padding is None for padding in denoiser.padding_seen)


@pytest.mark.parametrize("name", ["seed", "confidence", "remdm", "p2"])
def test_a_given_mask_stays_a_mask(name):
    """Frozen is frozen, whatever token stands there."""
    canvas = mixed_canvas()
    given = canvas.ids.clone()
    given[canvas.frozen[:, 2], 2] = M
    last = run(name, Canvas(given, canvas.frozen, canvas.padding))[-1]
    assert torch.equal(last.ids[canvas.frozen], given[canvas.frozen])
    assert not last.masked.any()


def test_a_visible_token_that_is_not_frozen_is_only_noise_to_the_seed_loop():
    """A text to be rewritten: the seed loop may open it, the others keep it."""
    ids = torch.tensor([[2, M, 1, M, 0]]).repeat(200, 1)
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    for name in MAKERS:
        final = run(name, Canvas(ids, nowhere, nowhere))[-1].ids
        kept = (final[:, [0, 2, 4]] == torch.tensor([2, 1, 0])).all()
        assert kept or name in REMASKING
        assert not kept or name != "seed"
