"""All flags of a run, the Trainer's own among them, and what of them is refused before any work."""

import contextlib
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from diffusion import hardware
from diffusion.cli import files
from diffusion.cli.flags import parse_flags
from diffusion.cli.values import MOST, check_values, one_of
from diffusion.data.corpus import WIKITEXT
from diffusion.errors import UserError, first_line
from diffusion.models import loading
from diffusion.models.families import max_length
from diffusion.samplers.noises import FEATURES
from diffusion.training import hub, lora
from diffusion.training.arguments import (
    GROUPS,
    P_U,
    SOFT_STARTS,
    DataArguments,
    DiffusionArguments,
    ModelArguments,
    TrainerFlags,
    parse_layouts,
    parse_lora,
    parse_size,
)
from diffusion.training.checkpoints import find_checkpoint
from diffusion.training.optimizer import MUON
from diffusion.training.recipe import expand


@dataclass
class RunArguments(TrainerFlags, TrainingArguments):
    """`TrainerFlags` on top of everything that the Trainer knows."""

    # As the Trainer has it, so that its names are the ones allowed.
    lr_scheduler_type: SchedulerType | str = field(
        default=TrainerFlags.lr_scheduler_type, metadata={"help": "Course of the learning rate."}
    )
    # What is not finite would be left out of the loss that is logged, and so would its warning.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay false."})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "Of Adam.", "range": (0, None)})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Needed by models that do not use all their weights."}
    )

    def __post_init__(self):
        one_of("--optim", str(self.optim), [MUON, *(name.value for name in OptimizerNames)])
        self.muon = self.optim == MUON
        if self.muon:  # which the Trainer does not know
            self.optim = TrainerFlags.optim
        # `accelerate launch --cpu` says so by a variable.
        on_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        if not on_cpu and torch.cuda.is_available():  # each of several processes takes its own
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        device = hardware.choose_device("cpu" if on_cpu else "auto")
        self.use_cpu = device.type == "cpu"  # TrainingArguments refuses bf16 on CPUs otherwise
        if self.fp16 and self.use_cpu:
            raise UserError("--fp16 needs a GPU; leave it out, or use --dtype bfloat16")
        if not (self.bf16 or self.fp16):
            self.bf16 = hardware.choose_dtype(self.dtype, device) == torch.bfloat16
        # `build` and `hub` see to these: the Trainer would do them to its wrapper of the model, and
        # upload what is no model yet.
        self.recomputed, self.gradient_checkpointing = self.gradient_checkpointing, None
        settings = {"backend": self.torch_compile_backend, "mode": self.torch_compile_mode}
        self.compiled = self.torch_compile or any(settings.values())
        self.compile_settings = {name: value for name, value in settings.items() if value}
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None
        self.published, self.push_to_hub = self.push_to_hub, False
        if str(self.fsdp).lower() == "true":  # from a recipe
            self.fsdp = True
        super().__post_init__()
        # One process drives one device; several are what `accelerate launch` is for.
        self._n_gpu = min(self.n_gpu, 1)

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32

    @property
    def global_batch(self) -> int:
        """Rows of one optimiser step, over processes and accumulation."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size


def parse(
    description: str, recipe: dict
) -> tuple[ModelArguments, DataArguments, DiffusionArguments, RunArguments]:
    """All flags of a recipe and of the command line.

    Raises:
        UserError: an unknown flag, a value that is none.
    """
    groups = (*GROUPS, RunArguments)
    expand(recipe, groups)
    with told():
        return tuple(parse_flags(groups, description))


@contextlib.contextmanager
def told():
    """The Trainer, its arguments and what it builds check their own values: whatever they raise is
    a `UserError`."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise UserError(f"{first_line(error)}; see --help and --help_all") from None


