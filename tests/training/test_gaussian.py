"""Gaussian noise of embeddings: closed forms, and an exact denoiser of two texts of two tokens."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.exact import chi_square_p
from helpers.models import save_roberta
from helpers.training import losses
from torch import nn

import diffusion
from diffusion import likelihood, rng, vectors
from diffusion.canvas import Canvas
from diffusion.collator import GaussianCollator
from diffusion.denoise import denoise
from diffusion.generate import load_writer
from diffusion.noise import make_noise
from diffusion.objective import IGNORE
from diffusion.proposal import Sampling
from diffusion.samplers import gaussian
from diffusion.samplers.make import make_sampler

D, MASK = 4, 2
NOISE = make_noise("gaussian", MASK, [], 3)  # of the tokens 0 and 1
TABLE = torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
# Of texts of two tokens: the second is mostly the first.
LAW = torch.tensor([[0.5, 0.1], [0.05, 0.35]], dtype=torch.float64)


class Exact(nn.Module):
    """A backbone whose logits at each of two positions are log p(token, what stands at the other one),
    so that with what stands at the position itself they are the posterior."""

    device, noise, passes = torch.device("cpu"), NOISE, 1

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(TABLE)
        self.model = SimpleNamespace(get_input_embeddings=lambda: self.table)
        self.seen = None  # the vectors and times of a pass

    def forward(self, ids, noisy, attention=None, inputs_embeds=None):
        x, t = self.seen
        a = NOISE.kept(t)[..., None]
        away = (x.double()[..., None, :] - a.sqrt()[..., None] * where()[:2].double()) ** 2
        each = -away.sum(-1) / (
            2 * (1 - a)
        )  # log-likelihoods (B, 2, 2) of the tokens at each position
        each = torch.where(
            noisy[..., None], each, (nn.functional.one_hot(ids, 3)[..., :2] - 1) * 1e9
        )
        joint = LAW.log() + each.flip(1)[:, :, None, :] * torch.tensor([1.0]).double()
        joint[:, 1] = LAW.T.log() + each[:, 0, None, :]
        logits = joint.logsumexp(-1)  # (B, 2, 2) of the token here, by the other position
        logits = torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], -1)
        return logits[noisy].float()

    def start(self, canvas):
        return self

    def slots(self, query):
        return torch.ones_like(query.ids[:, 0])

    def __call__(self, *args, **more):
        if len(args) > 1 or more:
            return super().__call__(*args, **more)
        (query,) = args
        self.seen = query.vectors, query.time
        return vectors.predict(self, query.ids, query.query_mask, *self.seen, NOISE)


def where() -> torch.Tensor:
    return vectors.places(TABLE, NOISE)


# ---------------------------------------------------------------- closed forms


def test_clean_embeddings_are_rounded_to_themselves():
    ids = torch.arange(2).repeat(5, 3)
    assert torch.equal(vectors.nearest(where()[ids], where(), NOISE), ids)
    assert where()[ids].norm(dim=-1).allclose(torch.tensor(2 * math.log(2) ** 0.5))
    a = NOISE.kept(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert a.tolist() == pytest.approx([0.99, 1 - math.sqrt(0.2501), 0], abs=1e-6)


def test_noise_has_its_mean_and_variance():
    n, t = 40_000, torch.tensor([[0.3]], dtype=torch.float64)
    normals = rng.normal(rng.seed_key(0), n * D).view(1, n, D)
    x = vectors.noised(TABLE, torch.ones(1, n).long(), t, normals, NOISE)[0].double()
    a = NOISE.kept(t).item()
    assert (x.mean(0) - a**0.5 * where()[1]).abs().max() < 4 * ((1 - a) / n) ** 0.5
    assert (x.var(0) / (1 - a) - 1).abs().max() < 4 * (2 / n) ** 0.5


def test_what_a_vector_says_alone_is_its_likelihood():
    backbone = lambda ids, noisy, attention, inputs_embeds: torch.zeros(int(noisy.sum()), 3)  # noqa: E731
    backbone.model = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=TABLE))
    x, t = torch.randn(1, 5, D), torch.tensor([[0.2]], dtype=torch.float64)
    noisy = torch.tensor([[True, True, False, True, True]])
    found = vectors.predict(backbone, torch.zeros(1, 5).long(), noisy, x, t, NOISE).softmax(-1)
    a = NOISE.kept(t)
    away = ((x[0, noisy[0], None] - a.sqrt() * where()) ** 2).sum(-1)
    assert torch.allclose(found, (-away / (2 * (1 - a))).softmax(-1).float(), atol=1e-5)


def test_times_are_told_apart_and_given_tokens_shown_as_they_are():
    t = torch.linspace(0, 1, 50)
    clocks = vectors.clock(t, 9)
    assert clocks.norm(dim=-1).max() < 1.1 and torch.pdist(clocks).min() > 0.02
    ids, noisy = torch.tensor([[0, 1, 0]]), torch.tensor([[False, True, False]])
    seen = vectors.shown(TABLE, ids, torch.randn(1, 3, D), t[:1, None], noisy, NOISE)
    assert torch.equal(seen[~noisy], TABLE[[0, 0]])


def test_the_bound_of_exact_predictions_is_the_entropy(monkeypatch):
    """I(x_0; x_t) grows with the SNR by half of the squared error (Guo, Shamai and Verdu 2005)."""
    each, predict = 12_000, vectors.predict

    def seen(backbone, ids, noisy, x, t, *rest):
        backbone.seen = x, t
        return predict(backbone, ids, noisy, x, t, *rest)

    monkeypatch.setattr(vectors, "predict", seen)
    ids = torch.tensor([(a, b) for a in (0, 1) for b in (0, 1)]).repeat(each, 1)
    how = {"draws": 1, "batch_size": each}
    found = likelihood.likelihood_bound(
        Exact(), ids, torch.ones_like(ids).bool(), NOISE, torch.ones(3), **how
    )
    law = LAW.flatten()
    values = torch.tensor(found.by_block, dtype=torch.float64).view(each, 4)
    bound = (law * values.mean(0)).sum().item() * 2  # nats of a text
    error = (law**2 * values.var(0) / each).sum().sqrt().item() * 2
    entropy = -(law * law.log()).sum().item()
    assert abs(bound - entropy) < 4 * error < 0.15 * entropy


# ---------------------------------------------------------------- the samplers


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_with_exact_predictions_texts_have_their_frequencies(name):
    n = 3000
    ids, free = torch.full((n, 2), MASK), torch.zeros(n, 2).bool()
    canvas = Canvas(ids, free, free)
    sampler = make_sampler(name, n_steps=60, noise=NOISE)
    *_, last = denoise(canvas, Exact(), sampler, Sampling(), rng.row_keys(3, n))
    assert not last.masked.any() and not last.random.any() and (last.nfe == 60).all()
    found = torch.bincount(2 * last.ids[:, 0] + last.ids[:, 1], minlength=4).tolist()
    assert chi_square_p(found, (LAW.flatten() * n).tolist()) > 1e-3


def test_a_given_token_stays_and_the_other_follows_it():
    n = 1500
    ids, frozen = torch.tensor([[0, MASK]]).repeat(n, 1), torch.tensor([[True, False]]).repeat(n, 1)
    canvas = Canvas(ids, frozen, torch.zeros_like(frozen))
    sampler = make_sampler("ancestral", n_steps=60, noise=NOISE)
    steps = list(denoise(canvas, Exact(), sampler, Sampling(), rng.row_keys(1, n)))
    assert all((step.ids[:, 0] == 0).all() for step in steps)
    share = (steps[-1].ids[:, 1] == 0).double().mean().item()
    assert share == pytest.approx(5 / 6, abs=4 * (5 / 36 / n) ** 0.5)


def test_ddim_is_deterministic_after_its_beginning():
    state = SimpleNamespace(turn=torch.tensor([[1]]))
    x, x_0 = torch.randn(2, 1, 3, D)
    a, a_s = torch.tensor([[[0.2]]]), torch.tensor([[[0.6]]])
    step = make_sampler("ddim", n_steps=4, noise=NOISE).step
    e = (x - a.sqrt() * x_0) / (1 - a).sqrt()
    assert torch.allclose(step(state, x, x_0, a, a_s), a_s.sqrt() * x_0 + (1 - a_s).sqrt() * e)


def test_a_step_back_is_the_product_of_two_normal_laws(monkeypatch):
    """x_s given x_0, and x_t given x_s: precisions add up."""
    sampler, state = make_sampler("ancestral", n_steps=4, noise=NOISE), None
    x, x_0 = torch.randn(2, 1, 3, D, dtype=torch.float64)
    a, a_s = torch.tensor([[[0.2]]]).double(), torch.tensor([[[0.6]]]).double()
    kept = a / a_s
    precision = 1 / (1 - a_s) + kept / (1 - kept)
    mean = (a_s.sqrt() * x_0 / (1 - a_s) + kept.sqrt() * x / (1 - kept)) / precision
    for normal in (0.0, 1.0):
        monkeypatch.setattr(sampler, "normals", lambda *_, normal=normal: normal)
        expected = mean + normal / precision.sqrt()
        assert torch.allclose(sampler.step(state, x, x_0, a, a_s), expected)


def test_clamping_takes_one_token_from_its_share_of_the_steps_on(monkeypatch):
    seen, step = [], gaussian.Ddim.step

    def watched(self, state, x, x_0, a, a_s):
        seen.append(torch.cdist(x_0.flatten(0, 1), where()[:2]).amin(1).max().item())
        return step(self, state, x, x_0, a, a_s)

    monkeypatch.setattr(gaussian.Ddim, "step", watched)
    ids, free = torch.full((50, 2), MASK), torch.zeros(50, 2).bool()
    sampler = make_sampler("ddim", n_steps=4, clamp=0.5, noise=NOISE)
    list(denoise(Canvas(ids, free, free), Exact(), sampler, Sampling(), rng.row_keys(0, 50)))
    assert min(seen[:2]) > 0.1 and max(seen[2:]) < 1e-3


# ---------------------------------------------------------------- batches of training


def features(first: int, count: int, length: int = 20) -> list[dict]:
    ids = torch.randint(5, 50, (count, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    return [{"input_ids": row, "draw": first + i} for i, row in enumerate(ids)]


def test_what_is_noise_what_is_given_and_what_is_hidden():
    noise = make_noise("gaussian", 4, [0, 1], 50)
    rows = features(0, 4000)
    batch = GaussianCollator(noise, [0, 1], 3, global_batch=8)(rows)
    clean = torch.stack([row["input_ids"] for row in rows])
    noisy = batch["labels"] != IGNORE
    assert not noisy[:, :3].any() and noisy.any(1).all()
    assert (batch["labels"][noisy] == clean[noisy]).all()
    whole = noisy[:, 3:].all(1)
    assert whole.double().mean() == pytest.approx(0.5 + 0.5 * 2 / 17**2, abs=0.03)
    edges = noisy[~whole].int().diff(dim=1).abs().sum(1)
    assert (edges <= 2).all()  # one span
    given = ~noisy[:, 3:]
    hidden = (batch["input_ids"][:, 3:] == 4) & given
    share = hidden.any(1)[given.any(1)].double().mean()
    assert (
        share == pytest.approx(0.1, abs=0.03) and (hidden.any(1) <= (hidden == given).all(1)).all()
    )
    assert torch.allclose(batch["weights"].sum(1), torch.ones(len(rows)))
    strata = (batch["time"].view(-1, 8) * 8).long().sort(1).values
    assert torch.equal(strata, torch.arange(8).expand(500, 8))
    part = GaussianCollator(noise, [0, 1], 3, global_batch=8)(rows[1001:1003])
    assert all(torch.equal(part[name], batch[name][1001:1003]) for name in batch)


# ---------------------------------------------------------------- a model


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = save_roberta(tmp_path_factory.mktemp("gaussian") / "model", noise="gaussian")
    return load_writer(str(folder), dtype="float32")


def test_a_text_does_not_depend_on_its_batch(writer):
    prompts = ["The old", "A river runs through", "The"]
    how = {"length": 6, "n_steps": 5, "temperature": 0.8, "sampler": "ancestral"}
    together = diffusion.write(writer, prompts, **how)
    *_, first = diffusion.steps(writer, prompts[0], **how)
    assert together[0] == diffusion.write(writer, prompts[:1], **how)[0]
    assert all(text.startswith(prompt) for text, prompt in zip(together, prompts, strict=True))
    assert first.nfe.tolist() == [5]
    assert diffusion.write(writer, prompts, **how | {"sampler": "ddim"}) != together


@pytest.mark.slow
def test_a_run_learns_goes_on_where_it_was_and_writes(resumed, run):
    out, *_ = resumed("--noise", "gaussian", "--ema", 0.5, at=8, steps=16)
    values = list(losses(out).values())
    assert sum(values[-6:]) < sum(values[:6])
    (text,) = diffusion.write(load_writer(str(out)), ["The cat"], length=4)
    assert text.startswith("The cat")
    half, _ = run("--noise", "gaussian", "--max_steps", 4, "--dtype", "bfloat16", name="half")
    assert all(0 < x < 30 for x in losses(half).values())
