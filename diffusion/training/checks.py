"""All flags of a run, the Trainer's own among them, and which combinations are refused before any
work."""

import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import huggingface_hub
import torch
from transformers import TrainingArguments

from diffusion import hardware
from diffusion.cli import files
from diffusion.cli.checks import MOST, Conflict, check_conflicts, check_values, conflict
from diffusion.cli.flags import parse_flags
from diffusion.errors import UserError, cause
from diffusion.models import hub, loading
from diffusion.models.families import max_length
from diffusion.training import environment
from diffusion.training.arguments import GONE, GROUPS, P_U, Run, TrainerFlags
from diffusion.training.checkpoints import find_checkpoint
from diffusion.training.optimizer import MUON

# ---------------------------------------------------------------- the Trainer's flags


@dataclass
class RunArguments(TrainerFlags, TrainingArguments):
    """`TrainerFlags` and everything else that the Trainer has."""

    def __post_init__(self):
        check_values(self)
        for option in fields(self):  # what float32 and a counter can hold
            value = getattr(self, option.name)
            most = MOST if type(value) is int and "seed" not in option.name else 1e30
            if isinstance(value, int | float) and not abs(value) <= most:
                raise UserError(f"--{option.name} {value} must be a finite number up to {most:g}")
        if isinstance(self.lr_scheduler_kwargs, str) and self.lr_scheduler_kwargs[:1] != "{":
            raise UserError(
                f"--lr_scheduler_kwargs {self.lr_scheduler_kwargs!r} must be a JSON object, such as "
                "'{\"num_cycles\": 2}'"
            )
        evaluates, saves = map(_word, (self.eval_strategy, self.save_strategy))
        if self.load_best_model_at_end and saves not in (evaluates, "best"):
            raise UserError(
                "--load_best_model_at_end needs a checkpoint of each evaluation, and --eval_strategy is "
                f"{evaluates} and --save_strategy {saves}; give the same to both"
            )
        every, kept = self.eval_steps or self.logging_steps, self.save_steps
        in_steps = evaluates == saves == "steps" and every >= 1 and kept >= 1
        if self.load_best_model_at_end and in_steps and kept % every:
            raise UserError(
                "--load_best_model_at_end needs a checkpoint of an evaluation, and --save_steps "
                f"{kept:g} is no multiple of --eval_steps {every:g}"
            )
        self.muon = self.optim == MUON
        if self.muon:  # which the Trainer does not know
            self.optim = TrainerFlags.optim
        environment.check_processes()
        on_cpu = environment.on_cpu(self.use_cpu)
        if not on_cpu and torch.cuda.is_available():  # each of several processes takes its own
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        device = hardware.choose_device("cpu" if on_cpu else "auto")
        self.use_cpu = device.type == "cpu"  # TrainingArguments refuses bf16 on CPUs otherwise
        dtype = environment.number_format(self.dtype)
        self.bf16 = self.bf16 or hardware.choose_dtype(dtype, device) == torch.bfloat16
        # `build` and `card` do these: the Trainer would do them to its wrapper of the model, and
        # upload what is no model yet.
        self.recomputed, self.gradient_checkpointing = self.gradient_checkpointing, None
        self.compiled, self.torch_compile = self.torch_compile, False
        self.published, self.push_to_hub = self.push_to_hub, False
        self.remove_unused_columns = False  # of batches; collators make all of them
        self.logging_nan_inf_filter = False  # it leaves out of the logged loss what is not finite
        self.ddp_find_unused_parameters = bool(self.ddp_find_unused_parameters)
        super().__post_init__()
        self.mixed_precision = "bf16" if self.bf16 else "no"  # not what a variable says
        # One process drives one device; several are what `accelerate launch` is for.
        self._n_gpu = min(self.n_gpu, 1)

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def micro_batch(self) -> int:
        """Rows of one forward pass, over processes."""
        return self.train_batch_size * self.world_size

    @property
    def global_batch(self) -> int:
        """Rows of one optimiser step, over processes and accumulation."""
        return self.micro_batch * self.gradient_accumulation_steps


def _word(value) -> str:
    """Of a flag whose values may be an Enum's."""
    return getattr(value, "value", value)


def parse(description: str) -> Run:
    """All flags of the command line; `UserError` where one is unknown or malformed."""
    with reported():
        return Run(*parse_flags((*GROUPS, RunArguments), description, gone=GONE))


