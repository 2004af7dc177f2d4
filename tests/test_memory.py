"""No tensor of batch x length x vocabulary is made in float32, whatever is done with the logits: in
memory there are one or two copies of them at a time, in the number format of the model."""

from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from helpers.models import SENTENCES
from torch.profiler import ProfilerActivity, profile
from transformers import RobertaConfig, RobertaForMaskedLM

from diffusion import likelihood, objective, proposal
from diffusion.collator import IGNORE, MixCollator
from diffusion.generate import Writer
from diffusion.models import layouts
from diffusion.models.backbone import Backbone
from diffusion.models.soft import SoftMask, TwoPass
from diffusion.models.tokenizers import train_tokenizer
from diffusion.noise import Absorbing, make_noise
from diffusion.options import GenerationOptions
from diffusion.proposal import rows_at_once
from diffusion.samplers.catalog import CAUSAL, SAMPLERS, STEPPED, VERIFYING
from diffusion.training.trainer import Nats

BATCH, LENGTH, VOCAB = 4, 64, 2**13
# What is worked on at once, here an eighth of what it is elsewhere: in float64 it is a quarter of all
# logits in bfloat16, in float32 an eighth; of those there may be a few.
PART = 2**17
CHUNK = 8 * PART
FEW = 2 * CHUNK


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(proposal, "_CPU_PART", PART)
    monkeypatch.setattr(objective, "_CPU_ROWS", PART // VOCAB)


@contextmanager
def watched(model, copies: int, few: int = FEW):
    """Inside, no piece of memory is asked for that is larger than all logits of a pass in bfloat16,
    and all together is never more than ``copies`` of them and ``few`` bytes. The profiler sees what
    the allocator is asked for, so what operators take for themselves, too."""
    sizes = []
    hook = model.lm_head.register_forward_hook(lambda *call: sizes.append(2 * call[-1].numel()))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, hook:
        yield
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    logits, largest = max(sizes), max(event.nbytes() for event in events)
    assert logits >= CHUNK, "too few logits to be told from a part of them"
    assert largest <= 1.01 * logits, f"a tensor as large as {largest / logits:.2f} of all logits"
    assert most <= 1.01 * copies * logits + few, f"{most / logits:.2f} copies of all logits"


def roberta():
    torch.manual_seed(0)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8, max_position_embeddings=LENGTH + 2, type_vocab_size=1,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    found = train_tokenizer(SENTENCES, 300)
    found.add_tokens([f"w{i}" for i in range(VOCAB - len(found))])
    return found


@pytest.fixture(scope="module")
def write(tokenizer):
    """Two steps of a generation: (copies, bytes besides, options)."""
    model = roberta().to(torch.bfloat16)

    def write(copies: int, few: int = FEW, soft=None, **own):
        noises = SAMPLERS[own["sampler"].partition(":")[0]].noises
        noise = "absorbing" if "absorbing" in noises else noises[0]
        model.config.diffusion = {"shift": False, "prefix_len": 1, "noise": noise}
        if own["sampler"] in STEPPED:
            own["n_steps"] = 2
        writer = Writer.from_model(model, tokenizer, soft=soft)
        options = GenerationOptions(length=LENGTH - 1, **own)
        with watched(model, copies, few):
            for _ in islice(writer.generate([""] * BATCH, options, range(BATCH)), 3):
                pass

    return write


# The others write a few tokens, or a block, a pass, and ask for no more logits.
WIDE = [
    pytest.param(name, marks=() if name == "confidence" else pytest.mark.slow)
    for name in SAMPLERS
    if name not in ("first-hitting", *CAUSAL, *VERIFYING)
]


@pytest.mark.parametrize("sampler", WIDE)
def test_a_sampler_has_one_copy_of_all_logits(write, sampler):
    write(1 + (sampler == "klass"), sampler=sampler)  # it compares them with those before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("copies", "options"),
    [
        (1, {"sampler": "confidence:score=entropy"}),
        (1, {"sampler": "confidence:score=margin"}),
        (1, {"sampler": "confidence:score=sharpened"}),
        (1, {"early_commit": 5.0}),
        (1, {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2}),
        (2, {"guidance": 1.0}),
        (2, {"soft": SoftMask()}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_what_goes_round_a_sampler_has_one_or_two(write, copies, options):
    write(copies, **{"sampler": "confidence", **options})


@pytest.mark.slow
def test_a_whole_vocabulary_is_sorted_in_parts(write):
    write(1, few=6 * CHUNK, sampler="confidence", top_k=0, top_p=0.9)


# ---------------------------------------------------------------- training and likelihoods

HYBRID = make_noise("hybrid", 4, [0, 1, 3], VOCAB)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["full", "block4"])
@pytest.mark.parametrize("objective", ["masks", "random tokens", "soft"])
def test_a_training_step_has_the_logits_and_their_gradient(layout, objective):
    model, settings = roberta(), {}
    labels = torch.full((BATCH, LENGTH), 5)
    ids = torch.full_like(labels, 4)
    if layout != "full":
        slots = settings["layout"] = layouts.arrange(layout, LENGTH, shift=False)
        ids = torch.full((BATCH, len(slots.place)), 4)
        labels = torch.full_like(ids, 5).masked_fill_(~slots.noisy, IGNORE)
    if objective == "random tokens":
        settings["r"] = torch.full((BATCH,), 0.5)
    backbone = Backbone(model)
    reader = TwoPass(backbone, SoftMask(), Absorbing(4), [0, 1, 3]) if objective == "soft" else None
    nats = Nats(backbone, reader, HYBRID)
    few = 4 * CHUNK if objective == "random tokens" else FEW
    with watched(model, 2, few), torch.autocast("cpu", torch.bfloat16):
        nats(ids, labels, reader is not None, **settings).sum().backward()


BLOCKS = torch.full((BATCH, LENGTH), 5)
EDITABLE = torch.ones_like(BLOCKS, dtype=torch.bool)
EDITABLE[:, 0] = False
COMMON = BLOCKS, EDITABLE


def in_blocks(backbone):
    collate = MixCollator(Absorbing(4), [0, 1, 3], 1, {"block4": 1.0}, False).stream(
        "block4", 0.0, 0, 2 * BATCH
    )
    slots = layouts.arrange("block4", LENGTH, shift=False, dtype=torch.bfloat16)
    likelihood.stream_bound(backbone, BLOCKS, collate, slots, torch.ones(VOCAB), draws=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "read",
    [
        lambda model: likelihood.likelihood_bound(
            model, *COMMON, Absorbing(4), torch.ones(VOCAB), draws=2
        ),
        lambda model: likelihood.likelihood_bound(
            model, *COMMON, HYBRID, torch.ones(VOCAB), draws=2
        ),
        lambda model: likelihood.causal_nll(model, *COMMON, torch.ones(VOCAB)),
        in_blocks,
    ],
    ids=["masks", "random tokens", "causal", "blocks"],
)
def test_a_likelihood_has_one_copy(read):
    model = roberta().to(torch.bfloat16).eval()
    with watched(model, 1, 4 * CHUNK):
        read(Backbone(model))


def test_parts_on_a_gpu_are_larger_and_bounded():
    """On a device that only knows shapes, with 8 GiB of logits: every part has 2^26 numbers."""
    for rows, vocab, part in ((64 * 256, 2**18, 2**8), (1, 2**30, 1)):
        logits = torch.empty(rows, vocab, dtype=torch.bfloat16, device="meta")
        assert rows_at_once(logits) == part