# What --report_to needs where that has another name.
_PACKAGES = {"azure_ml": "azureml-core", "flyte": "flytekit"}
# Flags of the Trainer that would do nothing here, or harm, with the values they may have.
_FIXED = {
    "activation_checkpointing": False,  # --gradient_checkpointing is that
    "auto_find_batch_size": False,  # mask rates are stratified over a batch known beforehand
    "average_tokens_across_devices": True,
    "hub_always_push": False,
    "hub_revision": None,
    "hub_strategy": "every_save",
    "hub_token": None,  # --token is that
    "label_smoothing_factor": 0.0,
    "logging_nan_inf_filter": False,
    "metric_for_best_model": (None, "loss"),  # the bound
    "greater_is_better": (None, False),
    "neftune_noise_alpha": None,
    "remove_unused_columns": False,
}


def check(
    model: ModelArguments, data: DataArguments, diffusion: DiffusionArguments, args: RunArguments
) -> None:
    """Everything that can be refused before any work. ``--resume_from_checkpoint last`` becomes the
    folder it stands for, and a model of the hub at a ``--revision`` one; nothing else is changed.

    Raises:
        UserError: the first flag that cannot be.
    """
    for group in (model, data, diffusion, args):
        check_values(group)
    _check_trainer(args)
    _check_hub(model, args)
    if model.lora is not None:
        parse_lora(model.lora)
        if model.config is not None or args.evaluate_only:
            raise UserError(
                "--lora goes on from the weights of a --model; leave out --lora, or --config and "
                "--evaluate_only"
            )
        lora.need_peft()
    if data.streaming and data.max_train_samples is None:
        raise UserError("--streaming reads as far as --max_train_samples asks; give that, too")
    if data.streaming and model.config is not None and model.tokenizer is None:
        raise UserError("--streaming reads a text once; give --config a --tokenizer")
    if not data.chat and not 1 <= diffusion.prefix_len < data.block_size:
        raise UserError(
            f"--prefix_len {diffusion.prefix_len} must be between 1 (<s>) and --block_size - 1"
        )
    if diffusion.mask_schedule == "seed" and diffusion.schedule != "linear":
        raise UserError("--mask_schedule seed draws mask rates itself; leave --schedule linear")
    if diffusion.objective == "causal" and diffusion.shift == "no":
        raise UserError("--objective causal predicts the next token: --shift cannot be no")
    mix = parse_layouts(diffusion.layouts, data.block_size - diffusion.prefix_len)
    if data.chat:
        _check_chat(model, data, diffusion, mix)
    if list(mix) != ["full"]:
        if diffusion.objective == "causal":
            raise UserError(
                "--objective causal is a layout of its own; leave out --layouts, or the objective"
            )
        if diffusion.loss == "mean" or diffusion.mask_schedule == "seed":
            raise UserError(
                "--loss mean and --mask_schedule seed go with --layouts full alone; leave them out"
            )
    if diffusion.soft_masking and diffusion.objective == "causal":
        raise UserError("--objective causal has no masks; leave out --soft_masking, or train a mix")
    if diffusion.soft_masking and list(mix) == ["causal"]:
        raise UserError("--layouts causal has no masks; leave out --soft_masking, or train a mix")
    if diffusion.soft_masking and args.evaluate_only:
        raise UserError("--evaluate_only reads a model as it was trained; leave out --soft_masking")
    if diffusion.soft_masking and args.muon:
        raise UserError("--soft_masking has a learning rate of its own, which --optim muon has not")
    defaults = DiffusionArguments()
    for name in (*SOFT_STARTS, "soft_k", "soft_share", "soft_learning_rate", "mixing"):
        given = getattr(diffusion, name)
        if not diffusion.soft_masking and given != getattr(defaults, name):
            raise UserError(
                f"--{name} {given} is an option of --soft_masking; add that, or leave it out"
            )
    if args.fsdp:
        _check_fsdp(model, diffusion, args)
    args.resume_from_checkpoint = find_checkpoint(
        args.resume_from_checkpoint, args.output_dir, model.lora is not None, bool(args.fsdp)
    )
    if data.eval_blocks_file is not None:
        if not args.evaluate_only:
            raise UserError(
                f"--eval_blocks_file {data.eval_blocks_file} is written by --evaluate_only; add that, or "
                "leave it out"
            )
        files.check_file("--eval_blocks_file", data.eval_blocks_file)
    if args.evaluate_only:
        if model.config is not None or args.resume_from_checkpoint:
            raise UserError(
                "--evaluate_only measures a --model; leave out --config and "
                "--resume_from_checkpoint"
            )
    else:
        check_output_dir(args)
        inputs = [model.model, model.tokenizer, data.dataset_dir, data.eval_dataset, *data.dataset]
        for name in inputs if args.resume_from_checkpoint is None else ():
            if name and _lies_in(name, args.output_dir):
                raise UserError(
                    f"{name} lies in --output_dir {args.output_dir}, whose files are replaced; give "
                    "another folder"
                )
    if model.config is not None:
        size = parse_size(model.config)
        if size["type"] == "gpt2" and diffusion.objective != "causal":
            raise UserError("--config type=gpt2 reads left to right; it needs --objective causal")
        width, rest = size["width"], (size["vocab"], data.block_size)
        weights = 4 * loading.parameters(size["layers"], width, 4 * width, *rest)
        what = f"--config {model.config} with --block_size {data.block_size}"
        hardware.check_memory(4 * weights, what)  # with gradients and Adam's two averages
    else:
        hub.take_revision(model)
        positions = max_length(loading.load_config(model.place, model.access))
        if data.block_size > positions:
            raise UserError(
                f"--block_size {data.block_size} exceeds the {positions} positions of {model.model}"
            )
    check_noise(model, diffusion, args.evaluate_only, list(mix) != ["full"])


