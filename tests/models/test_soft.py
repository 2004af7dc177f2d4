"""Soft-masking: the mixture against its formula, memory against enumeration, and what it leaves alone."""

import math
from collections import defaultdict

import pytest
import torch
from helpers import families
from helpers.draws import M, assert_trajectory, run, start
from helpers.exact import ExactLaws
from helpers.tabular import TabularDenoiser
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM

from diffusion import rng
from diffusion.canvas import Allowed, Canvas, Feedback, Query
from diffusion.collator import TwoPassCollator
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.generate import denoise_windows
from diffusion.models import layouts
from diffusion.models.backbone import Backbone
from diffusion.models.cached import InBlocks
from diffusion.models.denoiser import Denoiser
from diffusion.models.guidance import Guided
from diffusion.models.soft import SoftMask, SoftMasked, TwoPass, blend, load_soft_mask, summary
from diffusion.noise import Absorbing
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.training.build import check_embeddings

MASK, VOCAB, BOS = 4, 40, 0
NOISE = Absorbing(MASK)
KINDS = ["roberta", "bert", "electra", "distilbert", "mpnet", "modernbert"]
every_family = pytest.mark.parametrize("kind", KINDS)
every_mixing = pytest.mark.parametrize("mixing", ["linear", "spherical"])


def tiny(kind="roberta", shift=False):
    return families.tiny(kind, VOCAB, shift=shift)


def some_ids(rows=3, length=12, masks=(3, 4, 7, 11)):
    ids = torch.randint(5, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = BOS
    ids[:, list(masks)] = MASK
    ids[0, 3] = 9  # rows differ
    return ids


def strong(k=3, mixing="linear"):
    """Fed back a lot, whatever the entropy."""
    return SoftMask(k, mixing, omega_s=0.7, omega_a=0.5, omega_b=-3.0).requires_grad_(False)


# ---------------------------------------------------------------- the formula


def test_the_published_start():
    soft = SoftMask(omega_s=0.5)
    assert [x.item() for x in soft.omegas()] == pytest.approx([0.5, 6.66, -0.75], rel=1e-5)
    shares = soft.strength(torch.tensor([0.0, 0.75, 1.0, 2.0])) / 0.5
    assert shares.tolist() == pytest.approx([0.99, 0.50, 0.16, 0.0002], abs=0.005)
    lambdas = soft.strength(torch.linspace(0, 8, 50))
    assert (lambdas.diff() < 0).all()
    least = SoftMask(omega_s=0.0).omegas()[0]
    assert least.item() == pytest.approx(1e-6, rel=1e-3)


def test_the_summary_of_predictions():
    logits = torch.randn(70_000, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, MASK] = -torch.inf
    entropy, ids, chances = summary(logits, 3)
    p = logits.double().softmax(-1)
    torch.testing.assert_close(
        entropy.double(), torch.special.entr(p).sum(-1), rtol=1e-4, atol=1e-5
    )
    best = p.topk(3)
    assert torch.equal(ids, best.indices)
    expected = best.values / best.values.sum(1, keepdim=True)
    torch.testing.assert_close(chances.double(), expected, rtol=1e-4, atol=1e-6)
    assert [len(part) for part in summary(logits[:0], 3)] == [0, 0, 0]


@every_mixing
def test_k_of_all_tokens_is_the_dense_mixture(mixing):
    soft, table = strong(VOCAB, mixing), torch.nn.Embedding(VOCAB, 8)
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1))
    feedback = soft.feedback(logits)
    torch.testing.assert_close(feedback.weights.sum(1), torch.ones(4))
    ids = torch.full((1, 4), MASK)
    found = blend(table, ids, NOISE, feedback)[0]
    p, w, mask = logits.softmax(-1), table.weight, table.weight[MASK]
    share, slope, middle = soft.omegas()
    strength = share / (1 + torch.exp(-slope * (-torch.special.entr(p).sum(-1) - middle)))
    mean = p @ w
    for i, one in enumerate(strength.tolist()):
        if mixing == "linear":
            expected = (1 - one) * mask + one * mean[i]
        else:
            a, b = mask / mask.norm(), mean[i] / mean[i].norm()
            angle = math.acos((a @ b).item())
            arc = (math.sin((1 - one) * angle) * a + math.sin(one * angle) * b) / math.sin(angle)
            expected = arc * ((1 - one) * mask.norm() + one * (p[i] @ w.norm(dim=1)))
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the model, unchanged elsewhere


