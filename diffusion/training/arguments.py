"""The flags of finetune.py. Imports nothing heavy: `--help` is quick.

What a value may be stands in the metadata of its field: ``choices`` (names), ``range`` (least,
most; None: no bound) and ``below`` (a bound that is not reached). ``rare`` flags, and the remaining
ones of the Trainer, which `training.checks` adds, are listed by `--help_all` alone.
"""

import math
import re
import sys
import textwrap
from dataclasses import MISSING, dataclass, field, fields

from diffusion.cli.access import Access
from diffusion.errors import UserError

_COUNT = {"range": (1, None)}
_NONNEGATIVE = {"range": (0, None)}
_SHARE = {"range": (0, None), "below": 1}
P_U = 0.1  # of hybrid noise
SOFT_STARTS = ("soft_start", "soft_middle", "soft_slope")  # where the three scalars begin


def _flag(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    """What to start from"""

    model: str = _flag(
        "roberta-base", "Masked LM to start from: hub name, local folder, or name in weights/."
    )
    tokenizer: str | None = _flag(
        None, "Tokenizer: hub name or folder. Default: the model's; with --config, one trained on "
        "the training text."
    )  # fmt: skip
    config: str | None = _flag(
        None, "Start from random weights of this size instead of --model, for example "
        "layers=6,width=256,heads=4,vocab=8192; with type=gpt2 a GPT-2."
    )  # fmt: skip
    revision: str | None = _flag(
        None, "Branch, tag or commit of a --model of the hub; the tokenizer is taken from there, too.",
        rare=True
    )  # fmt: skip
    token: str | None = _flag(
        None, "Of the hub, for what is private; better in the variable HF_TOKEN, which no list of "
        "processes shows. It is written nowhere.", rare=True
    )  # fmt: skip
    trust_remote_code: bool = _flag(
        False, "Run the Python code that comes with a model: it can do all that you can.", rare=True
    )
    lora: str | None = _flag(
        None, "Train small matrices beside the large ones alone, and merge them in the end: "
        "r=16,alpha=32,dropout=0.05,targets=query+value; without targets beside all. Needs peft."
    )  # fmt: skip
    dropout: float | None = _flag(
        None, "Dropout rate. Default: the model's own; 0 with --config.", **_SHARE
    )
    attn_implementation: str = _flag(
        "auto", "eager, sdpa, ...; auto takes eager on CPUs, and layouts for a mix.", rare=True
    )

    def __post_init__(self):
        self.place = self.model  # where it is: a folder, for a revision of a model of the hub

    @property
    def access(self) -> Access:
        """What may be done to get the model."""
        return Access(trust_remote_code=self.trust_remote_code)

    @property
    def origin(self) -> str:
        """What training starts from, for people."""
        return self.config or self.model + (f" at {self.revision}" if self.revision else "")


@dataclass
class DataArguments:
    """The text"""

    dataset: list[str] = field(
        default_factory=lambda: ["wikitext-2"],
        metadata={"help": "One or more of: wikitext-2, a .txt or .txt.xz file, a table (.jsonl, .csv, "
                  ".parquet), a folder of either, a hub name."},
    )  # fmt: skip
    chat: bool = _flag(
        False, 'Train on conversations, JSON lines of {"messages": [{"role": ..., "content": ...}, ...]}: '
        "the tokenizer's chat template writes them, and the assistant's answers alone are learned."
    )  # fmt: skip
    text_column: str | None = _flag(
        None, "Of a data set that is a table: which column is the text. Default: text; with --chat "
        "messages.", rare=True
    )  # fmt: skip
    dataset_config: str | None = _flag(None, "Configuration name of a hub data set.", rare=True)
    dataset_revision: str | None = _flag(None, "Branch, tag or commit of hub data sets.", rare=True)
    streaming: bool = _flag(
        False, "Read tables only as far as --max_train_samples and --max_eval_blocks need them, "
        "instead of downloading them whole.", rare=True
    )  # fmt: skip
    dataset_dir: str | None = _flag(None, "Folder with local WikiText-2 files (else: the hub).")
    eval_dataset: str | None = _flag(
        None, "Validation text. Default: WikiText-2's validation split if it is trained on, else "
        "blocks held out from the end of the training text."
    )  # fmt: skip
    eval_split: str = _flag(
        "validation", "Which split of it: validation, or test.", choices=("validation", "test")
    )
    max_train_samples: int | None = _flag(
        None, "Train on at most so many blocks, the first of the text.", **_COUNT, rare=True
    )
    max_eval_blocks: int = _flag(512, "Use at most so many validation blocks.", **_COUNT)
    eval_blocks_file: str | None = _flag(
        None, "With --evaluate_only: JSON file for the nats per token of each block, by layout.",
        rare=True,
    )  # fmt: skip
    block_size: int = _flag(256, "Tokens per training block.", range=(8, None))

    @property
    def column(self) -> str:
        """Of a table."""
        return self.text_column or ("messages" if self.chat else "text")


@dataclass
class DiffusionArguments:
    """What is learned"""

    objective: str = _flag(
        "diffusion", "diffusion, or causal: next-token prediction, as a warm start or for a GPT-2 "
        "to compare with.", choices=("diffusion", "causal")
    )  # fmt: skip
    shift: str = _flag(
        "auto", "Read token i from the output at slot i-1. auto: as the model was trained so far, "
        "yes after --objective causal.", choices=("auto", "yes", "no")
    )  # fmt: skip
    prefix_len: int = _flag(16, "So many first tokens of a block are never masked.")
    mask_schedule: str = _flag(
        "stratified", "stratified: a mask rate per row over the full range; seed: one rate per "
        "batch from {1.0, 0.9, ..., 0.1}.", choices=("stratified", "seed")
    )  # fmt: skip
    schedule: str = _flag(
        "linear", "Mask rate as a function of time: linear, log-linear, cosine-a or cosine-b.",
        choices=("linear", "log-linear", "cosine-a", "cosine-b")
    )  # fmt: skip
    noise: str = _flag(
        "auto", "What a token becomes: absorbing (<mask>), uniform (any other), hybrid (masks, and "
        "random tokens among them). auto: as the model was trained so far, absorbing at first.",
        choices=("auto", "absorbing", "uniform", "hybrid")
    )  # fmt: skip
    p_u: float | None = _flag(
        None, "hybrid: share of random tokens when half of the time is over; as the model was "
        f"trained so far, {P_U} at first.", **_SHARE, rare=True
    )  # fmt: skip
    loss: str = _flag(
        "nelbo", "nelbo: the weighted likelihood bound; clipped: the same with no weight above 2, for "
        "random tokens; mean: plain mean over masked tokens.",
        choices=("nelbo", "clipped", "mean")
    )  # fmt: skip
    layouts: str = _flag(
        "full",
        "What a token sees, a mix drawn per batch: full, causal, and blockN, which goes left to right "
        "from block to block of N tokens; for example causal=1,block4=1,block16=1,full=1.",
    )
    causal_weight: float = _flag(
        1.67,
        "Of the causal loss of the text before a block, beside the block's own.",
        rare=True,
        **_NONNEGATIVE,
    )
    soft_masking: bool = _flag(
        False,
        "Train masks that remember what was predicted for them, in two passes; --soft_... and "
        "--mixing are its options.",
    )
    soft_k: int = _flag(3, "soft_masking: tokens that a mask remembers.", rare=True, **_COUNT)
    soft_share: float = _flag(
        0.8, "soft_masking: share of batches with the second pass.", range=(0, 1), rare=True
    )
    soft_start: float = _flag(
        0.05, "soft_masking: the share of a mask's embedding that memory may take, at the start.",
        range=(0, None), below=1, rare=True
    )  # fmt: skip
    soft_middle: float = _flag(
        0.75, "soft_masking: nats of entropy at which memory takes half of it, at the start. A small "
        "model is rarely so sure: try 4.", range=(0.001, 1000), rare=True
    )  # fmt: skip
    soft_slope: float = _flag(
        6.66, "soft_masking: how sharply memory fades with entropy, at the start. Try 1 with 4.",
        range=(0.001, 1000), rare=True
    )  # fmt: skip
    soft_learning_rate: float = _flag(
        1e-2, "soft_masking: learning rate of its three scalars.", rare=True, **_NONNEGATIVE
    )
    mixing: str = _flag(
        "linear", "soft_masking: how embeddings are mixed, linear or spherical.",
        choices=("linear", "spherical"), rare=True
    )  # fmt: skip
    ema: float = _flag(0.0, "Decay of the weight average used for inference; 0: none.", **_SHARE)
    eval_draws: int = _flag(
        1, "Mask patterns per validation block in the bound.", rare=True, **_COUNT
    )


@dataclass
class TrainerFlags:
    """How: those flags of the Trainer that most runs need (all of them: --help_all)"""

    output_dir: str | None = _flag("weights/roberta-base-wikitext", "Where the model goes.")
    overwrite_output_dir: bool = _flag(False, "Allow a non-empty --output_dir.")
    num_train_epochs: float = _flag(30.0, "Passes over the data.")
    max_steps: int = _flag(-1, "Optimiser steps instead, where above 0.")
    per_device_train_batch_size: int = _flag(16, "Rows per device.", **_COUNT)
    per_device_eval_batch_size: int = _flag(16, "Rows per device.", rare=True, **_COUNT)
    gradient_accumulation_steps: int = _flag(1, "Batches per optimiser step.", **_COUNT)
    optim: str = _flag(
        "adamw_torch", "adamw_torch, or muon: Muon for all matrices but embeddings, and Adam for the "
        "rest, at one learning rate; others by the names of the Trainer."
    )  # fmt: skip
    learning_rate: float = _flag(5e-5, "Its highest value.", **_NONNEGATIVE)
    lr_scheduler_type: str = _flag("linear", "linear, cosine, constant_with_warmup, ...")
    warmup_steps: float = _flag(
        0, "Steps of rising learning rate; below 1: a share of all.", **_NONNEGATIVE
    )
    weight_decay: float = _flag(0.0, "Of the optimiser.", **_NONNEGATIVE)
    adam_beta1: float = _flag(0.9, "Of Adam.", rare=True, **_SHARE)
    adam_beta2: float = _flag(0.999, "Of Adam.", rare=True, **_SHARE)
    max_grad_norm: float = _flag(
        1.0, "Longer gradients are shortened; 0: never.", rare=True, **_NONNEGATIVE
    )
    seed: int = _flag(42, "Of all that is random.", range=(0, None), below=2**32)
    dtype: str = _flag(
        "auto", "Computing in float32 or bfloat16 (weights stay float32); auto takes bfloat16 where "
        "the machine has it in hardware.", choices=("auto", "float32", "bfloat16")
    )  # fmt: skip
    save_dtype: str = _flag(
        "float32", "Number format of the final weights.", choices=("float32", "float16"), rare=True
    )
    gradient_checkpointing: bool = _flag(
        False, "Compute activations again instead of keeping them: less memory, the same gradients."
    )
    torch_compile: bool = _flag(False, "Compile the layers; the first steps take minutes.")
    use_cpu: bool = _flag(False, "Leave the GPU alone.")
    dataloader_num_workers: int = _flag(
        0, "Processes that prepare batches.", range=(0, 1000), rare=True
    )
    eval_strategy: str = _flag("epoch", "no, steps or epoch.")
    eval_steps: float | None = _flag(None, "With --eval_strategy steps; default: --logging_steps.")
    load_best_model_at_end: bool = _flag(
        False, "End with the weights of the lowest validation bound among the checkpoints."
    )
    early_stopping_patience: int | None = _flag(
        None, "End after so many evaluations in a row without a lower validation bound.", **_COUNT
    )
    evaluate_only: bool = _flag(
        False, "Train nothing and write nothing: report the bound of --model (or, with --objective "
        "causal, its exact NLL) on the --eval_split."
    )  # fmt: skip
    save_strategy: str = _flag("epoch", "no, steps or epoch.")
    save_steps: float = _flag(500, "With --save_strategy steps.")
    save_total_limit: int | None = _flag(1, "Checkpoints kept.", **_COUNT)
    resume_from_checkpoint: str | None = _flag(
        None, "'last', or a checkpoint folder to go on from."
    )
    logging_steps: float = _flag(50, "Log every so many steps.")
    report_to: str = _flag("none", "tensorboard, wandb, ... or none.")
    push_to_hub: bool = _flag(False, "Upload the final folder, once it is saved.")
    hub_model_id: str | None = _flag(
        None, "Where to, as OWNER/NAME; default: the name of --output_dir."
    )
    disable_tqdm: bool | None = _flag(None, "No progress bar.", rare=True)


@dataclass(frozen=True)
class Lora:
    """What `parse_lora` reads: rank, strength (times 1 / rank), dropout, and names of layers; none:
    all."""

    r: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"r={self.r}, alpha={self.alpha:g}, dropout={self.dropout:g}, " + (
            f"targets {', '.join(self.targets)}" if self.targets else "all layers"
        )


GROUPS = (ModelArguments, DataArguments, DiffusionArguments)


def answer_help(description: str) -> None:
    """``--help`` lists the flags people use and ends, without loading anything; ``--help_all`` is
    left for `cli.flags.parse_flags`, which knows every flag."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(description))
        sys.exit()


def help_text(description: str, width: int = 100) -> str:
    """Description and flags with their defaults, in groups."""
    lines = [description.strip()]
    for group in (*GROUPS, TrainerFlags):
        lines += ["", f"{group.__doc__}:"]
        for flag in (flag for flag in fields(group) if not flag.metadata.get("rare")):
            default = flag.default_factory() if flag.default is MISSING else flag.default
            default = " ".join(default) if isinstance(default, list) else default
            shown = "" if default is None or default is False else f" [{default}]"
            name = f"  --{flag.name}{shown}"
            told = textwrap.wrap(flag.metadata["help"], width - 36)
            if len(name) > 34:
                lines.append(name)
                name = ""
            lines += [f"{name:36}{told[0]}", *(f"{'':36}{line}" for line in told[1:])]
    return "\n".join(lines)


def parse_layouts(text: str, longest: int) -> dict[str, float]:
    """``causal=1,block16=2`` as a dict of weights that sum to 1. Without weights all are the same.

    Args:
        longest: the largest block there can be.

    Raises:
        UserError: an unknown layout, a weight that is none, a block that is too small or too large.
    """
    mix = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            mix[name] = float(weight or "1") if name not in mix else math.nan
        except ValueError:
            mix[name] = math.nan
        if name not in ("full", "causal") and not re.fullmatch(r"block-?[0-9]+", name):
            raise UserError(f"--layouts {name!r} is unknown; use full, causal, or blockN (block16)")
        if name.startswith("block") and not 1 <= int(name[5:]) <= longest:
            raise UserError(
                f"--layouts {name}: a block has 1 to {longest} tokens (--block_size less "
                "--prefix_len)"
            )
        if not 0 < mix[name] < math.inf:
            raise UserError(
                f"--layouts {part.strip()!r}: a layout has one weight, a number above 0; leave "
                "out what is not wanted"
            )
    total = math.fsum(mix.values())
    return {name: weight / total for name, weight in mix.items()}


def parse_size(text: str) -> dict[str, int | str]:
    """``layers=6,width=256,heads=4,vocab=8192`` as a dict, with ``type``: roberta or gpt2."""
    names = ("layers", "width", "heads", "vocab")
    try:
        size = dict(part.strip().split("=") for part in text.split(","))
        kind = size.pop("type", "roberta")
        size = {name: int(value) for name, value in size.items()}
    except ValueError:
        size = {}
    most = {"layers": 10_000}
    in_range = all(1 <= value <= most.get(name, 10**9) for name, value in size.items())
    if set(size) != set(names) or not in_range or kind not in ("roberta", "gpt2"):
        raise UserError(
            f"--config {text!r} must give layers=N,width=N,heads=N,vocab=N, and may give "
            "type=roberta or type=gpt2"
        )
    if size["width"] % size["heads"]:
        raise UserError(f"--config: width {size['width']} is not a multiple of the heads")
    if size["vocab"] < 300:
        raise UserError(
            f"--config: vocab {size['vocab']} must be at least 300 (256 bytes and more)"
        )
    return {"type": kind, **size}


def parse_lora(text: str) -> Lora:
    """``r=16,alpha=32,dropout=0.05,targets=query+value``; all but the rank may be left out, and alpha
    is twice the rank then.

    Raises:
        UserError: it is not of that form.
    """
    try:
        given = dict(part.strip().split("=") for part in text.split(","))
        r = int(given.pop("r"))
        alpha, dropout = float(given.pop("alpha", 2 * r)), float(given.pop("dropout", 0))
        targets = given.pop("targets", None)
        targets = () if targets is None else tuple(targets.split("+"))
        fine = 1 <= r <= 10_000 and 0 < alpha < 1e6 and 0 <= dropout < 1 and all(targets)
    except (ValueError, KeyError):
        fine = False
    if not fine or given:
        raise UserError(
            f"--lora {text!r} must give r=N (1 or more), and may give alpha=X (above 0), dropout=X (0 to "
            "below 1) and targets=NAME+NAME, with commas between them"
        )
    return Lora(r, alpha, dropout, targets)
