"""What a GPU would do: every way of writing on the device of `helpers.elsewhere`, and its waits."""

import copy
from collections import Counter

import pytest
import test_frozen
import torch
from helpers.elsewhere import CPU, GPU, beyond, by_place, elsewhere, here, moved
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer, GPT2LMHeadModel

from diffusion import hardware, likelihood, measure
from diffusion.autoregressive import CausalWriter
from diffusion.canvas import Canvas
from diffusion.collator import StreamCollator
from diffusion.generate import Writer
from diffusion.models import layouts
from diffusion.models.soft import SoftMask
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions, SamplingOptions
from diffusion.samplers.catalog import NOISED

# ---------------------------------------------------------------- the helper finds each fault


def there(*shape):
    return torch.ones(shape, device="cuda")


FAULTS = {
    "a tensor of the CPU": lambda x: x + torch.ones(3),
    "a mask of the CPU": lambda x: x.masked_fill(torch.ones(3) > 0, 0.0),
    "places of the CPU": lambda x: x[torch.zeros(2, dtype=torch.int64)],
    "a table of the CPU": lambda x: F.embedding(
        torch.zeros(2, device=GPU).long(), torch.ones(2, 2)
    ),
    "a number of the CPU beside others": lambda x: torch.cat([x, torch.zeros(1)]),
    "a module of the CPU": lambda x: nn.Linear(3, 3)(x),
    "a generator of the CPU": lambda x: torch.rand(3, device=GPU, generator=torch.Generator()),
    "the same in place": lambda x: x.uniform_(generator=torch.Generator()),
    "a kernel of oneDNN": lambda x: torch.ops.mkldnn._linear_pointwise.default(
        x[None], torch.ones(3, 3), None, "none", [], ""
    ),
}
WAITS = {
    "value": [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: int(x[0]),
        lambda x: [1 for _ in range(int(x.sum()))],
        lambda x: torch.allclose(x, x),
    ],
    "size": [
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.__setitem__(x > 0, there(3)),
        lambda x: torch.bincount(x.long()),
        lambda x: x.repeat_interleave(x.long()),
    ],
    "to the CPU": [
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.zeros(3).copy_(x),
    ],
    "to the GPU": [
        lambda x: torch.tensor([1, 2], device="cuda"),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.zeros(2).to(x.device),
        lambda x: torch.as_tensor(3, device=GPU),
        lambda x: x[[0, 1]],
    ],
    "clock": [lambda x: hardware.now(x.device)],
}
FREE = [
    lambda x: x + 1,
    lambda x: x * torch.tensor(2.0),  # a number goes along with the kernel
    lambda x: torch.where(x > 0, x, torch.tensor(0.0)),
    lambda x: x.__setitem__(x > 0, 2.0),
    lambda x: x.masked_scatter(x > 0, x),
    lambda x: torch.arange(4, device=x.device)[:2],
    lambda x: torch.zeros(2).to(x.device, non_blocking=True),
    lambda x: nn.Linear(3, 3).to("cuda")(x[None]).softmax(-1),
    lambda x: x.repeat_interleave(2),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_helper_refuses(fault):
    with elsewhere(), pytest.raises((RuntimeError, NotImplementedError)):
        FAULTS[fault](there(3))


@pytest.mark.parametrize("inference", [False, True])
def test_the_helper_counts_waits(inference):
    with elsewhere() as ledger, torch.inference_mode(inference):
        for kind, waits in WAITS.items():
            for number, wait in enumerate(waits):
                x = there(3)
                ledger.take()
                wait(x)
                assert [sync.kind for sync in ledger.take()] == [kind], (kind, number)
        for number, free in enumerate(FREE):
            free(there(3))
            assert not ledger.take(), number


def test_nothing_of_it_is_left():
    before = torch.cuda.is_available()
    with elsewhere():
        x = there(3)
        with pytest.raises(TypeError):
            x.numpy()
    assert torch.cuda.is_available() == before
    if not before:  # AssertionError: torch is built without CUDA; RuntimeError: there is no driver
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(1, device="cuda")
    with pytest.raises(RuntimeError, match="outside"):
        x + 1
    assert nn.Linear(2, 2).to("cpu").weight.device == CPU


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_that_of_cuda(dtype):
    """https://docs.pytorch.org/docs/stable/amp.html: products in few digits, softmax and sums in
    many; unlike that of CPUs."""
    with elsewhere():
        x = there(3, 3)
        with torch.autocast("cuda", dtype):
            assert (x @ x).dtype == F.linear(x, x).dtype == dtype
            for wide in (torch.softmax, torch.log_softmax, torch.cumsum, torch.sum):
                assert wide(x.to(dtype), -1).dtype == torch.float32
        assert (x @ x).dtype == torch.float32


def test_gradients_are_those_of_the_cpu():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Embedding(5, 4), nn.Linear(4, 4, bias=False), nn.GELU(), nn.Linear(4, 5)
    )
    plain[3].weight = plain[0].weight
    ids = torch.tensor([[0, 3, 1]])

    def step(model, ids):
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        torch.optim.AdamW(model.parameters(), 1e-2).step()

    with elsewhere():
        other = moved(copy.deepcopy(plain))
        assert other[3].weight is other[0].weight
        step(other, ids.to(GPU))
    step(plain, ids)
    for here_, there_ in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(here_, here(there_))
        torch.testing.assert_close(here_.grad, here(there_.grad))