@every_family
@pytest.mark.parametrize("path", ["full", "layout", "shadows", "blocks"])
def test_embeddings_are_the_ids_they_stand_for(kind, path):
    """Without memory, bit for bit, on every way through the model."""
    if path != "full" and kind in ("mpnet", "modernbert"):
        pytest.skip("counts distances: no layouts and shadows")
    model, ids = tiny(kind, shift=path == "layout"), some_ids()
    backbone, query_mask = Backbone(model), NOISE.noisy(ids)
    plain = Feedback.plain(*ids.shape, 3, ids.device)
    embeds = blend(model.get_input_embeddings(), ids, NOISE, plain.take(NOISE.noisy(ids)))
    if path == "full":
        got, expected = backbone(ids, query_mask, inputs_embeds=embeds), backbone(ids, query_mask)
    elif path == "layout":
        slots = layouts.arrange("block4", ids.shape[1])
        ids = slots.fill(ids, ids)
        query_mask = NOISE.noisy(ids)
        embeds = model.get_input_embeddings()(ids)
        got = backbone(ids, query_mask, layout=slots, inputs_embeds=embeds)
        expected = backbone(ids, query_mask, layout=slots)
    elif path == "shadows":
        shadows = torch.zeros_like(query_mask)
        shadows[:, 5] = True
        got = backbone.shadowed(ids, query_mask | shadows, shadows, NOISE, None, embeds)
        expected = backbone.shadowed(ids, query_mask | shadows, shadows, NOISE)
    else:
        canvas = Canvas(ids, torch.arange(12).expand(3, -1) < 3, torch.zeros_like(query_mask))
        query_mask = query_mask & (torch.arange(12) < 7) & (torch.arange(12) >= 3)
        one, other = (InBlocks(Denoiser(model, NOISE, [1]), 4).start(canvas) for _ in range(2))
        with torch.inference_mode():
            got = one(Query(ids, query_mask, feedback=plain))
            expected = other(Query(ids, query_mask))
    assert torch.equal(got, expected)


@every_mixing
@pytest.mark.parametrize("name", ["remdm", "confidence", "wino"])
@pytest.mark.parametrize("where", ["full", "blocks", "guided"])
def test_no_strength_is_no_soft_masking(mixing, name, where):
    soft = SoftMask(3, mixing).requires_grad_(False)
    soft.rho.fill_(-torch.inf)
    model, ids = tiny(shift=True), some_ids(masks=range(3, 12))
    frozen = ~NOISE.noisy(ids)
    canvas = Canvas(ids, frozen, torch.zeros_like(frozen))

    def texts(wrap):
        inner = Denoiser(model, NOISE, [0, 1])
        denoiser = wrap(InBlocks(inner, 4) if where == "blocks" else inner)
        if where == "guided":
            denoiser = Guided(denoiser, 0.5, [0])
        more = {"n_steps": 6} if name != "wino" else {}
        block = {"block_length": 4, "apart": True} if where == "blocks" else {}
        sampler = make_sampler(name, **more, **block)
        return [s.ids for s in denoise(canvas, denoiser, sampler, Sampling(), rng.row_keys(0, 3))]

    plain, softened = texts(lambda d: d), texts(lambda d: SoftMasked(d, soft))
    assert len(plain) == len(softened)
    assert all(torch.equal(a, b) for a, b in zip(plain, softened, strict=True))


# ---------------------------------------------------------------- two passes, as trained


