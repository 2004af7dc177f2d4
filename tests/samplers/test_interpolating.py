"""The law of the samplers for noise with random tokens, against Bayes' rule by enumeration."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from helpers.draws import SMALL, M, assert_trajectory, run, same, start
from helpers.exact import RATES, ExactLaws, Forward, assert_law, normalise, without_replacement
from helpers.tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.proposal import Sampling
from diffusion.samplers.interpolating import Ddim, Gibbs, Posterior, SelfCorrection
from diffusion.samplers.remasking import RandomRemask, ReMDM
from diffusion.samplers.unmasking import Ancestral

P_U, ROWS, EDITABLE = 0.3, 60_000, (0, 2)
TABLES = {
    kind: TabularDenoiser(length=3, vocab=3, seed=5, noise=kind, p_u=P_U)
    for kind in ("absorbing", "uniform", "hybrid")
}
every_kind = pytest.mark.parametrize("kind", ["uniform", "hybrid"])


class Laws(ExactLaws):
    """The published steps of one denoiser under its own noise."""

    def __init__(self, kind, **sampling):
        super().__init__(TABLES[kind], **sampling)
        self.forward = Forward(kind, self.mask, P_U)

    def predictions(self, canvas, i):
        """p (V,) of a position as it is drawn from."""
        p = torch.zeros(self.mask, dtype=torch.float64)
        for token, x in self.choices(canvas, i):
            p[token] = x
        return p

    def step(self, canvas, law_of):
        """Each editable position on its own: ``law_of`` (z, p) -> a vector over all states."""
        options = [[(token, 1.0)] for token in canvas]
        for i in EDITABLE:
            law = law_of(canvas[i], self.predictions(canvas, i))
            assert law.sum().item() == pytest.approx(1, abs=1e-9)
            assert (law > -1e-12).all()
            options[i] = [(y, x) for y, x in enumerate(law.tolist()) if x > 1e-12]
        return self.independent(canvas, options)

    def without_random(self, s, law, share, p):
        """A law in which the random tokens of the noise at s, of which it has the ``share``, are
        drawn from p instead."""
        law = law.clone()
        random = self.forward.noise(s)[1][: self.mask] * share
        law[: self.mask] += random.sum() * p - random
        return law

    def posterior(self, s, r, last):
        def law_of(z, p):
            law = self.forward.posterior(s, r, z, p)
            if not last:
                return law
            prior = torch.cat([p, torch.zeros(1)]).double() @ self.forward.until(r)
            kept = self.forward.noise(r)[0] / self.forward.noise(s)[0]
            came = self.forward.noise(r)[1] - kept * self.forward.noise(s)[1]
            return self.without_random(s, law, came[z] / prior[z], p)

        return lambda canvas: self.step(canvas, law_of)

    def ddim(self, s, r, share, last):
        """The published mixture, with the largest sigma that leaves nothing negative."""
        (a, m), (a_s, m_s) = self.forward.noise(r), self.forward.noise(s)
        sigma = share * min(
            [1.0, *(x for x in [a_s / a if a else 1.0])]
            + [(y / x).item() for x, y in zip(m, m_s, strict=True) if x > 0]
        )

        def law_of(z, p):
            law = sigma * torch.eye(self.mask + 1, dtype=torch.float64)[z] + m_s - sigma * m
            law[: self.mask] += (a_s - sigma * a) * self.forward.token(r, z, p)
            if not last:
                return law
            fresh = (m_s - sigma * m)[: self.mask]
            law[: self.mask] += fresh.sum() * self.forward.token(r, z, p) - fresh
            return law

        return lambda canvas: self.step(canvas, law_of)

    def conditional(self, s, canvas, i):
        """q_s(z_i | z_-i) as a vector over all states."""
        a, law = self.forward.noise(s)
        return torch.cat([a * self.predictions(canvas, i), torch.zeros(1)]).double() + law

    def gibbs(self, s, positions=1, choice="random", tau=1.0, places=EDITABLE):
        """Some places, drawn without replacement, are drawn anew at once."""

        def step(canvas):
            law, q = defaultdict(float), {i: self.conditional(s, canvas, i) for i in places}
            weights = dict.fromkeys(places, 1.0)
            if choice == "margin":
                for i, z in ((i, canvas[i]) for i in places):
                    other = max(x for y, x in enumerate(q[i].tolist()) if y != z)
                    weights[i] = math.exp(-(math.log(q[i][z]) - math.log(other)) / tau)
            weights = dict(zip(places, normalise(weights.values()), strict=True))
            for chosen, chance in without_replacement(weights, min(positions, len(places))):
                options = [[(token, 1.0)] for token in canvas]
                for i in chosen:
                    options[i] = [(y, x) for y, x in enumerate(q[i].tolist()) if x > 0]
                for after, x in self.independent(canvas, options).items():
                    law[after] += chance * x
            return law

        return step

    def noise_first(self, canvas):
        """The canvas that the loop begins with."""
        if self.forward.kind != "uniform":
            return {canvas: 1.0}
        return self.step(canvas, lambda z, p: self.forward.noise(1.0)[1])


def trajectory(laws, sampler, step):
    """Laws after each step of a sampler with END 0.3; ``step`` (s, r, last) -> canvas -> law."""
    n = sampler.total
    times = [RATES["linear"](1 - k / n * (1 - sampler.END)) for k in range(n + 1)]
    pairs = list(itertools.pairwise(times))
    steps = [step(s, r, k == n - 1) for k, (r, s) in enumerate(pairs)]
    found = laws.trajectory(start(TABLES["hybrid"]), [laws.noise_first, *steps, laws.argmax_step])
    return found[1:]


def late(sampler):
    sampler.END = 0.3  # so that the last argmax has something left to fill
    return sampler


samplings = pytest.mark.parametrize("own", [{}, {"temperature": 0.7, "top_k": 2}, {"top_p": 0.8}])


@pytest.mark.slow
@samplings
@every_kind
def test_the_reverse_process_follows_bayes_rule(kind, own):
    laws, sampler = Laws(kind, **own), late(Posterior(3))
    ours = run(TABLES[kind], sampler, Sampling(**own), rows=ROWS, seed=1)
    follow(ours, trajectory(laws, sampler, laws.posterior))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@every_kind
def test_ddim_follows_its_mixture(kind, share):
    laws, sampler = Laws(kind), late(Ddim(3, share))
    ours = run(TABLES[kind], sampler, rows=ROWS, seed=2)
    follow(ours, trajectory(laws, sampler, lambda s, r, last: laws.ddim(s, r, share, last)))


def follow(steps, laws) -> None:
    """Step 0 is the canvas that the loop begins with; texts without a mask need no argmax."""
    assert_law(steps[0].ids, laws[0])
    assert_trajectory(steps, laws if len(steps) == len(laws) else laws[:-1])


# ------------------------------------------------------------ what must not pass


class Unseen:
    """Takes what stands there for noise, however probable it is."""

    def decide(self, state, proposal):
        proposal.chance_of = lambda tokens: torch.zeros(tokens.shape)
        return super().decide(state, proposal)


class Blind(Unseen, Posterior):
    pass


class Stale(Unseen, Ddim):
    pass


class Mean(Posterior):
    """Draws what changes from the prediction alone, without the noise that is left at s."""

    def answer(self, state, proposal, model, random, masked):
        return super().answer(state, proposal, model | random, random & False, masked)


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("mutant", [Blind(3), Mean(3), Stale(3, 0.4)], ids=repr)
def test_a_wrong_process_is_seen(kind, mutant):
    laws, sampler = Laws(kind), late(mutant)
    ours = run(TABLES[kind], sampler, rows=ROWS, seed=1)

    def step(*times):
        return (
            laws.ddim(*times[:2], 0.4, times[2])
            if type(mutant) is Stale
            else laws.posterior(*times)
        )

    with pytest.raises(AssertionError, match=r"law|impossible"):
        follow(ours, trajectory(laws, sampler, step))


# ------------------------------------------------------------ what must be the same


@pytest.mark.parametrize("clock", [{"time_power": 2.0}, {"clock_delay": 0.5}])
@pytest.mark.parametrize("schedule", RATES)
def test_without_random_tokens_the_reverse_process_is_that_of_masks(schedule, clock):
    """Bit for bit, and for as many passes."""
    none = TabularDenoiser(length=4, vocab=3, seed=2, noise="hybrid", p_u=0.0)
    same(
        run(none, Posterior(5, schedule=schedule, **clock), rows=300, seed=3),
        run(SMALL, Ancestral(5, schedule=schedule, **clock), rows=300, seed=3),
    )


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.9, 1.0])
def test_of_masks_ddim_is_remdm(sigma):
    """Its sigma is what of a written token becomes a mask: b_s - sigma b_t, that of psi."""
    ours = run(SMALL, Ddim(5, sigma), rows=3000, seed=4)
    same(ours, run(SMALL, ReMDM(5, "psi", kappa=sigma), rows=3000, seed=4))


@pytest.mark.slow
def test_of_masks_ddim_reaches_from_ancestral_to_the_seed_loop():
    same(run(SMALL, Ddim(5, 1.0), rows=3000), run(SMALL, Ancestral(5), rows=3000))
    nothing_kept, seed = Ddim(4, 0.0), RandomRemask(4)
    nothing_kept.END = 0.0
    laws = ExactLaws(SMALL)
    steps = [lambda c, k=k: laws.seed_step(c, (0, 2, 3), 1 - k / 4) for k in range(1, 5)]
    for sampler in (nothing_kept, seed):
        ours = run(SMALL, sampler, rows=ROWS, seed=5)
        assert_trajectory(ours, laws.trajectory(start(SMALL), steps))


@pytest.mark.slow
def test_the_largest_sigma_brings_no_fresh_noise_and_none_keeps_what_stands_there():
    for step in run(TABLES["uniform"], Ddim(4, 1.0), rows=2000, seed=6)[1:]:
        assert not (step.random & step.replaced).any()
        assert step.random.float().mean() < 1
    # Of a prediction without doubt, nothing but fresh noise is drawn: the text does not depend on
    # what stood there.
    sure = TabularDenoiser(length=3, vocab=3, noise="uniform")
    sure.table[:] = torch.tensor([50.0, 0, 0])
    after = run(sure, Ddim(2, 0.0), rows=20_000, seed=7)[1].ids[:, 0]
    share = torch.bincount(after, minlength=3) / len(after)
    assert share.tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6], abs=0.02)


def one_at_random(n_steps):
    return Gibbs(n_steps, positions=1, choice="random")


@every_kind
@pytest.mark.parametrize("kind_of", [Posterior, Ddim, SelfCorrection, Gibbs, one_at_random])
def test_a_text_does_not_depend_on_the_others(kind, kind_of):
    ids = torch.tensor([[M, 2, M], [M, M, M], [0, 2, M], [0, 1, 2]])
    canvas = Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool))
    keys = rng.row_keys(8, 4)
    together = list(denoise(canvas, TABLES[kind], kind_of(4), Sampling(), keys))
    for row in range(4):
        some = canvas.take([row])
        *_, last = denoise(some, TABLES[kind], kind_of(4), Sampling(), keys[[row]])
        assert torch.equal(last.ids[0], together[-1].ids[row])
        assert last.nfe[0] == together[-1].nfe[row]
        assert torch.equal(last.ids[0][canvas.frozen[row]], ids[row][canvas.frozen[row]])
    assert together[-1].nfe[3] == 0


# ------------------------------------------------------------ what is told of a step


@every_kind
def test_steps_tell_noise_and_what_takes_its_place(kind):
    steps = run(TABLES[kind], Posterior(8), rows=2000, seed=9)
    first = steps[0]
    assert not (first.masked & first.random).any()
    assert ((first.masked | first.random) == ~first.frozen).all()
    assert first.random.any() == (kind == "uniform")
    seen = defaultdict(bool)
    for before, after in itertools.pairwise(steps):
        changed = before.ids != after.ids
        assert (changed <= (after.revealed | after.remasked | after.random)).all()
        known = ~(before.masked | before.random | before.frozen)
        assert torch.equal(after.replaced, after.revealed & known)
        assert (after.replaced <= changed).all()
        assert not (after.random & (after.masked | after.revealed)).any()
        for name in ("replaced", "random", "remasked"):
            seen[name] |= bool(getattr(after, name).any())
    assert seen["replaced"] and (seen["random"] or kind == "uniform")
    assert seen["remasked"] == (kind == "hybrid")
    assert not (steps[-1].random | steps[-1].masked).any()


# ------------------------------------------------------------ self-correction


def corrected(p, canvas, corrections, patience, mask=3):
    """GIDD's loop in plain Python, at temperature 0: [canvas after each step]."""
    out, best, waited = [canvas], 0.0, 0
    for _ in range(corrections):
        rows = p(canvas)
        top = [max(range(mask), key=lambda t, row=row: row[t]) for row in rows]
        differing = [i for i in EDITABLE if top[i] != canvas[i]]
        after = list(canvas)
        for i in differing[:1]:  # each has the probability 1
            after[i] = top[i]
        share = sum(after[i] == top[i] for i in EDITABLE) / len(EDITABLE)
        best, waited = (share, 0) if share > best else (best, waited + 1)
        if waited > patience:
            return [*out, canvas]
        canvas = tuple(after)
        out.append(canvas)
        if not differing:
            return out
    return out