# ---------------------------------------------------------------- writing


def written(steps, ledger=None) -> tuple[list, list[Counter]]:
    """The ids and passes of the last Step, and the waits of each after the first."""
    waits = []
    for step in steps:
        waits.append(ledger.take() if ledger else Counter())
        last = step
    return [here(last.ids).tolist(), here(last.nfe).tolist()], waits[1:]


def check_waits(waits: list[Counter]) -> Counter:
    """The most waits of a step by place; none may be undocumented, or more than documented."""
    most = Counter()
    for step in waits:
        most |= by_place(step)
    assert beyond(most) == {}
    return most


def frozen_lines() -> list[str]:
    """Of each sampler a line of the model, and of those that follow the noise one with each kind of
    random tokens; of some also one in blocks, or with early commit."""
    lines = {}
    for line in test_frozen.FROZEN:
        kind, sampler, *shared = line.split()
        name = sampler.partition(":")[0]
        if kind != "model" and (kind == "absorbing" or name not in NOISED):
            continue
        flags = [flag for flag in ("block_length", "early_commit") if flag in str(shared)]
        if not flags or kind == "model" or name in ("ancestral", "confidence"):
            lines.setdefault((kind, name, *flags), line)
    return [*lines.values(), "absorbing klass:threshold=0.3,kl_threshold=1,history=3"]


@pytest.fixture
def denoisers_elsewhere(monkeypatch):
    """The recorded denoisers, and their canvases and keys, on the GPU."""
    made, run = test_frozen.denoiser_of, test_frozen.denoise

    def denoiser_of(kind):
        denoiser = copy.copy(made(kind))
        if kind == "model":
            model = moved(copy.deepcopy(denoiser.backbone.model))
            return type(denoiser)(model, denoiser.noise, [0, 1, test_frozen.MASK])
        denoiser.table, denoiser.place = denoiser.table.to(GPU), denoiser.place.to(GPU)
        denoiser.noise, denoiser.device = denoiser.noise.to(GPU), GPU
        return denoiser

    def denoise(canvas, denoiser, sampler, sampling, keys):
        return run(canvas.to(GPU), denoiser, sampler, sampling, keys.to(GPU))

    monkeypatch.setattr(test_frozen, "denoiser_of", denoiser_of)
    monkeypatch.setattr(test_frozen, "denoise", denoise)


@pytest.mark.slow
@pytest.mark.parametrize("line", frozen_lines())
def test_every_sampler_writes_there_what_it_writes_here(denoisers_elsewhere, line):
    kind, sampler, shared = test_frozen.parsed(line)
    with elsewhere() as ledger:
        found, waits = written(test_frozen.steps_of(kind, sampler, shared, 0), ledger)
    assert test_frozen.recorded(*found) == test_frozen.FROZEN[line][0]
    check_waits(waits)


