"""Checkpoints that are complete: found and checked, written and read."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from diffusion.cli.console import say
from diffusion.cli.files import STAGING
from diffusion.errors import UserError, cause

_EMA_FILE = "ema.safetensors"
_OTHER = (
    "it is damaged, or was written with another --model, --config, --ema, --optim, --noise or "
    "--soft_masking (--soft_k, --mixing)"
)


@contextlib.contextmanager
def reading(folder: Path | str, name: str = "") -> Iterator[None]:
    """Whatever a file of a checkpoint that is damaged, or of another run, makes a library raise is a
    `UserError`."""
    try:
        yield
    except Exception as error:  # safetensors, transformers and torch each raise their own kind
        where = f"{folder}: {name}: " if name else f"{folder}: "
        raise UserError(f"cannot resume from {where}{cause(error)}; {_OTHER}") from None


def find_checkpoint(wanted: str | None, output_dir: str) -> str | None:
    """The folder that --resume_from_checkpoint names; None without the flag. The Trainer would
    silently start anew with what is missing in it.

    Raises:
        UserError: there is none, or a file of it is missing.
    """
    if wanted is None:
        return None
    if wanted in ("last", "true", "True"):
        wanted = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
        if wanted is None:
            raise UserError(
                f"--resume_from_checkpoint last: {output_dir} has no checkpoint; leave the flag out "
                "to start anew"
            )
    if not os.path.isdir(wanted):  # nor is a name that is too long
        raise UserError(f"--resume_from_checkpoint {wanted} is not a folder; try 'last'")
    for name in (TRAINER_STATE_NAME, "model.safetensors", "optimizer.pt", "scheduler.pt"):
        with reading(wanted, name):
            if not Path(wanted, name).is_file():
                raise FileNotFoundError("it is missing")
    return wanted


@torch.no_grad()
def _load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Load what `save_pretrained` wrote, which has names of its own for tied and for some weights."""
    saved, report = type(model).from_pretrained(
        folder,
        config=model.config,
        dtype=model.dtype,
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # they are reported below
        output_loading_info=True,
    )
    said = {"missing": "is missing", "unexpected": "is not of the model"}
    for kind, what in {**said, "mismatched": "has another shape"}.items():
        if found := sorted(map(str, report[f"{kind}_keys"])):
            raise ValueError(f"{found[0]} {what}")
    model.load_state_dict(saved.state_dict())


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints exist completely or not at all, and hold the Hugging Face model
    itself, not the wrapper.

    Its subclass has the model as ``raw_model``, the average of its weights as ``ema`` and the scalars
    of soft-masking as ``soft``, both None where there is none.
    """

    raw_model: PreTrainedModel
    best_step: int | None = None  # whose weights it has at the end, after `load_best`

    @property
    def weights_step(self) -> int:
        """Number of steps that the weights were trained for."""
        return self.best_step or self.state.global_step

    def check_finite(self, what: str, value: Tensor | float | None) -> None:
        """Stop where a number that has to be finite is not."""
        if value is not None and not math.isfinite(float(value)):
            raise UserError(
                f"the {what} is not finite at step {self.state.global_step}, and the run ends; "
                "earlier checkpoints are kept: resume from one with a lower --learning_rate, or with "
                "--max_grad_norm"
            )

    # ------------------------------------------------------------ written

    def _get_output_dir(self, trial=None) -> str:
        return os.path.join(super()._get_output_dir(trial), STAGING)

    def _save_checkpoint(self, model, trial=None):
        """A checkpoint is written aside and renamed when complete."""
        staging = Path(self.args.output_dir, STAGING)
        target = staging.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        total = sum(weight.detach().sum() for weight in self.raw_model.parameters())
        self.check_finite("sum of the weights", total)
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint is not None:  # a path of this moment; see `_best`
                self.state.best_model_checkpoint = None
                if self.args.should_save:
                    self.state.save_to_json(str(staging / target.name / TRAINER_STATE_NAME))
        except Exception as error:  # safetensors, tokenizers and torch each raise their own kind
            shutil.rmtree(staging, ignore_errors=True)
            raise UserError(
                f"cannot write {target}: {cause(error)}; free some space and resume with "
                "--resume_from_checkpoint last, if there was a checkpoint before"
            ) from None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._discard(target)
            os.replace(staging / target.name, target)
            self._rotate()
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint, in order of steps."""
        found = Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        steps = {path.name.rsplit("-", 1)[1]: path for path in found}
        return dict(sorted((int(step), path) for step, path in steps.items() if step.isdigit()))

    def _rotate(self) -> None:
        """Delete all but the last --save_total_limit checkpoints and the best one."""
        found, keep = self._checkpoints(), self.args.save_total_limit
        # One of a later step belongs to another run, of which an earlier checkpoint was resumed.
        later = [step for step in found if step > self.state.global_step]
        earlier = [step for step in found if step <= self.state.global_step]
        best = self._best() if self.args.load_best_model_at_end else None
        for step in later + earlier[: -keep if keep else 0]:
            if step != best:
                self._discard(found[step])

    def _best(self) -> int | None:
        """The step of the checkpoint with the lowest validation bound; None: none was evaluated."""
        bounds = self._bounds()
        known = (step for step in self._checkpoints() if step in bounds)
        return min(known, key=bounds.get, default=None)

    def _bounds(self) -> dict[int, float]:
        """The validation bound of each step that was evaluated."""
        return {e["step"]: e["eval_loss"] for e in self.state.log_history if "eval_loss" in e}

    def _discard(self, checkpoint: Path) -> None:
        """Delete a checkpoint such that it never exists in part."""
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
        """The model, and beside it the average, which has each of its tensors once."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.soft is not None:
            self.note_soft(self.raw_model.config)
            self.soft.save(folder)
        self.raw_model.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        if self.ema is not None:
            averages = {name: p.detach().contiguous() for name, p in self.ema.named_parameters()}
            save_file(averages | {"n_averaged": self.ema.n_averaged}, folder / _EMA_FILE)

    def note_soft(self, config) -> None:
        """Write the settings of soft-masking into a model's config."""
        config.diffusion = {**config.diffusion, "soft": self.soft.settings()}

    # ------------------------------------------------------------ resumed

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        folder = Path(resume_from_checkpoint)
        with reading(folder):
            ours = dict(self.raw_model.config.diffusion)
            ours["soft"] = None if self.soft is None else self.soft.settings()
            theirs = json.loads((folder / "config.json").read_text())["diffusion"]
            if _kind(ours) != _kind(theirs):
                raise ValueError("it has other settings of diffusion")
            _load_weights(self.raw_model, folder)
            if self.soft is not None:
                self.soft.load(folder)
            if self.ema is not None:
                averages = load_file(folder / _EMA_FILE)
                self.ema.n_averaged.copy_(averages.pop("n_averaged"))
                for name, parameter in self.ema.named_parameters():
                    parameter.copy_(averages[name].view_as(parameter))

    def load_best(self) -> None:
        """Take the weights, and their average, of the checkpoint with the lowest validation bound."""
        self.best_step = self._best()
        if self.best_step is None:
            say("note: no checkpoint was evaluated; the weights are those of the last step")
            return
        bounds, said = self._bounds(), "with the lowest validation bound"
        lowest = min(bounds, key=bounds.get)
        if bounds[lowest] < bounds[self.best_step]:
            said = (
                f"the best of those that were saved; step {lowest} had a lower validation bound, "
                f"{bounds[lowest]:.3f} instead of {bounds[self.best_step]:.3f}: save as often as you evaluate"
            )
        say(f"the weights are those of step {self.best_step}, {said}")
        self._load_from_checkpoint(str(self._checkpoints()[self.best_step]))

    def _load_optimizer_and_scheduler(self, checkpoint):
        with reading(checkpoint, "optimizer.pt, scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint):
        """Without float16 training no gradient is scaled."""

    def _load_rng_state(self, checkpoint):
        if checkpoint is None:
            return
        number = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        name = f"rng_state{number}.pth"
        if not Path(checkpoint, name).is_file():
            say(
                f"note: {checkpoint} has no {name}: it was written by another number of processes; "
                "with dropout the result differs from that of the run that was stopped"
            )
        with reading(checkpoint, name):
            super()._load_rng_state(checkpoint)


def _kind(settings: dict) -> list:
    """What has to be the same for a run to be resumed."""
    soft = settings.get("soft") or {}
    return [settings.get("noise"), settings.get("p_u"), soft.get("k"), soft.get("mixing")]
