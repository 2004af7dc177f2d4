"""The Trainer that both objectives share: loss, evaluation, weight EMA."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from diffusion import objective
from diffusion.cli.console import say
from diffusion.collator import (
    IGNORE,
    CausalCollator,
    ChatCollator,
    DiffusionCollator,
    MixCollator,
    TwoPassCollator,
)
from diffusion.data.packing import ANSWER, Blocks, DrawSampler
from diffusion.errors import UserError
from diffusion.models.backbone import Backbone
from diffusion.models.layouts import Slots, arrange
from diffusion.models.soft import SoftMask, TwoPass
from diffusion.models.tokenizers import forbidden_ids, token_byte_lengths
from diffusion.noise import Interpolating
from diffusion.training import build, lora, sharding, validation
from diffusion.training.arguments import DiffusionArguments, ModelArguments
from diffusion.training.callbacks import EarlyStopping
from diffusion.training.checkpoints import WholeCheckpoints
from diffusion.training.checks import told
from diffusion.training.optimizer import MuonAndAdam

_LARGEST_WEIGHT = 2.0  # of a token, with --loss clipped (GIDD)


def ema_update(decay: float):
    """Update rule of a weight average with decay min(decay, (1 + n) / (10 + n)) at update n,
    which forgets the random start quickly (as in MDLM's ema.py)."""

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        d = min(decay, (1 + n.item()) / (10 + n.item()))
        torch._foreach_lerp_(average, current, 1 - d)

    return update


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

    @property
    def _no_split_modules(self) -> list[str]:
        """What FSDP asks of a model."""
        return sharding.layer_classes(self.backbone)

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


class DiffusionTrainer(WholeCheckpoints):
    """Trains a `Backbone` as a denoiser, or (``causal``) on next-token prediction.

    Args:
        train_blocks, eval_blocks: of length L both.
        collator: decides the objective; its settings are used for evaluation too.
        schedule, loss: see `objective`.
        ema_decay: 0 for no average.
        token_bytes: (V,), see `corpus.token_byte_lengths`.
        eval_draws: mask patterns per validation block.
        soft: what masks remember, with its learning rate; None: nothing.
        adapted: the PeftModel around the model of the backbone, if there is one.
    """

    def __init__(
        self,
        backbone: Backbone,
        args,
        *,
        train_blocks: Blocks,
        eval_blocks: Blocks,
        collator: DiffusionCollator | CausalCollator | MixCollator | TwoPassCollator,
        tokenizer,
        token_bytes: Tensor,
        schedule: str = "linear",
        loss: str = "nelbo",
        ema_decay: float = 0.0,
        eval_draws: int = 1,
        soft: SoftMask | None = None,
        soft_learning_rate: float = 1e-2,
        adapted: nn.Module | None = None,
    ):
        two_pass = isinstance(collator, TwoPassCollator)
        self.batches = collator.collate if two_pass else collator  # as the objective wants them
        self.causal = isinstance(self.batches, CausalCollator)
        self.chat = isinstance(self.batches, ChatCollator)
        self.soft, self.soft_learning_rate, self.adapted = soft, soft_learning_rate, adapted
        if soft is not None:
            forbidden = set(forbidden_ids(tokenizer, backbone.config.vocab_size))
            if train_blocks.kinds is not None:  # the end of an answer may be a special token
                forbidden -= set(
                    train_blocks.blocks[train_blocks.kinds == ANSWER].unique().tolist()
                )
            self.settings_of_two_passes = self.batches.noise, sorted(forbidden)
        self.schedule, self.loss = schedule, loss
        noise = getattr(self.batches, "noise", None)
        self.noise = noise if isinstance(noise, Interpolating) else None
        self.eval_draws = eval_draws
        self.token_bytes = token_bytes
        with told():
            super().__init__(
                model=Nats(backbone, self.reader(backbone) if soft else None, self.noise),
                args=args,
                train_dataset=train_blocks,
                eval_dataset=eval_blocks,
                data_collator=collator,
                processing_class=tokenizer,
            )
        if args.fsdp and not self.is_fsdp_enabled:
            raise UserError(
                "--fsdp spreads a model over several GPUs, and these processes have none; leave it out"
            )
        # compute_loss below divides by the size of the whole accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        self.sampler = DrawSampler(len(train_blocks), args.global_batch, args.seed)
        self.ema = None
        if ema_decay:
            self.ema = AveragedModel(self.raw_model, multi_avg_fn=ema_update(ema_decay))
        self.add_callback(_Upkeep(self))
        self.stopping = None
        if args.early_stopping_patience is not None:
            self.stopping = EarlyStopping(args.early_stopping_patience)
            self.add_callback(self.stopping)
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

    def finished_model(self) -> PreTrainedModel:
        """The same to save, by the first process: whole, and without adapters, whose work is in the
        weights then. All processes ask for it, and train nothing after it."""
        if self.adapted is not None:
            return lora.merged(self.adapted, self.inference_model)
        return sharding.copy_of(self.raw_model) if self.is_fsdp_enabled else self.inference_model

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As the Trainer's, which would take one more step from where nothing is left to train; at the
        end of a run with the best weights, if they are asked for."""
        state = None
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(f"{resume_from_checkpoint}/trainer_state.json")
            *_, state.max_steps = self.set_initial_training_values(
                self.args, self.get_train_dataloader()
            )
        if state is not None and self._is_end(state):
            say(f"{resume_from_checkpoint} is the end of the run: nothing is left to train")
            self.state, self.control.should_training_stop = state, True
            self._load_from_checkpoint(resume_from_checkpoint)
        else:
            super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.args.load_best_model_at_end and self.ended:
            self.load_best()
        if self.args.load_best_model_at_end or self.stopping is not None:
            self._evaluated = None  # other weights were, or before it was known to be the end

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self._is_end(self.state)

    def _is_end(self, state: TrainerState) -> bool:
        early = self.stopping is not None and self.stopping.exhausted(state)
        return early or state.global_step >= state.max_steps

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
        if self.chat:  # the others have no padding
            passes["attention_mask"] = inputs["attention_mask"]
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

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        step = self.state.global_step
        if self._evaluated and self._evaluated[0] == step:  # the last step's, at the end again
            return self._evaluated[1]
        self.bounds = validation.bounds(self)
        found = validation.metrics(self.bounds)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._evaluated = step, metrics
        return metrics


def make_trainer(
    model,
    tokenizer,
    blocks: Blocks | None,
    eval_blocks: Blocks,
    options: ModelArguments,
    diffusion: DiffusionArguments,
    args,
) -> DiffusionTrainer:
    """The Trainer of a run; without ``blocks`` it can only evaluate."""
    return DiffusionTrainer(
        Backbone(model),
        args,
        train_blocks=eval_blocks if blocks is None else blocks,
        eval_blocks=eval_blocks,
        collator=build.make_collator(model, tokenizer, diffusion, args),
        tokenizer=tokenizer,
        token_bytes=token_byte_lengths(tokenizer, model.config.vocab_size),
        schedule=diffusion.schedule,
        loss=diffusion.loss,
        ema_decay=diffusion.ema,
        eval_draws=diffusion.eval_draws,
        soft=build.make_soft_mask(options, diffusion, args, model, tokenizer),
        soft_learning_rate=diffusion.soft_learning_rate,
        adapted=model if options.lora else None,
    )