@pytest.mark.parametrize("patience", [0, 1, 4])
def test_self_correction_swaps_one_token_until_none_differs_or_patience_ends(patience):
    table = TABLES["hybrid"]
    sampler = SelfCorrection(2, corrections=6, patience=patience, swap_temperature=0.0)
    steps = run(table, sampler, rows=200, seed=10)
    probabilities = ExactLaws(table).p
    lengths = set()
    for row in range(200):
        texts = [tuple(step.ids[row].tolist()) for step in steps]
        done = next(i for i, s in enumerate(steps) if i > 1 and not s.masked[row].any())
        expected = corrected(probabilities, texts[done], 6, patience)
        lengths.add(len(expected))
        expected += [expected[-1]] * (len(texts) - done - len(expected))
        assert texts[done:] == expected
    assert len(lengths) > 1


@pytest.mark.slow
def test_what_is_swapped_in_has_the_highest_probability_of_those_drawn():
    """One step at temperature 1, from every text: the law by enumeration of the draws."""
    table, rows = TABLES["hybrid"], 20_000
    exact = ExactLaws(table)
    sampler = SelfCorrection(1, corrections=1, swap_temperature=1.0)
    before, after = run(table, sampler, rows=rows, seed=11)[-2:]
    texts, counts = before.ids.unique(dim=0, return_counts=True)
    text = tuple(texts[counts.argmax()].tolist())
    here = (before.ids == torch.tensor(text)).all(1)
    law, p = defaultdict(float), exact.p(text)
    for drawn, chance in exact.draws(text, EDITABLE):
        differing = [i for i in EDITABLE if drawn[i] != text[i]]
        best = sorted(differing, key=lambda i: -p[i][drawn[i]])[:1]
        law[exact.replace(text, {i: drawn[i] for i in best})] += chance
    assert here.sum() > 1000
    assert_law(after.ids[here], dict(law))
    law = {exact.replace(text, {0: (text[0] + 1) % 3}): 1.0}
    with pytest.raises(AssertionError):
        assert_law(after.ids[here], law)