@every_mixing
@pytest.mark.parametrize("layout", [None, "block4"])
@pytest.mark.parametrize("shift", [True, False])
def test_the_second_pass_sees_the_first(mixing, layout, shift):
    """Computed anew from the formula, mask by mask."""
    model, soft, ids = tiny(shift=shift), strong(2, mixing), some_ids()
    backbone, more = Backbone(model), {}
    if layout:
        more["layout"] = slots = layouts.arrange(layout, ids.shape[1], shift=shift)
        ids = slots.fill(ids.masked_fill(ids == MASK, 7), ids)
    masks = NOISE.noisy(ids)
    query_mask = masks.roll(-1, 1) if layout and shift else masks
    first = backbone(ids, query_mask, **more).index_fill(1, torch.tensor([0, 1, MASK]), -torch.inf)
    embeds = model.get_input_embeddings()(ids).clone()
    table = model.get_input_embeddings().weight
    for n, (row, place) in enumerate(masks.nonzero().tolist()):
        one = soft.feedback(first[n : n + 1])
        weights = one.weights[0, :, None]
        parts = torch.cat([table[MASK][None], table[one.ids[0]]])
        if mixing == "linear":
            embeds[row, place] = (weights * parts).sum(0)
        else:
            embeds[row, place] = blend(
                model.get_input_embeddings(), torch.tensor([[MASK]]), NOISE, one
            )[0, 0]
    expected = backbone(ids, query_mask, inputs_embeds=embeds, **more)
    got = TwoPass(backbone, soft, NOISE, [0, 1])(ids, query_mask, **more)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    finite = first > -torch.inf  # a model that ignores its memory would be no test
    assert (got - first)[finite].abs().max() > 0.1


@every_mixing
def test_gradients_are_those_of_the_second_pass_alone(mixing, monkeypatch):
    """By finite differences in double precision."""

    def doubled(logits, k):
        entropy, tokens, chances = summary(logits, k)
        return entropy.double(), tokens, chances.double()

    monkeypatch.setattr("diffusion.models.soft.summary", doubled)
    model, soft = tiny().double(), SoftMask(3, mixing, 0.6, 1.5, -1.0).double()
    ids, backbone = some_ids(), Backbone(model)
    masks = NOISE.noisy(ids)
    goal = torch.randn(int(masks.sum()), VOCAB, dtype=torch.float64)
    table = model.get_input_embeddings()
    with torch.no_grad():
        first = backbone(ids, masks).index_fill(1, torch.tensor([0, 1, MASK]), -torch.inf)
        entropy, tokens, chances = doubled(first, 3)

    def loss():
        """With the first pass as it was, whatever the weights are now."""
        strength = soft.strength(entropy)[:, None]
        weights = torch.cat([1 - strength, strength * chances], 1)
        found = Feedback(tokens, weights, mixing == "spherical")
        return (backbone(ids, masks, inputs_embeds=blend(table, ids, NOISE, found)) * goal).sum()

    (TwoPass(backbone, soft, NOISE, [0, 1])(ids, masks) * goal).sum().backward()
    layer = model.roberta.encoder.layer[0].output.dense.weight
    for weight, places in (
        (soft.rho, [()]), (soft.alpha, [()]), (soft.beta, [()]),
        (table.weight, [(MASK, 3), (int(tokens[0, 0]), 5)]), (layer, [(2, 3)]),
    ):  # fmt: skip
        for place in places:
            slope = weight.grad[place].item()
            with torch.no_grad():
                weight[place] += 1e-5
                up = loss()
                weight[place] -= 2e-5
                down = loss()
                weight[place] += 1e-5
            assert slope == pytest.approx((up - down).item() / 2e-5, rel=2e-3, abs=1e-6)
            assert slope != 0


# ---------------------------------------------------------------- what is remembered


class Remembering(TabularDenoiser):
    """A table for each strongest token that position 0 remembers; nothing has a table, too."""

    def __init__(self):
        super().__init__(length=4, vocab=3, seed=2)
        self.tables = [TabularDenoiser(4, 3, seed).table for seed in (2, 11, 12, 13)]

    def scope(self, query):
        return torch.ones_like(query.query_mask)

    def __call__(self, query):
        memory = torch.zeros(len(query.ids), dtype=torch.int64)
        if query.feedback is not None:
            strongest = query.feedback.weights[:, 0, 1:].argmax(-1)
            token = query.feedback.ids[:, 0].gather(1, strongest[:, None])[:, 0]
            strong = query.feedback.weights[:, 0, 1:].amax(-1) > 0.2
            memory = torch.where(strong & (query.ids[:, 0] == M), token + 1, 0)
        state = (query.ids * self.place).sum(1)
        row, place = query.query_mask.nonzero(as_tuple=True)
        tables = torch.stack(self.tables)
        logits = tables[memory[row], state[row], place]
        return torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], 1)

    def given(self, memory):
        other = TabularDenoiser(4, 3)
        other.table = self.tables[memory]
        return other