# The ways of a model, each with options of the loop: texts after two prompts of different lengths.
PROMPTS = ["The river runs", "In 1887"]
WAYS = {
    "the whole canvas": {"sampler": "confidence", "n_steps": 4},
    "padding": {"sampler": "confidence", "n_steps": 4, "length": 5},
    "shadow copies": {"sampler": "wino"},
    "guidance": {"sampler": "threshold", "guidance": 1.5},
    "processors": {"sampler": "confidence", "n_steps": 4, "repetition_penalty": 1.3,
                   "no_repeat_ngram_size": 2},
    "windows": {"sampler": "ancestral", "n_steps": 4, "max_len": 40, "window_stride": 12},
    "prefix cache": {"sampler": "confidence", "n_steps": 4, "block_length": 4,
                     "attention": "full", "approximate_cache": "prefix"},
    "dual cache": {"sampler": "confidence", "n_steps": 6, "block_length": 4,
                   "attention": "full", "approximate_cache": "dual", "cache_refresh": 2},
    "block attention": {"attention": "block", "sampler": "confidence", "n_steps": 4,
                        "block_length": 4},
    "no cache": {"attention": "block", "sampler": "first-hitting", "block_length": 3, "length": 6,
                 "cache": False},
    "speculative": {"sampler": "speculative"},
    "causal": {"sampler": "causal", "length": 4},
    "soft-masking": {"sampler": "remdm", "n_steps": 4},
    "soft-masking in blocks": {"attention": "block", "sampler": "confidence", "n_steps": 4,
                               "block_length": 8},
    "uniform noise": {"sampler": "ancestral", "n_steps": 4},
    "hybrid noise": {"sampler": "self-correction:corrections=2", "n_steps": 4},
    "hybrid noise, corrected": {"sampler": "gibbs:positions=3", "n_steps": 4},
    "uniform noise, corrected": {"sampler": "gibbs:choice=random", "n_steps": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def writers(tiny_model, tokenizer, way: str) -> tuple[Writer, Writer]:
    """The same model in double precision here and elsewhere."""
    model = AutoModelForMaskedLM.from_pretrained(tiny_model, dtype=torch.float64)
    if "noise" in way:
        model.config.diffusion |= {"noise": way.split()[0], "shift": False}
        model.config.diffusion |= {"p_u": 0.2} if "hybrid" in way else {}
    soft = SoftMask(omega_s=0.6).requires_grad_(False) if "soft" in way else None
    plain = Writer.from_model(copy.deepcopy(model), tokenizer, soft=copy.deepcopy(soft))
    return plain, Writer.from_model(moved(model), tokenizer, soft=soft and moved(soft))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_is_the_same_there(tiny_model, tokenizer, way):
    options = GenerationOptions(**{"max_len": 16, "seed": 3} | WAYS[way])
    with elsewhere() as ledger:
        plain, other = writers(tiny_model, tokenizer, way)
        found, waits = written(other.generate(PROMPTS, options, [0, 1]), ledger)
    expected, _ = written(plain.generate(PROMPTS, options, [0, 1]))
    assert found == expected
    most = check_waits(waits)
    assert most["denoise.denoise"] and most["hardware.now"] == 2


@pytest.fixture
def gpt2(tiny_gpt2, tokenizer):
    """A GPT-2 in double precision on a device."""

    def writer(device):
        model = GPT2LMHeadModel.from_pretrained(tiny_gpt2, dtype=torch.float64).eval()
        model = moved(model) if device == GPU else model
        return CausalWriter(model, tokenizer, "gpt2", device, torch.float64, 64, {})

    return writer


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}])
def test_gpt2_writes_the_same_there(gpt2, more):
    options = SamplingOptions(max_len=24, seed=3, **more)
    with elsewhere() as ledger:
        found, waits = written(gpt2(GPU).generate(PROMPTS, options, [0, 1]), ledger)
    assert found == written(gpt2(CPU).generate(PROMPTS, options, [0, 1]))[0]
    check_waits(waits)


def test_the_clock_of_a_comparison_waits_before_and_after_each_step(gpt2, tiny_model, tokenizer):
    """Otherwise it would measure how fast work is queued."""
    with elsewhere() as ledger:
        writer = writers(tiny_model, tokenizer, "")[1]
        options = GenerationOptions(sampler="threshold", length=4), SamplingOptions(length=4)
        jobs = list(zip((writer, gpt2(GPU)), options, strict=True))
        ledger.take()
        runs = measure.measure(jobs, "The river", 1, keep=list)
        clock = [sync for sync in ledger.syncs if sync.kind == "clock"]
    steps = sum(len(steps) - 1 for kept in runs for steps in kept)
    warm = sum(len(kept[0]) - 1 for kept in runs)
    assert len(clock) == 2 * (steps + warm)


# ---------------------------------------------------------------- likelihood


def test_likelihoods_are_the_same_there(tiny_model, tokenizer):
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(5, 300, (5, 24), generator=generator)
    editable = torch.ones_like(blocks, dtype=torch.bool)
    editable[:, 0] = False
    padding = torch.zeros_like(editable)
    padding[0, 20:] = True
    sizes = torch.ones(320)

    def measured(writer):
        reader, noise, device = writer.denoiser.reader, writer.noise, writer.device
        ids, where, gone = (x.to(device) for x in (blocks, editable, padding))
        canvas, more = Canvas(ids, ~where, gone), {"batch_size": 2}
        found = [likelihood.text_bounds(reader, canvas, where & ~gone, noise, draws=3, **more)]
        bound = likelihood.likelihood_bound(reader, ids, where, noise, sizes, draws=2, **more)
        found.append(torch.tensor(bound.by_block))
        if noise.name == "absorbing":
            found.append(likelihood.pseudo_likelihood(reader, canvas, where & ~gone, noise, 40))
            bounds = [
                likelihood.causal_nll(reader, ids, where, sizes, **more),
                likelihood.ordered_nll(reader, ids, where, noise, sizes, batch_size=40),
            ]
            for layout in ("causal", "block4"):
                weight = float(layout == "causal")
                settings = {"causal_weight": weight, "global_batch": len(ids)}
                collate = StreamCollator(Absorbing(noise.mask_id), [0], 1, layout, True, **settings)
                slots = layouts.arrange(layout, 24, 1, True, torch.float64, device)
                given = reader, ids, collate, slots, sizes
                bounds.append(likelihood.stream_bound(*given, **more))
            found += [torch.tensor(bound.by_block) for bound in bounds]
        return [here(x).float() for x in found]

    for way in ("absorbing", "hybrid noise"):
        with elsewhere():
            plain, other = writers(tiny_model, tokenizer, way)
            found = measured(other)
        torch.testing.assert_close(found, measured(plain))