# ------------------------------------------------------------ Gibbs corrector

CORRECTORS = [
    {"choice": "random", "positions": 1, "corrections": 2},
    {"choice": "random", "positions": 2},
    {"choice": "margin", "positions": 1, "choice_temperature": 0.5, "corrections": 1},
    {"choice": "margin"},
]


def corrector(laws, own, s, **more):
    """The enumerated rule of the options ``own``, from the published defaults."""
    rule = {"positions": 12, "choice": "margin", "choice_temperature": 1.0} | own
    positions, choice, tau = (rule[k] for k in ("positions", "choice", "choice_temperature"))
    return laws.gibbs(s, positions, choice, tau, **more)


def corrected_trajectory(laws, sampler, own):
    """Laws after each step, with the corrector after each step of the reverse process but the last."""
    n = sampler.n_steps
    times = [RATES["linear"](1 - k / n * (1 - sampler.END)) for k in range(n + 1)]
    steps = [laws.noise_first]
    for k, (r, s) in enumerate(itertools.pairwise(times)):
        steps.append(laws.posterior(s, r, k == n - 1))
        steps += [corrector(laws, own, s)] * (sampler.corrections if k < n - 1 else 0)
    assert len(steps) == sampler.total + 1
    return laws.trajectory(start(TABLES["hybrid"]), [*steps, laws.argmax_step])[1:]