def chosen_noise(model: ModelArguments, diffusion: DiffusionArguments) -> dict:
    """The ``name`` of the noise to train with and, of hybrid noise, its ``p_u``."""
    before = {"name": "absorbing"}
    if model.config is None:
        before = loading.noise_settings(loading.load_config(model.place, model.access), model.model)
    name = before["name"] if diffusion.noise == "auto" else diffusion.noise
    if name != "hybrid":
        return {"name": name}
    p_u = before.get("p_u", P_U) if diffusion.p_u is None else diffusion.p_u
    return {"name": name, "p_u": float(p_u)}


def check_noise(
    model: ModelArguments, diffusion: DiffusionArguments, evaluate_only: bool, mix: bool
) -> None:
    """Refuse what does not go with the noise; ``mix``: layouts other than the full canvas."""
    noise = chosen_noise(model, diffusion)
    name = noise["name"]
    if evaluate_only:
        before = loading.noise_settings(loading.load_config(model.place, model.access), model.model)
        if noise != before:
            raise UserError(
                f"--evaluate_only reads a model as it was trained, and {model.model} was trained for "
                f"{_told(before)}; leave out --noise and --p_u"
            )
    if diffusion.p_u is not None and name != "hybrid":
        raise UserError(
            f"--p_u {diffusion.p_u} is an option of --noise hybrid, not of {name}; leave it out, or "
            "change the noise"
        )
    if name == "absorbing":
        if diffusion.loss == "clipped":
            raise UserError(
                f"--loss clipped: {name} noise {FEATURES['clipped'].refused[name]}; leave it out, or "
                "use --noise uniform or hybrid"
            )
        return
    refused = {
        "--objective causal": diffusion.objective == "causal",
        "--loss mean": diffusion.loss == "mean",
        "--mask_schedule seed": diffusion.mask_schedule == "seed",
        f"--layouts {diffusion.layouts}": mix,
        "--soft_masking": diffusion.soft_masking,
    }
    for flag, given in refused.items():
        if given:
            raise UserError(
                f"{flag}: {_told(noise)} {FEATURES['training'].refused[name]}; leave it out, or use "
                "--noise absorbing"
            )


def _told(noise: dict) -> str:
    return f"{noise['name']} noise" + (f" with p_u {noise['p_u']}" if "p_u" in noise else "")