@pytest.mark.parametrize("name", ["seed", "ancestral"])
def test_texts_have_the_law_that_follows_from_memory(name):
    """Steps of a sampler whose next prediction depends on the one before, enumerated."""
    denoiser, n = Remembering(), 4
    soft = SoftMask(1, omega_s=0.6, omega_a=1.0, omega_b=-0.9).requires_grad_(False)
    laws_of = [ExactLaws(denoiser.given(memory)) for memory in range(4)]

    def after(canvas, memory):
        """What position 0 remembers of a pass over this canvas, if it says enough."""
        if canvas[0] != M:
            strength = float(soft.strength(torch.zeros(())))
            return 0 if strength <= 0.2 else canvas[0] + 1
        p = laws_of[memory].p(canvas)[0]
        strength = float(soft.strength(torch.tensor(-sum(x * math.log(x) for x in p))))
        return p.index(max(p)) + 1 if strength > 0.2 else 0

    states, laws = {(start(denoiser), 0): 1.0}, [None]
    for k in range(1, n + 1):
        law = defaultdict(float)
        for (canvas, memory), chance in states.items():
            exact, stay = laws_of[memory if canvas[0] == M else 0], 1 - k / n
            if name == "seed":
                step = exact.seed_step(canvas, {0, 2, 3}, stay)
            else:
                step = exact.ancestral_step(canvas, (1 - k / n) / (1 - (k - 1) / n))
            for new, x in step.items():
                # Without a mask to open there is no pass, and nothing is remembered anew.
                opened = any(old == M != now for old, now in zip(canvas, new, strict=True))
                law[new, after(canvas, memory) if opened else memory] += chance * x
        states = dict(law)
        canvases = defaultdict(float)
        for (canvas, _), x in states.items():
            canvases[canvas] += x
        laws.append(dict(canvases))
    steps = run(SoftMasked(denoiser, soft), make_sampler(name, n_steps=n), rows=60_000)
    assert_trajectory(steps[: n + 1], laws)


class Recorder:
    """Records its queries, and predicts token ``place + 5`` with certainty."""

    noise, passes, device = NOISE, 1, torch.device("cpu")

    def __init__(self):
        self.queries = []

    def start(self, canvas):
        return self

    def scope(self, query):
        return torch.ones_like(query.query_mask)

    def __call__(self, query):
        self.queries.append(query)
        place = query.query_mask.nonzero()[:, 1]
        return torch.zeros(len(place), VOCAB).scatter(1, place[:, None] + 5, 30.0)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("name", ["confidence", "remdm", "ancestral"])
def test_in_blocks_the_kept_keys_change_nothing(name, shift):
    model, ids = tiny(shift=shift), some_ids(masks=range(4, 12))
    frozen = ~NOISE.noisy(ids)
    frozen[0, :6] = True
    canvas = Canvas(ids.clone(), frozen, torch.zeros_like(frozen))
    canvas.ids[0, 4:6] = 9

    def texts(keep):
        denoiser = SoftMasked(InBlocks(Denoiser(model, NOISE, [0, 1]), 3, keep), strong())
        sampler = make_sampler(name, n_steps=9, block_length=3, apart=True)
        return [s.ids for s in denoise(canvas, denoiser, sampler, Sampling(), rng.row_keys(1, 3))]

    kept, anew = texts(True), texts(False)
    assert all(torch.equal(a, b) for a, b in zip(kept, anew, strict=True))


