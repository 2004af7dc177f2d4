"""The Trainer that both objectives share: loss, evaluation, weight average, callbacks."""

import math
import signal
import time

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from diffusion import likelihood, objective, rng, vectors
from diffusion.cli.console import STOPS, say, unread
from diffusion.collator import MixCollator, TwoPassCollator, editable_positions
from diffusion.data.packing import ANSWER, PADDING, Blocks, DrawSampler
from diffusion.models.backbone import Backbone
from diffusion.models.layouts import Slots, arrange
from diffusion.models.soft import TwoPass
from diffusion.models.tokenizers import forbidden_ids, token_byte_lengths
from diffusion.objective import IGNORE
from diffusion.training import build
from diffusion.training.arguments import Run
from diffusion.training.checkpoints import WholeCheckpoints, reading
from diffusion.training.checks import reported
from diffusion.training.optimizer import MuonAndAdam, ema_update

# ---------------------------------------------------------------- callbacks


class StopOnSignal(TrainerCallback):
    """While training, the first Ctrl-C (or SIGTERM, or SIGHUP) lets the step finish and saves; another one
    stops at once. So does the end of whoever reads a pipe, as ``| head``. With several processes all stop after the same step."""

    def __init__(self):
        self.stopped = False
        self._received: float | None = None  # when
        self._before = {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._receive)

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self._received is None:
            self._received = time.monotonic()
            say("\nstopping after this step; its checkpoint is kept")
        elif time.monotonic() - self._received > 1:  # a launcher repeats the terminal's Ctrl-C
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        self.stopped = self._received is not None or unread()
        if args.world_size > 1:
            anyone = torch.tensor(float(self.stopped), device=args.device)
            torch.distributed.all_reduce(anyone, torch.distributed.ReduceOp.MAX)
            self.stopped = bool(anyone)
        if self.stopped:
            control.should_save = control.should_training_stop = True