@contextlib.contextmanager
def reported(*flags: str) -> Iterator[None]:
    """The Trainer, its arguments and what it builds check their own values: whatever they raise is
    a `UserError`. It names the typed ones of ``flags``, which are read there, and those that the error
    is about, with their values."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        said = cause(error)
        typed = {n: value for n, value in _typed().items() if n in flags or _about(said, n, value)}
        if not typed and isinstance(error, json.JSONDecodeError):
            typed = {n: value for n, value in _typed().items() if value[:1] in ("{", "[")}
        named = [n for n, value in typed.items() if value or f"--{n}" not in said]
        where = " ".join(f"--{n} {typed[n]}".strip() for n in named)
        raise UserError(f"{where}{': ' * bool(where)}{said}; see --help and --help_all") from None


def _about(said: str, name: str, value: str) -> bool:
    """Whether an error names a flag of the Trainer, or its value."""
    known = {option.name for option in fields(TrainingArguments)}
    plain = re.sub("[^a-z]", "", said.lower())
    word = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said) if value else None
    return name in known and (name.replace("_", "") in plain or bool(word))


def _typed() -> dict[str, str]:
    """The flags of the command line, by name, with their first values."""
    found = {}
    for word, following in itertools.pairwise([*sys.argv[1:], "--"]):
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            found[name] = value if equals or following.startswith("--") else following
    return found


# ---------------------------------------------------------------- conflicts


_AS_TRAINED = "measures a --model as it was trained"
_OWN_TEXT = "makes another vocabulary for a --model from the training text"
_FULL = "masks answers on the full canvas"
_BOUNDS = "has the likelihood bound of each layout"
_SOFT = ("soft_start", "soft_middle", "soft_slope", "soft_k", "soft_share", "soft_learning_rate")
CONFLICTS = [
    Conflict(
        "--prefix_len outside a block",
        lambda o: not (o.chat or o.infill) and not 1 <= o.prefix_len < o.block_size,
        "--prefix_len {prefix_len} must be between 1 (<s>) and --block_size - 1",
    ),
    Conflict(
        "--fsdp",
        lambda o: o.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"),
        "FSDP is not supported; use accelerate launch --multi_gpu, where each process has the model",
    ),
    conflict("--evaluate_only with --config", _AS_TRAINED),
    conflict("--evaluate_only with --resume_from_checkpoint", _AS_TRAINED),
    conflict("--evaluate_only with --soft_masking", _AS_TRAINED),
    conflict("--evaluate_only with --noise", _AS_TRAINED),
    conflict("--evaluate_only with --p_u", _AS_TRAINED),
    conflict("--new_vocabulary with --tokenizer", _OWN_TEXT),
    conflict("--new_vocabulary with --config", _OWN_TEXT),
    conflict("--new_vocabulary with --chat", _OWN_TEXT),
    conflict("--new_vocabulary with --streaming", _OWN_TEXT),
    conflict("--new_vocabulary with --evaluate_only", _OWN_TEXT),
    conflict("--chat with --objective causal", _FULL),
    conflict("--chat with --layouts {layouts}", _FULL),
    conflict("--chat with --streaming", "reads all conversations"),
    conflict("--chat with --wikitext", "needs conversations, and that has none"),
    conflict("--wikitext with --streaming", "joins lines to articles"),
    conflict("--chat with --dataset wikitext-2", "needs conversations, and that has none"),
    conflict("--chat --config without --tokenizer", "needs a tokenizer with a chat template"),
    conflict("--infill with --chat", "reads texts with blanks"),
    conflict("--infill with --layouts {layouts}", "masks blanks on the full canvas"),
    conflict("--infill with --new_vocabulary", "needs the tokens of its parts beforehand"),
    conflict("--infill with --streaming", "reads all texts"),
    conflict("--infill with --wikitext", "needs texts with blanks, and that has none"),
    conflict("--infill with --dataset wikitext-2", "needs texts with blanks, and that has none"),
    conflict("--infill --config without --tokenizer", "needs a tokenizer that knows its parts"),
    conflict("--streaming without --max_train_samples", "reads until it has enough blocks"),
    conflict("--streaming --config without --tokenizer", "reads a text only once"),
    conflict("--mask_schedule batch with --schedule {schedule}", "draws mask rates itself"),
    conflict("--objective causal with --shift no", "predicts the next token"),
    conflict("--layouts {layouts} with --objective causal", "is a mix of objectives"),
    conflict("--layouts {layouts} with --loss mean", _BOUNDS),
    conflict("--layouts {layouts} with --mask_schedule batch", _BOUNDS),
    conflict("--soft_masking with --objective causal", "needs masks"),
    conflict("--soft_masking with --layouts causal", "needs masks"),
    conflict("--soft_masking with --optim muon", "needs a learning rate of its own"),
    *(
        conflict(f"--{name} {{{name}}} without --soft_masking", "belongs to --soft_masking")
        for name in (*_SOFT, "mixing")
    ),
    conflict("--eval_blocks_file {eval_blocks_file} without --evaluate_only", "needs that"),
    conflict("--hub_model_id {hub_model_id} without --push_to_hub", "needs that"),
    conflict("--config type=gpt2 without --objective causal", "reads from left to right"),
    Conflict(
        "--push_to_hub without a token",
        lambda o: o.push_to_hub and huggingface_hub.get_token() is None,
        "--push_to_hub needs a token with write access: run 'hf auth login', or set the variable "
        "HF_TOKEN",
    ),
    Conflict(
        "--revision without a model on the hub",
        lambda o: o.revision is not None and (o.config is not None or hub.resolve(o.model)[1]),
        "--revision {revision} is of a --model on the hub, and {origin} is none; leave it out",
    ),
]


NOISE_CONFLICTS = [  # when it is known which noise the model was trained for
    conflict("--noise absorbing with --p_u", "has no random tokens"),
    conflict("--noise absorbing with --loss clipped", "has no random tokens"),
    conflict("--noise uniform with --p_u", "has no masks"),
    conflict("--noise gaussian with --p_u", "has no random tokens"),
    conflict("--noise gaussian with --loss clipped", "has its own loss"),
    conflict("--noise gaussian with --schedule {schedule}", "has a schedule of its own"),
    *(
        conflict(f"--noise {noise} with {other}", "is trained on the full canvas with its own loss")
        for noise in ("uniform", "hybrid", "gaussian")
        for other in ("--objective causal", "--loss mean", "--mask_schedule batch",
                      "--layouts {layouts}", "--soft_masking", "--chat", "--infill")
    ),
]  # fmt: skip

# Flags of the Trainer that would have no effect here, or harm, with the values they may have.
_FIXED = {
    "activation_checkpointing": (False,),  # --gradient_checkpointing is that
    "auto_find_batch_size": (False,),  # mask rates are stratified over a batch known beforehand
    "average_tokens_across_devices": (True,),
    "fp16": (False,),
    "hub_token": (None,),  # it would stand in the list of processes; HF_TOKEN does not
    "label_smoothing_factor": (0.0,),
    "metric_for_best_model": (None, "loss"),  # the bound
    "greater_is_better": (None, False),
    "neftune_noise_alpha": (None,),
    "torch_compile_backend": (None,),
    "torch_compile_mode": (None,),
}


def check(run: Run) -> None:
    """Refuse everything that can be refused before any work. ``--resume_from_checkpoint last`` becomes
    the folder it stands for; nothing else is changed."""
    groups = model, data, diffusion, args = run.model, run.data, run.diffusion, run.args
    for group in groups[:3]:
        check_values(group)
    for name, allowed in _FIXED.items():
        value = getattr(args, name, allowed[0])  # not every version has all of them
        if value not in allowed:
            raise UserError(f"--{name} is not supported here; leave it out")
    if len(run.mix) == 1:
        (diffusion.layouts,) = run.mix  # without its weight
    known = {
        "config": model.config and model.config.split(","),
        "dataset": [*data.dataset, data.eval_dataset],
        "optim": MUON if args.muon else args.optim,
        "push_to_hub": args.published,
        "origin": model.config or model.model,
    }
    check_conflicts(CONFLICTS, *groups, **known)
    args.resume_from_checkpoint = find_checkpoint(args.resume_from_checkpoint, args.output_dir)
    if data.eval_blocks_file is not None:
        files.check_file("--eval_blocks_file", data.eval_blocks_file)
    if not args.evaluate_only:
        check_output_dir(args)
        inputs = [model.model, model.tokenizer, data.dataset_dir, data.eval_dataset, *data.dataset]
        for name in filter(None, inputs if args.resume_from_checkpoint is None else ()):
            if _lies_in(name, args.output_dir):
                raise UserError(
                    f"{name} lies in --output_dir {args.output_dir}, whose files are replaced; give "
                    "another folder"
                )
    if run.size is None:
        positions = max_length(loading.load_config(model.model, model.access))
        if data.block_size > positions:
            raise UserError(
                f"--block_size {data.block_size} exceeds the {positions} positions of {model.model}"
            )
    known["noise"] = chosen_noise(run)["name"]
    check_conflicts(NOISE_CONFLICTS, *groups, **known)


def chosen_noise(run: Run) -> dict:
    """The ``name`` of the noise to train with and, of hybrid noise, its ``p_u``: the model's own unless
    a flag says otherwise."""
    model, flags, before = run.model, run.diffusion, {"name": "absorbing"}
    if model.config is None:
        config = loading.load_config(model.model, model.access)
        before = loading.noise_settings(config, model.model)
    name = before["name"] if flags.noise == "auto" else flags.noise
    if name != "hybrid":
        return {"name": name}
    return {"name": name, "p_u": before.get("p_u", P_U) if flags.p_u is None else flags.p_u}


def check_output_dir(args: RunArguments) -> None:
    """Refuse a used folder, unless its run is resumed, or it may be replaced."""
    checkpoint = args.resume_from_checkpoint
    resumes = checkpoint is not None and _lies_in(checkpoint, args.output_dir)
    files.check_output_dir(
        args.output_dir, args.overwrite_output_dir, resumes, "--overwrite_output_dir"
    )


def _lies_in(name: str, folder: str) -> bool:
    """Whether there is a file or folder of that name in the folder, or it is that folder."""
    try:
        place = Path(name).resolve()
        return place.exists() and Path(folder).resolve() in (place, *place.parents)
    except (OSError, RuntimeError, ValueError):
        return False
