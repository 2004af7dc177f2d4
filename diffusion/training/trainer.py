"""The Trainer that both objectives share: loss, evaluation, weight EMA, safe checkpoints."""

import contextlib
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from diffusion import likelihood, objective
from diffusion.cli.console import STOPS, let_go_of_terminal, say
from diffusion.cli.files import STAGING
from diffusion.collator import (
    IGNORE,
    CausalCollator,
    DiffusionCollator,
    MixCollator,
    TwoPassCollator,
    editable_positions,
)
from diffusion.data.packing import Blocks, DrawSampler
from diffusion.errors import UserError, first_line
from diffusion.models.backbone import Backbone
from diffusion.models.layouts import Slots, arrange
from diffusion.models.soft import SoftMask, TwoPass
from diffusion.models.tokenizers import forbidden_ids
from diffusion.noise import Interpolating
from diffusion.training.checks import told
from diffusion.training.optimizer import MuonAndAdam

_EMA_FILE = "ema.safetensors"
_SIZES = (2, 4, 8, 16, 64)  # of blocks, in evaluations
_LARGEST_WEIGHT = 2.0  # of a token, with --loss clipped (GIDD)
_IN_ORDER = 16  # validation blocks that are read in order on the full canvas, at the end


def ema_update(decay: float):
    """Update rule of a weight average with decay min(decay, (1 + n) / (10 + n)) at update n,
    which forgets the random start quickly (as in MDLM's ema.py)."""

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        d = min(decay, (1 + n.item()) / (10 + n.item()))
        torch._foreach_lerp_(average, current, 1 - d)

    return update


class StopOnSignal(TrainerCallback):
    """While training, the first Ctrl-C (or SIGTERM, or SIGHUP) lets the step finish and saves; another one
    stops at once. With several processes all stop after the same step."""

    def __init__(self):
        self.stopped = False
        self._asked: float | None = None  # when
        self._before = {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._receive)

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if number == getattr(signal, "SIGHUP", None):
            let_go_of_terminal()
        if self._asked is None:
            self._asked = time.monotonic()
            say("\nstopping after this step; its checkpoint is kept")
        elif time.monotonic() - self._asked > 1:  # a launcher repeats the terminal's Ctrl-C
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        self.stopped = self._asked is not None
        if args.world_size > 1:
            anyone = torch.tensor(float(self.stopped), device=args.device)
            torch.distributed.all_reduce(anyone, torch.distributed.ReduceOp.MAX)
            self.stopped = bool(anyone)
        if self.stopped:
            control.should_save = control.should_training_stop = True


class _Upkeep(TrainerCallback):
    """What has to happen at certain moments of the Trainer's loop."""

    def __init__(self, trainer: "DiffusionTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Neither the Trainer nor accelerate reaches the sampler of a loader that is both sharded
        # over processes and resumed within an epoch.
        self.trainer.sampler.start_at(state.global_step * self.trainer.args.global_batch)

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.ema is not None:
            self.trainer.ema.update_parameters(self.trainer.raw_model)


class Nats(nn.Module):
    """-log p (N,) of the labelled tokens, or `objective.divergence` at the noise shares ``r`` (B,).
    Taken inside the forward pass, because accelerate copies
    to float32 what comes out of it, and the logits are large."""

    def __init__(
        self,
        backbone: Backbone,
        reader: TwoPass | None = None,
        noise: Interpolating | None = None,
    ):
        super().__init__()
        self.backbone, self.reader, self.noise = backbone, reader, noise

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        two_pass: bool = False,
        r: Tensor | None = None,
        **settings,
    ) -> Tensor:
        rows = labels != IGNORE
        model = self.reader if two_pass else self.backbone
        logits = model(input_ids, rows, **settings)
        if r is not None:
            level = r[:, None].expand(labels.shape)[rows]
            return objective.divergence(logits, labels[rows], input_ids[rows], level, self.noise)
        nats = objective.cross_entropy(logits, labels[rows])
        if self.reader is not None:  # several processes want a gradient of all, in every batch
            nats = nats + 0 * sum(self.reader.soft.parameters())
        return nats


