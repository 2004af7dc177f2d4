"""`--optim muon`: which weights it takes, what its steps are, and that it goes on as if never
stopped."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForMaskedLM

from diffusion.models.backbone import Backbone
from diffusion.training.optimizer import MuonAndAdam, split

SHAPE = {"vocab_size": 40, "pad_token_id": 1}
MODELS = {
    "roberta": lambda: RobertaForMaskedLM(
        RobertaConfig(
            **SHAPE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=20,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SHAPE, n_embd=16, n_layer=2, n_head=2, n_positions=20)
    ),
}  # fmt: skip
MATRICES = {"roberta": 2 * 6 + 1, "gpt2": 2 * 4}  # RoBERTa's head has one more


@pytest.mark.parametrize("kind", MODELS)
def test_muon_has_the_matrices_and_adam_the_tables(kind):
    model = MODELS[kind]()
    matrices, others = split(Backbone(model))
    assert len(matrices) == MATRICES[kind]
    assert all("embed" not in name and "decoder" not in name for name in matrices)
    assert any("embeddings" in name or "wte" in name for name in others)
    assert len(matrices) + len(others) == len(list(model.named_parameters()))


def test_a_step_of_a_matrix_turns_it_and_a_step_of_a_table_is_adams():
    """By what defines them: Muon's step has singular values near one, scaled to 0.2 a number;
    Adam's first step is the sign of the gradient."""
    torch.manual_seed(0)
    model = MODELS["roberta"]()
    matrices, others = split(model)
    before = {name: w.detach().clone() for name, w in (matrices | others).items()}
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer = MuonAndAdam(model, set(), lr=0.01, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-12)
    optimizer.step()
    for name, weight in matrices.items():
        turned = (weight.detach() - before[name]) / (-0.01 * 0.2 * max(weight.shape) ** 0.5)
        values = torch.linalg.svdvals(turned)
        assert values.min() > 0.5 and values.max() < 1.3, name
        assert (turned * weight.grad).sum() > 0
    for name, weight in others.items():
        step = (weight.detach() - before[name]) / -0.01
        torch.testing.assert_close(step, weight.grad.sign(), atol=2e-3, rtol=0)


def test_weight_decay_is_for_matrices_and_for_what_is_named():
    model = MODELS["gpt2"]()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
        weight.data.fill_(1.0)
    optimizer = MuonAndAdam(
        model, {"transformer.wte.weight"}, lr=0.1, weight_decay=0.5, betas=(0.9, 0.9), eps=1e-8
    )
    for group in optimizer.param_groups:  # as a schedule does
        group["lr"] = 0.2
    optimizer.step()
    decayed = {name for name, w in model.named_parameters() if (w == 0.9).all()}
    assert decayed == {*split(model)[0], "transformer.wte.weight"}
    assert {name for name, w in model.named_parameters() if (w == 1).all()}.isdisjoint(decayed)


def test_an_untied_output_matrix_is_a_table():
    model = MODELS["gpt2"]()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    matrices, others = split(Backbone(model))
    assert len(matrices) == MATRICES["gpt2"] and any("lm_head" in name for name in others)


def test_a_schedule_reaches_both_after_they_were_loaded():
    model = MODELS["gpt2"]()
    settings = {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.9), "eps": 1e-8}
    optimizer = MuonAndAdam(model, set(), **settings)
    optimizer.load_state_dict(MuonAndAdam(model, set(), **settings).state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.3
    assert {g["lr"] for part in optimizer.parts for g in part.param_groups} == {0.3}


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_tells_optimisers_apart(resumed, refused):
    flags = ["--lr_scheduler_type", "cosine", "--weight_decay", 0.1, "--optim", "muon"]
    *_, flags = resumed(*flags, at=3, steps=6)
    refused([*flags, "--optim", "adamw_torch"], "--optim")