@pytest.mark.slow
@pytest.mark.parametrize("own", CORRECTORS, ids=str)
@every_kind
def test_each_step_of_the_gibbs_corrector_follows_its_law(kind, own):
    laws, sampler = Laws(kind), late(Gibbs(3, **own))
    ours = run(TABLES[kind], sampler, rows=ROWS, seed=12)
    follow(ours, corrected_trajectory(laws, sampler, own))
    assert all((step.ids[:, 1] == 2).all() for step in ours)  # the given token


@pytest.mark.slow
@every_kind
def test_the_gibbs_corrector_draws_as_sampling_says(kind):
    own = {"temperature": 0.7, "top_k": 2}
    laws, sampler = Laws(kind, **own), late(Gibbs(3))
    ours = run(TABLES[kind], sampler, Sampling(**own), rows=ROWS, seed=13)
    follow(ours, corrected_trajectory(laws, sampler, {}))


class Clean(Gibbs):
    """Draws from the prediction alone, without the noise that is left at s."""

    def answer(self, state, proposal, model, random, masked):
        here = self.correcting(state)
        model = model | (here & (random | masked))
        return super().answer(state, proposal, model, random & ~here, masked & ~here)


class Reversed(Gibbs):
    """Prefers the largest margin."""

    def margin(self, state, proposal):
        return -super().margin(state, proposal)