class _Upkeep(TrainerCallback):
    """The order of blocks at the beginning of an epoch, the average of weights after each step."""

    def __init__(self, trainer: "DiffusionTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Neither the Trainer nor accelerate reaches the sampler of a loader that is both sharded
        # over processes and resumed within an epoch.
        self.trainer.sampler.start_at(state.global_step * self.trainer.args.global_batch)

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.ema is not None:
            self.trainer.ema.update_parameters(self.trainer.raw_model)


# ---------------------------------------------------------------- loss


class Nats(nn.Module):
    """-log p (N,) of the labelled tokens, or `objective.divergence` at the noise shares ``r`` (B,).
    Computed inside the forward pass, because accelerate copies to float32 what comes out of it, and
    the logits are large."""

    def __init__(self, backbone: Backbone, reader: TwoPass | None = None, noise=None):
        super().__init__()
        self.backbone, self.reader, self.noise = backbone, reader, noise

    def forward(
        self, input_ids, labels, two_pass=False, r=None, time=None, keys=None, **settings
    ) -> Tensor:
        rows = labels != IGNORE
        model = self.reader if two_pass else self.backbone
        if time is not None:
            table = self.backbone.model.get_input_embeddings().weight
            normals = rng.normal(rng.fold_in(keys, 1), rows.shape[1] * table.shape[1])
            normals = normals.view(*rows.shape, -1)
            x = vectors.noised(table, labels.clamp(min=0), time, normals, self.noise)
            logits = vectors.predict(self.backbone, input_ids, rows, x, time, self.noise)
            return objective.cross_entropy(logits, labels[rows])
        logits = model(input_ids, rows, **settings)
        at = rows.nonzero(as_tuple=True)  # once: a GPU is waited for wherever a mask selects
        if r is not None:
            level = r[:, None].expand(labels.shape)[at]
            return objective.divergence(logits, labels[at], input_ids[at], level, self.noise)
        nats = objective.cross_entropy(logits, labels[at])
        if self.reader is not None:  # several processes want a gradient of all, in every batch
            nats = nats + 0 * sum(self.reader.soft.parameters())
        return nats


# ---------------------------------------------------------------- validation

_SIZES = (2, 4, 8, 16, 64)  # of blocks whose bound is measured where a mix is trained
_IN_ORDER = 16  # blocks that are read from left to right on the full canvas, at the end


def validation_bounds(trainer: "DiffusionTrainer") -> dict[str, likelihood.Bound]:
    """By layout the bound (or exact NLL, when causal) of the validation blocks under the weights
    that inference would use. First that of the objective; others where several are trained."""
    model = trainer.inference_model
    was_training = model.training
    backbone = trainer.reader(Backbone(model.eval()))
    args, collator = trainer.args, trainer.batches
    blocks = trainer.eval_dataset.blocks.long().to(args.device)
    draws = trainer.eval_draws
    spread = {
        "token_bytes": trainer.token_bytes,
        "batch_size": args.per_device_eval_batch_size,
        "shard": (args.process_index, args.world_size),
        "gather": trainer.accelerator.gather,
    }
    found = {}
    with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
        if trainer.causal:
            kinds = trainer.eval_dataset.kinds
            editable = torch.ones_like(blocks, dtype=torch.bool)
            if kinds is not None:
                editable = kinds.to(args.device) == ANSWER
            editable[:, 0] = False
            found["causal"] = likelihood.causal_nll(backbone, blocks, editable, **spread)
        else:
            editable = editable_positions(blocks, collator.prefix_len, collator.fixed_ids)
            kinds = trainer.eval_dataset.kinds
            if kinds is not None:  # written on a canvas of the length of a block
                kinds = kinds.to(args.device)
                editable = kinds == ANSWER
                blocks = collator.noise.corrupt(blocks, kinds == PADDING)
            found["full"] = likelihood.likelihood_bound(
                backbone, blocks, editable, collator.noise, draws=draws, **spread
            )
        if isinstance(collator, MixCollator):
            longest = blocks.shape[1] - collator.prefix_len
            for name in ("causal", *(f"block{size}" for size in _SIZES if size < longest)):
                weight = float(name == "causal")
                collate = collator.stream(name, weight, 0, len(blocks) * draws)
                found[name] = likelihood.stream_bound(
                    backbone, blocks, collate, trainer.slots(name), draws=draws, **spread
                )
            if trainer.ended:  # a pass for each token: once
                keep = torch.linspace(0, len(blocks) - 1, min(len(blocks), _IN_ORDER))
                keep = keep.long().to(args.device)
                found["ordered"] = likelihood.ordered_nll(
                    backbone, blocks[keep], editable[keep], collator.noise, **spread
                )
    model.train(was_training)
    return found


def metrics_of(found: dict[str, likelihood.Bound]) -> dict[str, float]:
    """The numbers to log of what `validation_bounds` has found."""
    bound = next(iter(found.values()))
    numbers = {
        "loss": bound.nats_per_token,
        "nats_per_token": bound.nats_per_token,
        "standard_error": bound.standard_error,
        "perplexity": likelihood.perplexity(bound.nats_per_token),
        "nats_per_byte": bound.nats_per_byte,
    }
    for i, value in enumerate(bound.by_mask_rate):
        if not math.isnan(value):
            numbers[f"nats_at_{20 * i}_{20 * i + 20}"] = value
    for name, other in found.items() if len(found) > 1 else ():
        per_byte = other.nats_per_byte / other.nats_per_token
        numbers[f"{name}_nats_per_token"] = other.nats_per_token
        numbers[f"{name}_standard_error"] = other.standard_error
        numbers[f"{name}_nats_per_byte"] = other.nats_per_byte
        numbers[f"{name}_standard_error_per_byte"] = other.standard_error * per_byte
    return numbers


# ---------------------------------------------------------------- the Trainer


class DiffusionTrainer(WholeCheckpoints):
    """Trains a model as a denoiser, or on next-token prediction, as the flags of a run say.

    Args:
        model: of `build.build_model`.
        blocks, eval_blocks: of length L both; without ``blocks`` it can only evaluate.
    """

    def __init__(self, run: Run, model, tokenizer, blocks: Blocks | None, eval_blocks: Blocks):
        args, backbone = run.args, Backbone(model)
        blocks = eval_blocks if blocks is None else blocks
        collator = build.make_collator(run, model, tokenizer)
        # As the objective wants them.
        self.batches = collator.collate if isinstance(collator, TwoPassCollator) else collator
        self.causal, self.eval_draws = run.causal, run.diffusion.eval_draws
        self.soft_learning_rate = run.diffusion.soft_learning_rate
        self.soft = build.make_soft_mask(run, model, tokenizer)
        if self.soft is not None:
            forbidden = set(forbidden_ids(tokenizer, model.config.vocab_size))
            if blocks.kinds is not None:  # the end of an answer may be a special token
                forbidden -= set(blocks.blocks[blocks.kinds == ANSWER].unique().tolist())
            self.settings_of_two_passes = self.batches.noise, sorted(forbidden)
        self.token_bytes = token_byte_lengths(tokenizer, model.config.vocab_size)
        noise = getattr(self.batches, "noise", None)
        noise = None if noise is None else noise.to(args.device)
        with reported("report_to", "save_strategy"):
            super().__init__(
                model=Nats(backbone, self.reader(backbone) if self.soft else None, noise),
                args=args,
                train_dataset=blocks,
                eval_dataset=eval_blocks,
                data_collator=collator,
                processing_class=tokenizer,
            )
        # compute_loss below divides by the size of the whole accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        self.sampler = DrawSampler(len(blocks), args.global_batch, args.seed)
        self.ema = None
        if decay := run.diffusion.ema:
            self.ema = AveragedModel(self.raw_model, multi_avg_fn=ema_update(decay))
        self.add_callback(_Upkeep(self))
        self._evaluated: tuple[int, dict] | None = None  # (step, metrics)

    # ------------------------------------------------------------ the model

    def reader(self, backbone: Backbone) -> nn.Module:
        """The module that training and evaluation call: two passes with soft-masking."""
        if self.soft is None:
            return backbone
        return TwoPass(backbone, self.soft, *self.settings_of_two_passes)

    @property
    def raw_model(self) -> nn.Module:
        """The Hugging Face model, inside `Backbone` and the wrapper for several processes."""
        return self.accelerator.unwrap_model(self.model).backbone.model

    @property
    def inference_model(self) -> nn.Module:
        """The weight average where there is one."""
        return self.raw_model if self.ema is None else self.ema.module

    # ------------------------------------------------------------ a run

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As the Trainer's, which would take one more step where nothing is left to train; at the end
        of a run with the best weights, if --load_best_model_at_end is given."""
        state = None
        if resume_from_checkpoint is not None:
            with reading(resume_from_checkpoint, TRAINER_STATE_NAME):
                state = TrainerState.load_from_json(
                    f"{resume_from_checkpoint}/{TRAINER_STATE_NAME}"
                )
            loader = self.get_train_dataloader()
            *_, state.max_steps = self.set_initial_training_values(self.args, loader)
        if state is not None and state.global_step >= state.max_steps:
            say(f"{resume_from_checkpoint} is the end of the run: nothing is left to train")
            self.state, self.control.should_training_stop = state, True
            self._load_from_checkpoint(resume_from_checkpoint)
        else:
            super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.args.load_best_model_at_end and self.ended:
            self.load_best()
        if self.args.load_best_model_at_end:
            self._evaluated = None  # of other weights

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.global_step >= self.state.max_steps

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.args.muon:
            args = self.args
            self.optimizer = MuonAndAdam(
                self.model,
                set(self.get_decay_parameter_names(self.model)),
                lr=args.learning_rate,
                weight_decay=args.weight_decay,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
            )
        with reported("optim", "optim_args"):
            super().create_optimizer(model)
        if self.soft is not None:
            own = list(self.soft.parameters())
            for group in self.optimizer.param_groups:
                group["params"] = [p for p in group["params"] if all(p is not q for q in own)]
            group = {"params": own, "lr": self.soft_learning_rate, "weight_decay": 0.0}
            self.optimizer.add_param_group(group)
        return self.optimizer

    def create_scheduler(self, *args, **kwargs):
        with reported("lr_scheduler_type", "lr_scheduler_kwargs"):
            return super().create_scheduler(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Nats per token, weighted as the collator says. The denominators count the whole global
        batch, so that neither accumulation nor the number of processes changes the loss."""
        labels = inputs["labels"]
        names = ("attention_mask", "r", "two_pass", "time", "keys")
        more = {n: inputs[n] for n in names if n in inputs}
        if "layout" in inputs:
            more["layout"] = self.slots(inputs["layout"])
        if self.causal:
            more["causal"] = True
        nats = model(inputs["input_ids"], labels, **more)
        loss = (nats * inputs["weights"][labels != IGNORE]).sum()
        tokens = self.batches.mean
        loss = loss / (num_items_in_batch.clamp(min=1) if tokens else self.args.global_batch)
        # Gradients are averaged over processes; the sum is wanted.
        return loss * self.accelerator.num_processes

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        """Nothing is logged or saved of a run that has diverged. The sum of losses stays not finite
        until it is logged; to look at it in every step would make a GPU wait."""
        control = self.control
        if control.should_log or control.should_save or control.should_evaluate:
            self.check_finite("loss", tr_loss)
            self.check_finite("gradient", grad_norm)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def end_processes(self) -> None:
        """Wait for the others: a process that just ends may take them down with it."""
        if self.args.world_size > 1:
            self.accelerator.wait_for_everyone()
            torch.distributed.destroy_process_group()

    def slots(self, layout: str) -> Slots:
        """A layout of the training blocks."""
        collator, length = self.batches, self.eval_dataset.blocks.shape[1]
        first, shift, dtype = collator.prefix_len, collator.shift, self.args.compute_dtype
        return arrange(layout, length, first, shift, dtype, self.args.device)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        step = self.state.global_step
        if self._evaluated and self._evaluated[0] == step:  # the last step's, at the end again
            return self._evaluated[1]
        self.bounds = validation_bounds(self)
        found = metrics_of(self.bounds)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._evaluated = step, metrics
        return metrics