def _check_trainer(args: RunArguments) -> None:
    for name, allowed in _FIXED.items():
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        value = getattr(args, name, allowed[0])  # not every version has all of them
        if value not in allowed:
            value = "" if name.endswith("token") else f" {value}"
            raise UserError(f"--{name}{value} is not supported here; leave it out")
    for option in fields(args):
        value = getattr(args, option.name)
        if isinstance(value, float) and not abs(value) <= 1e30:  # what float32 can multiply
            raise UserError(f"--{option.name} {value} must be a finite number up to 1e30")
        if type(value) is int and abs(value) > MOST and "seed" not in option.name:
            raise UserError(f"--{option.name} {value} must be at most {MOST}")
    for name in ("save_steps", "eval_steps", "logging_steps"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value} must be above 0; below 1 it is a share of all steps")
    if args.max_steps == 0 or args.max_steps < -1:
        raise UserError(f"--max_steps {args.max_steps} must be 1 or more; leave it out for epochs")
    for name in args.report_to:
        one_of("--report_to", name, [*INTEGRATION_TO_CALLBACK, "none"])
        if name not in get_available_reporting_integrations():
            package = _PACKAGES.get(name, name)
            raise UserError(f"--report_to {name} needs a package: pip install {package}")
    if not (args.max_steps > 0 or args.num_train_epochs > 0):
        raise UserError(f"--num_train_epochs {args.num_train_epochs} must be above 0")
    if args.load_best_model_at_end and args.eval_strategy == "no":
        raise UserError(
            "--load_best_model_at_end compares checkpoints; give an --eval_strategy and the same "
            "--save_strategy"
        )
    if args.early_stopping_patience is not None and args.eval_strategy == "no":
        raise UserError("--early_stopping_patience counts evaluations; give an --eval_strategy")
    # Of the backends for debugging, eager has wrong gradients with --gradient_checkpointing.
    backends = [*torch.compiler.list_backends(), "aot_eager"]
    one_of("--torch_compile_backend", args.compile_settings.get("backend", "inductor"), backends)


def _check_fsdp(model: ModelArguments, diffusion: DiffusionArguments, args: RunArguments) -> None:
    if args.world_size == 1:
        raise UserError(
            "--fsdp spreads a model over several GPUs, and this is one process; start it with "
            "accelerate launch, or leave it out"
        )
    refused = {
        "--ema": diffusion.ema,
        "--evaluate_only": args.evaluate_only,
        "--lora": model.lora,
        "--optim muon": args.muon,
        "--soft_masking": diffusion.soft_masking,
        "--torch_compile": args.compiled,
        "--fsdp_config version 1": args.fsdp_plugin_args.get("fsdp_version") != 2,
    }
    for flag, given in refused.items():
        if given:
            raise UserError(f"--fsdp was not made to go with {flag}; leave out one of the two")


def _check_chat(
    model: ModelArguments, data: DataArguments, diffusion: DiffusionArguments, mix: dict
) -> None:
    if model.config is not None and model.tokenizer is None:
        raise UserError(
            "--chat needs a tokenizer with a chat template, which one trained on the text has not; give "
            "--config a --tokenizer"
        )
    if WIKITEXT in (*data.dataset, data.eval_dataset):
        raise UserError(f"--chat needs conversations, and {WIKITEXT} has none; give a --dataset")
    refused = {
        "--objective causal": diffusion.objective == "causal",
        f"--layouts {diffusion.layouts}": list(mix) != ["full"],
        "--streaming": data.streaming,
        f"--noise {diffusion.noise}": chosen_noise(model, diffusion)["name"] != "absorbing",
    }
    for flag, given in refused.items():
        if given:
            raise UserError(f"--chat masks answers on the full canvas; leave out {flag}")


def _check_hub(model: ModelArguments, args: RunArguments) -> None:
    """Whether there is a model to take a revision of, and whether a folder could be uploaded."""
    hub.use_token(model.token)
    if model.revision is not None and (model.config is not None or loading.resolve(model.model)[1]):
        raise UserError(
            f"--revision {model.revision} is of a --model of the hub, and "
            f"{model.config or model.model} is none; leave it out"
        )
    if args.hub_model_id is not None and not args.published:
        raise UserError(
            f"--hub_model_id {args.hub_model_id} says where --push_to_hub goes; add that"
        )
    if args.published:
        hub.check_publishing(args)


def check_output_dir(args: RunArguments) -> None:
    """Refuse a folder of others, unless it is the one that is gone on with, or may be replaced."""
    ours = args.resume_from_checkpoint
    resumes = ours is not None and _lies_in(ours, args.output_dir)
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
