"""The Trainer that both objectives share: loss, evaluation, weight EMA, safe checkpoints."""

import math
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from . import objective
from .collator import IGNORE, CausalCollator, DiffusionCollator, editable_positions
from .corpus import Blocks, DrawSampler
from .row_logits import RowLogits

_EMA_FILE = "ema.safetensors"
_STAGING = ".writing"


def ema_update(decay: float):
    """Update rule of a weight average with decay min(decay, (1 + n) / (10 + n)) at update n,
    which forgets the random start quickly (as in MDLM's ema.py)."""

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        d = min(decay, (1 + n.item()) / (10 + n.item()))
        torch._foreach_lerp_(average, current, 1 - d)

    return update


class StopOnSignal(TrainerCallback):
    """The first Ctrl-C (or SIGTERM) lets the step finish and saves; the second stops at once."""

    def __init__(self):
        self.received = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number, frame):
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        print("\nstopping after this step; its checkpoint is kept", file=sys.stderr)

    def on_step_end(self, args, state, control, **kwargs):
        if self.received:
            control.should_save = control.should_training_stop = True


class _UpdateEma(TrainerCallback):
    def __init__(self, trainer: "DiffusionTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.ema.update_parameters(self.trainer.raw_model)


class DiffusionTrainer(Trainer):
    """Trains a `RowLogits` as a denoiser, or (``causal``) on next-token prediction.

    Args:
        train_blocks, eval_blocks: (N, L) packed blocks.
        collator: decides the objective; its settings are used for evaluation too.
        schedule, loss: see `objective`.
        ema_decay: 0 for no average.
        token_bytes: (V,), see `corpus.token_byte_lengths`.
        eval_draws: mask patterns per validation block.
    """

    def __init__(
        self,
        row_logits: RowLogits,
        args,
        *,
        train_blocks: Tensor,
        eval_blocks: Tensor,
        collator: DiffusionCollator | CausalCollator,
        tokenizer,
        token_bytes: Tensor,
        schedule: str = "linear",
        loss: str = "nelbo",
        ema_decay: float = 0.0,
        eval_draws: int = 1,
    ):
        self.causal = isinstance(collator, CausalCollator)
        self.schedule, self.loss = schedule, loss
        self.eval_draws = eval_draws
        self.token_bytes = token_bytes
        super().__init__(
            model=row_logits,
            args=args,
            train_dataset=Blocks(train_blocks),
            eval_dataset=Blocks(eval_blocks),
            data_collator=collator,
            processing_class=tokenizer,
        )
        # compute_loss below divides by the size of the whole accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        self.ema = None
        if ema_decay:
            self.ema = AveragedModel(self.raw_model, multi_avg_fn=ema_update(ema_decay))
            self.add_callback(_UpdateEma(self))

    @property
    def raw_model(self) -> nn.Module:
        """The Hugging Face model, inside `RowLogits` and whatever wraps that for several processes."""
        return self.accelerator.unwrap_model(self.model).model

    @property
    def inference_model(self) -> nn.Module:
        """What generation should use: the weight average where there is one."""
        return self.raw_model if self.ema is None else self.ema.module

    @property
    def global_batch(self) -> int:
        """Rows of one optimiser step."""
        args = self.args
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _get_train_sampler(self, train_dataset=None):
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        return DrawSampler(len(dataset), self.global_batch, self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Nats per token. The denominators count the whole global batch, so that neither
        accumulation nor the number of processes changes the loss."""
        labels = inputs["labels"]
        rows = labels != IGNORE
        logits = model(inputs["input_ids"], rows, causal=self.causal)
        ce = objective.cross_entropy(logits, labels[rows])
        if self.causal or self.loss == "mean":
            loss = ce.sum() / num_items_in_batch.clamp(min=1)
        else:
            weights = objective.token_weights(
                labels, inputs["t"], inputs["editable"], self.schedule
            )
            loss = (ce * weights).sum() / self.global_batch
        # Gradients are averaged over processes; the sum is what is wanted.
        return loss * self.accelerator.num_processes

    # ------------------------------------------------------------ evaluation

    def bound(self) -> objective.Bound:
        """The bound (or exact NLL, when causal) of the validation blocks under the weights that
        inference would use."""
        model = self.inference_model
        was_training = model.training
        row_logits = RowLogits(model.eval())
        device = self.args.device
        blocks = self.eval_dataset.blocks.long().to(device)
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            if self.causal:
                editable = torch.ones_like(blocks, dtype=torch.bool)
                editable[:, 0] = False
                result = objective.causal_nll(
                    row_logits,
                    blocks,
                    editable,
                    self.token_bytes,
                    batch_size=self.args.per_device_eval_batch_size,
                )
            else:
                collator = self.data_collator
                editable = editable_positions(
                    blocks,
                    torch.ones_like(blocks),
                    collator.prefix_len,
                    collator.fixed_ids.to(device),
                )
                result = objective.likelihood_bound(
                    row_logits,
                    blocks,
                    editable,
                    collator.mask_id,
                    self.token_bytes,
                    draws=self.eval_draws,
                    batch_size=self.args.per_device_eval_batch_size,
                    shard=(self.args.process_index, self.args.world_size),
                    gather=self.accelerator.gather,
                )
        model.train(was_training)
        return result

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        bound = self.bound()
        metrics = {
            "loss": bound.nats_per_token,
            "nats_per_token": bound.nats_per_token,
            "standard_error": bound.standard_error,
            "perplexity": bound.perplexity,
            "nats_per_byte": bound.nats_per_byte,
        }
        for i, value in enumerate(bound.by_mask_rate):
            if not math.isnan(value):
                metrics[f"nats_at_{20 * i}_{20 * i + 20}"] = value
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # ------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial=None) -> str:
        return os.path.join(super()._get_output_dir(trial), _STAGING)

    def _save_checkpoint(self, model, trial=None):
        """A checkpoint is written aside and renamed when complete, so one that exists is whole."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = Path(self.args.output_dir, _STAGING)
        target = Path(self.args.output_dir, name)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(staging / name, target)
            staging.rmdir()
            self._rotate(keep=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _rotate(self, keep: int | None) -> None:
        checkpoints = sorted(
            Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"),
            key=lambda path: int(path.name.rsplit("-", 1)[1]),
        )
        for old in checkpoints[: -keep if keep else 0]:
            shutil.rmtree(old, ignore_errors=True)

    def _save(self, output_dir=None, state_dict=None):
        """The Hugging Face model itself, not the wrapper; the average beside it."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.raw_model.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        if self.ema is not None:
            save_file(
                {name: p.detach().contiguous() for name, p in self.ema.named_parameters()}
                | {"n_averaged": self.ema.n_averaged},
                folder / _EMA_FILE,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        folder = Path(resume_from_checkpoint)
        saved = load_file(folder / "model.safetensors")
        # Tied tensors are stored once; the parameter list, too, has each tensor once.
        parameters = dict(self.raw_model.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
            if self.ema is not None and (folder / _EMA_FILE).is_file():
                averages = load_file(folder / _EMA_FILE)
                self.ema.n_averaged.copy_(averages.pop("n_averaged"))
                for name, parameter in self.ema.named_parameters():
                    parameter.copy_(averages[name])