class Early(Gibbs):
    """At the time before the step of the reverse process, not after it."""

    def shares(self, state):
        before, after = super().shares(state)
        return before, tuple(
            torch.where(self.correcting(state), *pair) for pair in zip(before, after, strict=True)
        )


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("mutant", [Clean, Reversed, Early])
def test_a_wrong_corrector_is_seen(kind, mutant):
    own = {"positions": 1, "corrections": 1}
    laws, sampler = Laws(kind), late(mutant(3, **own))
    ours = run(TABLES[kind], sampler, rows=ROWS, seed=12)
    with pytest.raises(AssertionError, match=r"law|impossible"):
        follow(ours, corrected_trajectory(laws, sampler, own))


HALF = RATES["linear"](1 - (1 - Gibbs.END) / 2)  # the noise share after the first of two steps


def known_law(kind):
    """A denoiser that knows a random law of three tokens, noised by `HALF`, and that law of noisy
    texts: {text: probability}. Its prediction for a position is one from all others."""
    forward, table = Forward(kind, 3, P_U), TabularDenoiser(length=3, vocab=3, noise=kind, p_u=P_U)
    generator = torch.Generator().manual_seed(14)
    clean = (torch.randn(3, 3, 3, generator=generator, dtype=torch.float64) * 1.5).exp()
    clean, channel = clean / clean.sum(), forward.until(HALF)[:3]
    one = "xyz,xa,yb,zc->abc"
    noisy = torch.einsum(one, clean, channel, channel, channel)
    every = torch.ones(3, 4, dtype=torch.float64)  # p(x_i, z_-i): nothing is seen of position i
    for i in range(3):
        seen = [every if i == j else channel for j in range(3)]
        for x in range(3):
            part = torch.zeros_like(clean)
            part.movedim(i, 0)[x] = clean.movedim(i, 0)[x]
            joint = torch.einsum(one, part, *seen)
            table.table[:, i, x] = joint.permute(2, 1, 0).flatten().log().float()
    states = itertools.product(range(4), repeat=3)
    return table, {z: noisy[z].item() for z in states if noisy[z] > 0}