class DiffusionTrainer(Trainer):
    """Trains a `Backbone` as a denoiser, or (``causal``) on next-token prediction.

    Args:
        train_blocks, eval_blocks: (N, L) packed blocks.
        collator: decides the objective; its settings are used for evaluation too.
        schedule, loss: see `objective`.
        ema_decay: 0 for no average.
        token_bytes: (V,), see `corpus.token_byte_lengths`.
        eval_draws: mask patterns per validation block.
        soft: what masks remember, with its learning rate; None: nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        args,
        *,
        train_blocks: Tensor,
        eval_blocks: Tensor,
        collator: DiffusionCollator | CausalCollator | MixCollator | TwoPassCollator,
        tokenizer,
        token_bytes: Tensor,
        schedule: str = "linear",
        loss: str = "nelbo",
        ema_decay: float = 0.0,
        eval_draws: int = 1,
        soft: SoftMask | None = None,
        soft_learning_rate: float = 1e-2,
    ):
        two_pass = isinstance(collator, TwoPassCollator)
        self.batches = collator.collate if two_pass else collator  # as the objective wants them
        self.causal = isinstance(self.batches, CausalCollator)
        self.soft, self.soft_learning_rate = soft, soft_learning_rate
        if soft is not None:
            forbidden = forbidden_ids(tokenizer, backbone.config.vocab_size)
            self.settings_of_two_passes = self.batches.noise, forbidden
        self.schedule, self.loss = schedule, loss
        noise = getattr(self.batches, "noise", None)
        self.noise = noise if isinstance(noise, Interpolating) else None
        self.eval_draws = eval_draws
        self.token_bytes = token_bytes
        with told():
            super().__init__(
                model=Nats(backbone, self.reader(backbone) if soft else None, self.noise),
                args=args,
                train_dataset=Blocks(train_blocks),
                eval_dataset=Blocks(eval_blocks),
                data_collator=collator,
                processing_class=tokenizer,
            )
        # compute_loss below divides by the size of the whole accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        self.sampler = DrawSampler(len(train_blocks), args.global_batch, args.seed)
        self.ema = None
        if ema_decay:
            self.ema = AveragedModel(self.raw_model, multi_avg_fn=ema_update(ema_decay))
        self.add_callback(_Upkeep(self))
        self._evaluated: tuple[int, dict] | None = None  # (step, metrics)

    def reader(self, backbone: Backbone) -> nn.Module:
        """What training and evaluation call: with soft-masking two passes."""
        if self.soft is None:
            return backbone
        return TwoPass(backbone, self.soft, *self.settings_of_two_passes)

    @property
    def raw_model(self) -> nn.Module:
        """The Hugging Face model, inside `Backbone` and whatever wraps that for several processes."""
        return self.accelerator.unwrap_model(self.model).backbone.model

    @property
    def inference_model(self) -> nn.Module:
        """What generation should use: the weight average where there is one."""
        return self.raw_model if self.ema is None else self.ema.module

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As the Trainer's, which would take one more step from where nothing is left to train."""
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(f"{resume_from_checkpoint}/trainer_state.json")
            *_, planned = self.set_initial_training_values(self.args, self.get_train_dataloader())
            if state.global_step >= planned:
                say(f"{resume_from_checkpoint} is the end of the run: nothing is left to train")
                self.state = state
                self.state.max_steps = planned
                self._load_from_checkpoint(resume_from_checkpoint)
                return
        super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

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
        with told():
            super().create_optimizer(model)
        if self.soft is not None:
            own = list(self.soft.parameters())
            for group in self.optimizer.param_groups:
                group["params"] = [p for p in group["params"] if all(p is not q for q in own)]
            rate = self.soft_learning_rate
            self.optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return self.optimizer

    def create_scheduler(self, *args, **kwargs):
        with told():
            return super().create_scheduler(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Nats per token. The denominators count the whole global batch, so that neither
        accumulation nor the number of processes changes the loss."""
        ids, labels = inputs["input_ids"], inputs["labels"]
        passes = {"two_pass": bool(inputs["two_pass"])} if "two_pass" in inputs else {}
        if "r" in inputs:  # noise with random tokens
            nats = model(ids, labels, r=inputs["r"])
            weights = objective.noise_weights(
                labels, ids, inputs["t"], inputs["r"], inputs["editable"], self.schedule, self.noise,
                _LARGEST_WEIGHT if self.loss == "clipped" else None,
            )  # fmt: skip
            loss = (nats * weights).sum() / self.args.global_batch
        elif "weights" in inputs:  # by slots of a layout
            nats = model(ids, labels, layout=self.slots(inputs["layout"]), **passes)
            loss = (nats * inputs["weights"][labels != IGNORE]).sum() / self.args.global_batch
        elif self.causal or self.loss == "mean":
            nats = model(ids, labels, causal=self.causal, **passes)
            loss = nats.sum() / num_items_in_batch.clamp(min=1)
        else:
            nats = model(ids, labels, **passes)
            weights = objective.token_weights(
                labels, inputs["t"], inputs["editable"], self.schedule
            )
            loss = (nats * weights).sum() / self.args.global_batch
        # Gradients are averaged over processes; the sum is what is wanted.
        return loss * self.accelerator.num_processes

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        """Nothing is logged or saved of a run that has broken down. The sum of losses stays broken
        until it is logged; to look at it in every step would make a GPU wait."""
        control = self.control
        if control.should_log or control.should_save or control.should_evaluate:
            self.check_finite("loss", tr_loss)
            if not self.args.fp16:  # whose scaler skips steps that are too large
                self.check_finite("gradient", grad_norm)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def check_finite(self, what: str, value: Tensor | float | None) -> None:
        """Stop where a number that has to be finite is not."""
        if value is not None and not math.isfinite(float(value)):
            raise UserError(
                f"the {what} is not finite at step {self.state.global_step}, and the run ends; "
                "checkpoints from before are kept: go on from one with a lower --learning_rate, "
                "or with --max_grad_norm"
            )

    def end_processes(self) -> None:
        """Wait for the others: a process that just ends may take them down with it."""
        if self.args.world_size > 1:
            self.accelerator.wait_for_everyone()
            torch.distributed.destroy_process_group()

    def slots(self, layout: str) -> Slots:
        """A layout of the blocks that are trained on."""
        collator, length = self.batches, self.eval_dataset.blocks.shape[1]
        first, shift, dtype = collator.prefix_len, collator.shift, self.args.compute_dtype
        return arrange(layout, length, first, shift, dtype, self.args.device)

    # ------------------------------------------------------------ evaluation

    def bounds(self) -> dict[str, likelihood.Bound]:
        """By layout the bound (or exact NLL, when causal) of the validation blocks under the weights
        that inference would use. First that of the objective; others where several are trained."""
        model = self.inference_model
        was_training = model.training
        backbone = self.reader(Backbone(model.eval()))
        device, collator = self.args.device, self.batches
        blocks = self.eval_dataset.blocks.long().to(device)
        batch_size = self.args.per_device_eval_batch_size
        spread = {
            "draws": self.eval_draws,
            "batch_size": batch_size,
            "shard": (self.args.process_index, self.args.world_size),
            "gather": self.accelerator.gather,
        }
        found = {}
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            if self.causal:
                editable = torch.ones_like(blocks, dtype=torch.bool)
                editable[:, 0] = False
                found["causal"] = likelihood.causal_nll(
                    backbone, blocks, editable, self.token_bytes, batch_size=batch_size
                )
            else:
                every = torch.ones_like(blocks)
                fixed = collator.fixed_ids.to(device)
                editable = editable_positions(blocks, every, collator.prefix_len, fixed)
                found["full"] = likelihood.likelihood_bound(
                    backbone, blocks, editable, collator.noise, self.token_bytes, **spread
                )
            if isinstance(collator, MixCollator):
                longest = blocks.shape[1] - collator.prefix_len
                for name in ("causal", *(f"block{size}" for size in _SIZES if size < longest)):
                    weight = float(name == "causal")
                    collate = collator.stream(name, weight, 0, len(blocks) * self.eval_draws)
                    found[name] = likelihood.stream_bound(
                        backbone, blocks, collate, self.slots(name), self.token_bytes, **spread
                    )
                if self.state.global_step >= self.state.max_steps:  # a pass for each token: once
                    keep = torch.linspace(0, len(blocks) - 1, min(len(blocks), _IN_ORDER)).long()
                    found["ordered"] = likelihood.ordered_nll(
                        backbone, blocks[keep], editable[keep], collator.noise, self.token_bytes,
                        **{name: value for name, value in spread.items() if name != "draws"},
                    )  # fmt: skip
        model.train(was_training)
        return found

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        step = self.state.global_step
        if self._evaluated and self._evaluated[0] == step:  # the last step's, at the end again
            return self._evaluated[1]
        found = self.bounds()
        bound = next(iter(found.values()))
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
        for name, other in found.items() if len(found) > 1 else ():
            per_byte = other.nats_per_byte / other.nats_per_token
            metrics[f"{name}_nats_per_token"] = other.nats_per_token
            metrics[f"{name}_standard_error"] = other.standard_error
            metrics[f"{name}_nats_per_byte"] = other.nats_per_byte
            metrics[f"{name}_standard_error_per_byte"] = other.standard_error * per_byte
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._evaluated = step, metrics
        return metrics

    # ------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial=None) -> str:
        return os.path.join(super()._get_output_dir(trial), STAGING)

    def _save_checkpoint(self, model, trial=None):
        """A checkpoint is written aside and renamed when complete, so one that exists is whole."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = Path(self.args.output_dir, STAGING)
        target = Path(self.args.output_dir, name)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        total = sum(weight.detach().sum() for weight in self.raw_model.parameters())
        self.check_finite("sum of the weights", total)
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # safetensors, tokenizers and torch each raise their own kind
            shutil.rmtree(staging, ignore_errors=True)
            raise UserError(
                f"cannot write {target}: {first_line(error)}; free some space and go on with "
                "--resume_from_checkpoint last, if there was a checkpoint before"
            ) from None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._discard(target)
            os.replace(staging / name, target)
            self._rotate(keep=self.args.save_total_limit)
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint, in order of steps."""
        found = Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        steps = {path.name.rsplit("-", 1)[1]: path for path in found}
        return dict(sorted((int(step), path) for step, path in steps.items() if step.isdigit()))

    def _rotate(self, keep: int | None) -> None:
        found = self._checkpoints()
        # One of a step yet to come is another run's: of one gone on from an earlier checkpoint.
        later = [step for step in found if step > self.state.global_step]
        earlier = [step for step in found if step <= self.state.global_step]
        for step in later + earlier[: -keep if keep else 0]:
            self._discard(found[step])

    def _discard(self, checkpoint: Path) -> None:
        """Delete a checkpoint such that it is never there in part."""
        if checkpoint.exists():
            staging = Path(self.args.output_dir, STAGING)
            staging.mkdir(exist_ok=True)
            os.replace(checkpoint, staging / f"old-{checkpoint.name}")
            shutil.rmtree(staging / f"old-{checkpoint.name}", ignore_errors=True)

    def discard_checkpoints(self) -> None:
        """Delete those of a run that this one replaces."""
        if self.args.should_save:
            for checkpoint in self._checkpoints().values():
                self._discard(checkpoint)
            shutil.rmtree(Path(self.args.output_dir, STAGING), ignore_errors=True)

    def _save(self, output_dir=None, state_dict=None):
        """The Hugging Face model itself, not the wrapper; the average beside it."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.soft is not None:
            self.note_soft(self.raw_model.config)
            self.soft.save(folder)
        self.raw_model.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        if self.ema is not None:
            save_file(
                {name: p.detach().contiguous() for name, p in self.ema.named_parameters()}
                | {"n_averaged": self.ema.n_averaged},
                folder / _EMA_FILE,
            )

    def _load_soft(self, folder: Path) -> None:
        """The scalars of a checkpoint, which has to be of the same kind, and of the same noise."""
        ours, kinds = None if self.soft is None else self.soft.settings(), ("k", "mixing")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            noted = config.get("diffusion", {}).get("soft")
            same = (noted is None) == (ours is None)
            same = same and (ours is None or all(noted[name] == ours[name] for name in kinds))
            noise = (config.get("diffusion", {}).get(name) for name in ("noise", "p_u"))
            same_noise = [*noise] == [
                self.raw_model.config.diffusion.get(n) for n in ("noise", "p_u")
            ]
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"cannot go on from {folder}: config.json is damaged or missing; give another "
                "checkpoint, or start anew"
            ) from None
        if not same:
            raise UserError(
                f"cannot go on from {folder}: it was written with other settings of --soft_masking, "
                "--soft_k or --mixing; give those"
            )
        if not same_noise:
            raise UserError(
                f"cannot go on from {folder}: it was written with other settings of --noise or --p_u; "
                "give those"
            )
        if self.soft is not None:
            self.soft.load(folder)

    def note_soft(self, config) -> None:
        """Write into a model's config what its masks remember."""
        config.diffusion = {**config.diffusion, "soft": self.soft.settings()}

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        folder = Path(resume_from_checkpoint)
        self._load_soft(folder)
        try:
            # Tied tensors are stored once; the parameter list, too, has each tensor once.
            _copy_into(self.raw_model, load_file(folder / "model.safetensors"))
            if self.ema is not None:
                averages = load_file(folder / _EMA_FILE)
                self.ema.n_averaged.copy_(averages.pop("n_averaged"))
                _copy_into(self.ema, averages)
        except (KeyError, RuntimeError, OSError, SafetensorError) as error:
            raise UserError(
                f"cannot go on from {folder}: {first_line(error)}; it was written with another "
                "--model, --config or --ema, or is damaged"
            ) from None

    def _load_optimizer_and_scheduler(self, checkpoint):
        with _state_of(checkpoint, "optimizer.pt, scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint):
        with _state_of(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint):
        if checkpoint is None:
            return
        number = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        if not Path(checkpoint, f"rng_state{number}.pth").is_file():
            say(
                f"note: {checkpoint} has no rng_state{number}.pth, as that of another number of "
                "processes has none; with dropout the run will not be the one that was stopped"
            )
        with _state_of(checkpoint, f"rng_state{number}.pth"):
            super()._load_rng_state(checkpoint)


@contextlib.contextmanager
def _state_of(checkpoint: str | None, names: str):
    """Whatever a damaged file of a state makes a library raise is a `UserError`."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"cannot go on from {checkpoint}: {names}: {first_line(error)}; it is damaged, or was "
            "written with another --optim"
        ) from None


@torch.no_grad()
def _copy_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if tensors[name].shape != parameter.shape:  # copy_ would broadcast
            raise RuntimeError(f"{name} has shape {tuple(tensors[name].shape)}")
        parameter.copy_(tensors[name])