def test_a_block_is_the_two_stream_pass():
    """The logits of a block whose masks remember, against the layout that is trained."""
    model, ids = tiny(shift=True), some_ids(masks=range(4, 8))
    ids[0, 3] = ids[0, 3].clamp(min=5)
    canvas = Canvas(ids, ~NOISE.noisy(ids), torch.zeros_like(ids, dtype=torch.bool))
    soft, inner = strong(2), Denoiser(model, NOISE, [0, 1])
    memory = SoftMasked(InBlocks(inner, 4), soft).start(canvas)
    with torch.inference_mode():
        memory(Query(ids, NOISE.noisy(ids)))
        got = memory(Query(ids, NOISE.noisy(ids)))
    slots = layouts.arrange("block4", 8, first=4)
    shown = slots.fill(ids[:, :8], ids[:, :8])
    shown[:, ~slots.noisy] = shown[:, ~slots.noisy].masked_fill(shown[:, ~slots.noisy] == MASK, 7)
    query_mask = NOISE.noisy(shown).roll(-1, 1)
    expected = TwoPass(inner.backbone, soft, NOISE, [0, 1])(shown, query_mask, layout=slots)
    finite = got > -torch.inf
    torch.testing.assert_close(got[finite], expected[finite], rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- files and batches


def shares(share, seed, count):
    return [TwoPassCollator(None, share, seed, 4).two_pass(n) for n in range(count)]


def test_shares_of_batches():
    """In any twenty batches, not the same ones for each seed, and in every micro-batch of a step."""
    for share in (0.0, 0.3, 0.5, 0.8, 1.0):
        chosen = shares(share, 0, 60)
        for first in range(0, 60, 20):
            assert abs(sum(chosen[first : first + 20]) - 20 * share) <= 1
        assert (chosen != shares(share, 1, 60)) == (0 < share < 1)
    chosen = shares(0.8, 0, 2000)
    for every in (2, 3, 4, 5, 7):  # as many micro-batches a step
        for own in (chosen[j::every] for j in range(every)):
            assert sum(own) / len(own) == pytest.approx(0.8, abs=0.06)


def saved(tmp_path):
    model, soft = tiny(), SoftMask(3, "linear", 0.2, 2.0, -1.5)
    model.config.diffusion = {"soft": soft.settings()}
    model.save_pretrained(tmp_path)
    soft.save(tmp_path)
    return model


def test_the_scalars_are_read_back_and_a_plain_load_ignores_them(tmp_path):
    model = saved(tmp_path)
    soft = load_soft_mask(model, str(tmp_path))
    assert [float(x) for x in soft.omegas()] == pytest.approx([0.2, 2.0, -1.5], rel=1e-5)
    assert (soft.k, soft.mixing) == (3, "linear") and not soft.rho.requires_grad
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    ids = some_ids()
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert load_soft_mask(tiny(), str(tmp_path)) is None


def settings(**changes):
    return lambda path, model: model.config.diffusion["soft"].update(changes)


def scalars(**values):
    """The file with these instead of its own."""
    return lambda path, model: save_file({n: torch.tensor(x) for n, x in values.items()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        *(settings(k=k) for k in (0, 41, 2.0)),
        settings(mixing="cubic"),
        lambda path, model: path.unlink(),
        lambda path, model: path.write_bytes(path.read_bytes()[:20]),
        scalars(rho=0.0),
        scalars(rho=0.0, alpha=math.nan, beta=0.0),
    ],
)
def test_damage_is_refused(tmp_path, damage):
    model = saved(tmp_path)
    damage(tmp_path / "soft.safetensors", model)
    with pytest.raises(UserError, match=r"soft-masking|soft\.safetensors") as caught:
        load_soft_mask(model, str(tmp_path))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- together with the rest


def test_guidance_keeps_two_memories():
    model, ids = tiny(), some_ids(masks=range(6, 12))
    canvas = Canvas(ids, ~NOISE.noisy(ids), torch.zeros_like(ids, dtype=torch.bool))
    soft, inner = strong(), Denoiser(model, NOISE, [0, 1])
    guided = Guided(SoftMasked(inner, soft), 0.7, [BOS]).start(canvas)
    query = Query(ids, NOISE.noisy(ids))
    apart = SoftMasked(inner, soft).start(canvas), SoftMasked(inner, soft).start(canvas)
    hidden = ids.masked_fill(canvas.frozen & (ids != BOS), MASK)
    for _ in range(3):
        got = guided(query)
        c = apart[0](query)
        u = apart[1](Query(hidden, NOISE.noisy(ids)))
        finite = got > -torch.inf
        torch.testing.assert_close(got[finite], (c + 0.7 * (c - u))[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["remdm", "wino", "confidence"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("p2", "random-remask", "saber", "klass")],
)
@pytest.mark.parametrize(
    "where", ["full", "blocks", pytest.param("windows", marks=pytest.mark.slow)]
)
def test_rows_are_alone_and_texts_complete(name, where):
    """With memory, too: a text does not depend on the batch, given tokens stay, no mask is left."""
    model = tiny(shift=where == "blocks")
    ids = some_ids(rows=5, length=30 if where == "windows" else 12, masks=())
    ids[:, 4:] = MASK
    ids[2, 4:6] = 9
    frozen = ids != MASK
    canvas, keys = Canvas(ids, frozen, torch.zeros_like(frozen)), rng.row_keys(3, range(5))
    more = {} if name in ("wino", "saber", "klass") else {"n_steps": 6}
    block = {"block_length": 4, "apart": True} if where == "blocks" else {}

    def last(rows):
        denoiser = Denoiser(model, NOISE, [0, 1])
        denoiser = InBlocks(denoiser, 4) if where == "blocks" else denoiser
        denoiser = SoftMasked(denoiser, strong())
        make = lambda: make_sampler(name, **more, **block)  # noqa: E731
        some, key = canvas.take(rows), keys[rows]
        if where == "windows":
            return list(denoise_windows(some, denoiser, make, Sampling(), key, 12, 6))[-1].ids
        return list(denoise(some, denoiser, make(), Sampling(), key))[-1].ids

    together = last([0, 1, 2, 3, 4])
    assert not NOISE.noisy(together).any() and torch.equal(together[frozen], ids[frozen])
    for row in (0, 2):
        assert torch.equal(last([row])[0], together[row])


def test_what_may_not_be_written_is_not_remembered():
    inner, ids = Recorder(), some_ids(masks=(3, 7))
    tokens = torch.ones(2, VOCAB, dtype=torch.bool)
    tokens[1, 8] = False  # what Recorder predicts for place 3
    kinds = torch.zeros_like(ids)
    kinds[:, 3] = 1
    canvas = Canvas(ids, ids != MASK, ids == 99, Allowed(kinds, tokens))
    memory = SoftMasked(inner, strong(1)).start(canvas)
    memory(Query(ids, NOISE.noisy(ids)))
    memory(Query(ids, NOISE.noisy(ids)))
    feedback = inner.queries[1].feedback
    assert int(feedback.ids[1, 7, 0]) == 12 and int(feedback.ids[1, 3, 0]) != 8


@every_mixing
def test_bfloat16_learns_and_remembers(mixing):
    """The first pass, without gradient, leaves nothing behind in autocast's cache of weights; and a
    small λ is not lost."""
    model, soft, ids = tiny(), SoftMask(3, mixing, 0.6, 0.5, -3.0), some_ids()
    masks = NOISE.noisy(ids)
    with torch.autocast("cpu", torch.bfloat16):
        TwoPass(Backbone(model), soft, NOISE, [0, 1])(ids, masks).float().square().sum().backward()
    layer = model.roberta.encoder.layer[0].output.dense.weight
    assert layer.grad is not None and layer.grad.abs().max() > 0 and soft.rho.grad != 0
    table = torch.nn.Embedding(VOCAB, 8).to(torch.bfloat16)
    feedback = Feedback.plain(1, 1, 1, torch.device("cpu"))
    feedback.ids[:], feedback.spherical = 7, mixing == "spherical"
    feedback.weights[:] = torch.tensor([0.999, 0.001])
    table.weight.data[7] = 300.0
    mixed = blend(table, torch.tensor([[MASK]]), NOISE, feedback.take((0,)))
    assert (mixed - table.weight[MASK]).abs().min() > 0.05 or mixing == "spherical"


def test_a_model_that_reads_embeddings_another_way_is_refused():
    with pytest.raises(UserError, match="soft-masking"):
        check_embeddings(tiny("ibert"), NOISE, "ibert", "soft-masking")
