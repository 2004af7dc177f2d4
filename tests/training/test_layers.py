"""Other ways to compute the layers give the same numbers."""

import pytest
import torch
from helpers.families import save_family
from helpers.training import assert_same_weights, losses
from transformers.models.roberta.modeling_roberta import RobertaIntermediate

STEPS = ["--max_steps", 3, "--dropout", 0.1, "--max_eval_blocks", 2]
MIX = ["--layouts", "causal=1,block4=1,full=1"]
SOFT = ["--soft_masking", "--soft_share", 1]


@pytest.fixture
def layer_calls(monkeypatch):
    """The layers that were computed in training, as often as they were."""
    calls, forward = [], RobertaIntermediate.forward

    def counted(self, *args, **kwargs):
        calls.extend([self] if self.training else [])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(RobertaIntermediate, "forward", counted)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("flags", [MIX, SOFT], ids=["mix", "soft"])
def test_gradient_checkpointing_computes_twice_and_changes_no_bit(run, layer_calls, flags):
    one, _ = run(*STEPS, *flags, name="one")
    once = len(layer_calls)
    two, _ = run(*STEPS, *flags, "--gradient_checkpointing", name="two")
    # The first pass of soft-masking has no gradient.
    twice = 2 * once if SOFT[0] not in flags else 3 * once // 2
    assert len(layer_calls) - once == twice
    assert losses(one) == losses(two)
    assert_same_weights(one / "model.safetensors", two / "model.safetensors")


def test_a_family_that_cannot_is_told(refused, tmp_path):
    start = ["--model", save_family("albert", tmp_path / "model")]
    refused([*STEPS, "--gradient_checkpointing"], "Albert", "checkpointing", start=start)


def test_the_layers_alone_are_compiled(run, refused, monkeypatch):
    """And what is around them is not, whose sizes differ from step to step."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    run(*STEPS, "--torch_compile")
    assert [type(forward.__self__).__name__ for forward in compiled] == ["RobertaModel"]
    refused(["--torch_compile_backend", "inductor"], "--torch_compile_backend is not supported")
