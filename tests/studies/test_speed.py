"""What the benchmarks of speed count, against torch's own counter; and each of them run small."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    RobertaConfig,
)

from diffusion.models import layouts
from diffusion.models.backbone import Backbone
from diffusion.training.trainer import Nats
from studies.machine import Shape, pairs_of

ROBERTA = RobertaConfig(
    vocab_size=101, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
    intermediate_size=40, max_position_embeddings=40, type_vocab_size=1,
)  # fmt: skip
MODERN = ModernBertConfig(
    vocab_size=103, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
    intermediate_size=40, max_position_embeddings=40, pad_token_id=0,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=101, n_embd=24, n_layer=3, n_head=2, n_positions=40)
ASKED = torch.tensor([[0] * 4 + [1] * 10, [0] * 8 + [1] * 6]).bool()
IDS = torch.full(ASKED.shape, 5)


def counted(work) -> int:
    """By torch, which knows attention on a CPU as products alone."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("final", [False, True])
def test_operations_of_a_pass_are_those_that_torch_counts(final):
    backbone = Backbone(AutoModelForMaskedLM.from_config(ROBERTA).eval(), final=final)
    with torch.no_grad():
        found = counted(lambda: backbone(IDS, ASKED))
    read = 10 if final else None
    assert found == Shape.of(ROBERTA).flops(*IDS.shape, 16, read=read)


def test_operations_of_modernbert_are_those_that_torch_counts():
    backbone = Backbone(AutoModelForMaskedLM.from_config(MODERN).eval())
    with torch.no_grad():
        found = counted(lambda: backbone(IDS, ASKED))
        angles = counted(lambda: backbone.model.model.rotary_emb(
            torch.zeros(1, 14, 24), torch.arange(14)[None], "full_attention"))  # fmt: skip
    assert found - 2 * angles == Shape.of(MODERN).flops(*IDS.shape, 16)


def test_operations_of_gpt2_are_those_that_torch_counts():
    model = GPT2LMHeadModel(GPT2).eval()
    with torch.no_grad():
        assert counted(lambda: model(IDS)) == Shape.of(GPT2).flops(2, 14, 28)


@pytest.mark.parametrize("layout", ["full", "causal", "block4"])
def test_operations_of_a_training_step_are_three_times_a_pass(layout):
    model = AutoModelForMaskedLM.from_config(ROBERTA, attn_implementation=layouts.ATTENTION)
    ids, labels, own, pairs = IDS, IDS.masked_fill(~ASKED, -100), {}, None
    if layout != "full":
        slots = layouts.arrange(layout, 14)
        ids, own, pairs = torch.full((2, len(slots.place)), 5), {"layout": slots}, pairs_of(slots)
        labels = torch.full_like(ids, -100)
        labels[:, 1:9] = 5
    nats = Nats(Backbone(model))
    found = counted(lambda: nats(ids, labels, **own).sum().backward())
    assert found == 3 * Shape.of(ROBERTA).flops(*ids.shape, 16, pairs)