def after(law, step):
    """The law after a step (canvas -> law) from texts of ``law``."""
    found = defaultdict(float)
    for canvas, chance in law.items():
        for text, x in step(canvas).items():
            found[text] += chance * x
    return found


class OnlyCorrecting(Gibbs):
    """Its first ``corrections`` steps are those of the corrector after the first of two steps."""

    def start(self, state):
        state.since = state.since - 1


@pytest.mark.parametrize("own", CORRECTORS, ids=str)
@every_kind
def test_one_position_at_random_leaves_the_noisy_texts_as_they_are(kind, own, monkeypatch):
    """The stationary law by enumeration; several at once, or a choice by what stands there, move it."""
    table, law = known_law(kind)
    monkeypatch.setitem(TABLES, kind, table)
    moved = after(law, corrector(Laws(kind), own, HALF, places=(0, 1, 2)))
    assert moved.keys() == law.keys()
    distance = sum(abs(moved[z] - law[z]) for z in law) / 2
    exact = own["choice"] == "random" and own["positions"] == 1
    assert distance < 1e-7 if exact else distance > 0.01  # the table is in float32


@pytest.mark.slow
@pytest.mark.parametrize("own", CORRECTORS, ids=str)
@every_kind
def test_corrector_steps_from_noisy_texts_follow_the_enumerated_law(kind, own, monkeypatch):
    table, law = known_law(kind)
    monkeypatch.setitem(TABLES, kind, table)
    step = corrector(Laws(kind), own, HALF, places=(0, 1, 2))
    texts, generator = torch.tensor(list(law)), torch.Generator().manual_seed(15)
    some = torch.multinomial(torch.tensor(list(law.values())), ROWS, True, generator=generator)
    nothing = torch.zeros(ROWS, 3, dtype=torch.bool)
    canvas, sampler = Canvas(texts[some], nothing, nothing), OnlyCorrecting(2, **own)
    stream = denoise(canvas, table, sampler, Sampling(), rng.row_keys(16, ROWS))
    for found in itertools.islice(stream, sampler.corrections + 1):
        assert_law(found.ids, law)
        law = after(law, step)


def test_the_published_defaults_and_the_length_of_the_gibbs_corrector():
    sampler = Gibbs(5)
    assert (sampler.corrections, sampler.positions) == (2, 12)
    assert (sampler.choice, sampler.choice_temperature) == ("margin", 1.0)
    assert sampler.total == 5 + 2 * 4 and Gibbs(1).total == 1


@every_kind
def test_the_gibbs_corrector_never_touches_what_is_given_and_obeys_its_seed(kind):
    runs = [run(TABLES[kind], Gibbs(4, positions=1), rows=300, seed=seed) for seed in (1, 1, 2)]
    same(*runs[:2])
    assert (runs[0][-1].ids != runs[2][-1].ids).any()
    for step in runs[0]:
        assert (step.ids[:, 1] == 2).all()
        assert not (step.revealed | step.remasked | step.random)[:, 1].any()


def test_positions_that_become_noise_cost_no_forward_pass():
    """Chosen at random, few positions a step, most of them noise while the noise share is high."""
    steps = run(TABLES["uniform"], one_at_random(4), rows=2000, seed=17)
    judged = run(TABLES["uniform"], Gibbs(4, positions=1), rows=2000, seed=17)
    assert steps[-1].nfe.float().mean() + 2 < judged[-1].nfe.float().mean()
