"""Other ways to compute the layers give the same numbers."""

import pytest
import torch
from helpers.families import save_family
from helpers.training import RUN, SIZE, assert_same_weights, losses, one_sentence
from transformers.models.roberta.modeling_roberta import RobertaIntermediate

STEPS = [*RUN, "--max_steps", 3, "--dropout", 0.1, "--max_eval_blocks", 2]
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
def test_gradient_checkpointing_computes_twice_and_changes_no_bit(
    train, text, tmp_path, layer_calls, flags
):
    one, two = tmp_path / "one", tmp_path / "two"
    flags = [*STEPS, *SIZE, *flags, "--dataset", text]
    assert train(*flags, "--output_dir", one)[0] == 0
    once = len(layer_calls)
    assert train(*flags, "--gradient_checkpointing", "--output_dir", two)[0] == 0
    # The first pass of soft-masking has no gradient.
    twice = 2 * once if SOFT[0] not in flags else 3 * once // 2
    assert len(layer_calls) - once == twice
    assert losses(one) == losses(two)
    assert_same_weights(one / "model.safetensors", two / "model.safetensors")


def test_a_family_that_cannot_is_told(train, text, tmp_path):
    model = save_family("albert", tmp_path / "model")
    code, err = train(*STEPS, "--model", model, "--dataset", text, "--gradient_checkpointing",
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 2
    one_sentence(err, "Albert", "checkpointing")


def test_the_layers_alone_are_compiled(train, text, tmp_path, monkeypatch):
    """And what is around them is not, whose sizes differ from step to step."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    flags = [*STEPS, *SIZE, "--dataset", text, "--torch_compile", "--output_dir", tmp_path / "out"]
    assert train(*flags)[0] == 0
    assert [type(forward.__self__).__name__ for forward in compiled] == ["RobertaModel"]
    code, err = train(*flags, "--torch_compile_backend", "inductor", "--overwrite_output_dir")
    assert code == 2
    one_sentence(err, "--torch_compile_backend is not supported")
