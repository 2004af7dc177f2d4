"""A step of training, and an evaluation, on the device of `helpers.elsewhere`."""

import copy
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.elsewhere import GPU, beyond, by_place, elsewhere, here, moved
from helpers.training import RUN, SIZE

import finetune
from diffusion.training import build
from diffusion.training.checks import RunArguments, check, parse
from diffusion.training.trainer import DiffusionTrainer, validation_bounds

KINDS = {
    "full": [],
    "causal layout": ["--layouts", "causal"],
    "blocks": ["--layouts", "block4"],
    "next token": ["--objective", "causal"],
    "uniform noise": ["--noise", "uniform"],
    "hybrid noise, clipped": ["--noise", "hybrid", "--loss", "clipped"],
    "mean over masks": ["--loss", "mean", "--mask_schedule", "batch"],
    "soft-masking": ["--soft_masking", "--soft_share", "1"],
    "soft-masking in blocks": ["--soft_masking", "--soft_share", "1", "--layouts", "block4"],
}


@pytest.fixture
def trainer(monkeypatch, text, tmp_path):
    """The trainer of a run: its flags -> a `DiffusionTrainer` on the CPU."""

    def trainer(*flags):
        attention = [] if "--layouts" in flags else ["--attn_implementation", "sdpa"]
        flags = [
            *RUN,
            *SIZE,
            "--dataset",
            text,
            "--output_dir",
            tmp_path / "out",
            *flags,
            *attention,
        ]
        monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, flags)])
        AcceleratorState._reset_state(reset_partial_state=True)
        run = parse(finetune.__doc__)
        check(run)
        torch.manual_seed(0)
        documents, more = build.read(run)
        model, tokenizer = build.build_model(run, documents)
        blocks, held_out = build.pack(run, documents, more, tokenizer)
        return DiffusionTrainer(run, model, tokenizer, blocks, held_out.take(slice(2)))

    return trainer


def step(trainer, batch, dtype, scale) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of a batch and its gradients."""
    trainer.model.train().zero_grad()
    count = (batch["labels"] != -100).sum()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    (loss * scale).backward()
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    return here(loss.detach()).float(), [here(g).float() / scale for g in gradients]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_there(trainer, monkeypatch, kind):
    trainer = trainer(*KINDS[kind])
    batch = next(iter(trainer.get_train_dataloader()))
    loss, gradients = step(trainer, batch, torch.float32, 1)
    expected = validation_bounds(trainer)
    model = copy.deepcopy(trainer.model)
    for dtype, scale in ((torch.float32, 1), (torch.bfloat16, 1), (torch.float16, 1024)):
        with elsewhere() as ledger, monkeypatch.context() as patch:
            patch.setattr(RunArguments, "device", GPU)
            patch.setattr(RunArguments, "compute_dtype", dtype)
            trainer.model = moved(copy.deepcopy(model))
            if trainer.soft is not None:
                trainer.soft = trainer.model.reader.soft
            if trainer.model.noise is not None:
                trainer.model.noise = trainer.model.noise.to(GPU)
            if "layout" in batch:
                trainer.slots(batch["layout"])  # made once
            there = {n: x.to(GPU) if isinstance(x, torch.Tensor) else x for n, x in batch.items()}
            ledger.take()
            found, slopes = step(trainer, there, dtype, scale)
            waits = by_place(ledger.take())
            if dtype == torch.float32:
                bounds = validation_bounds(trainer)
                torch.optim.AdamW(trainer.model.parameters()).step()
        assert beyond(waits) == {}
        near = (
            {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 2e-2}
        )
        torch.testing.assert_close(found, loss, **near)
        assert len(slopes) == len(gradients)
        for there_, here_ in zip(slopes, gradients, strict=True):
            torch.testing.assert_close(there_, here_, **near)
    assert bounds.keys() == expected.keys()
    for name, bound in bounds.items():
        assert bound.nats_per_token == pytest.approx(expected[name].nats_per_token, rel=1e-4)
