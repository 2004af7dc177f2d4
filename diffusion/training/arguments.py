"""The flags of finetune.py, and what follows from them. Imports nothing heavy: `--help` is quick.

The first sentence of a flag's help is all that ``--help`` shows; ``rare`` flags, and the remaining
ones of the Trainer, which `training.checks` adds, are listed by ``--help_all`` alone.
"""

import json
import math
import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property, partial

from diffusion.cli.files import given_path
from diffusion.cli.flags import flag, help_text
from diffusion.cli.options import Access
from diffusion.cli.reading import ending, named, read_text
from diffusion.errors import UserError, cause

rare = partial(flag, rare=True)
_COUNT = {"range": (1, None)}
_NONNEGATIVE = {"range": (0, None)}
_SHARE = {"range": (0, None), "below": 1}
_ABOVE_0 = {"range": (1e-6, 10**9)}
_SCALE = {"range": (0.001, 1000)}
_SIZE = "layers=6,width=256,heads=4,vocab=8192"
P_U = 0.1  # of hybrid noise


@dataclass
class ModelArguments:
    """What to start from"""

    model: str = flag("roberta-base", "Masked LM: hub name, folder, or name in weights/.")
    tokenizer: str | None = flag(None, "Another tokenizer. With --config one is trained otherwise.")
    new_vocabulary: int | None = flag(
        None, "Give --model a vocabulary of N tokens made from the text.",
        metavar="N", range=(300, 10**6),
    )  # fmt: skip
    config: str | None = flag(None, f"Random weights of a size, such as {_SIZE}.", metavar="SIZE")
    dropout: float | None = rare(None, "Dropout rate; 0 with --config.", **_SHARE)
    revision: str | None = rare(None, "Branch, tag or commit of a --model on the hub.")
    trust_remote_code: bool = rare(False, "Run the Python code that comes with a model.")
    attn_implementation: str = rare("auto", "eager, sdpa, ...; auto: layouts for a mix.")

    @property
    def access(self) -> Access:
        return Access(trust_remote_code=self.trust_remote_code, revision=self.revision)

    @property
    def origin(self) -> str:
        """What training starts from, for people."""
        return self.config or self.model + (f" at {self.revision}" if self.revision else "")


@dataclass
class DataArguments:
    """The text"""

    dataset: list[str] = flag(  # noqa: RUF009
        ["wikitext-2"],
        "wikitext-2; .txt, .md, .jsonl, .json, .csv, .tsv, .parquet, .arrow; folders; hub names.",
    )
    dataset_dir: str | None = flag(None, "Folder with local WikiText-2 files.", metavar="DIR")
    chat: bool = flag(False, 'Learn the answers in JSON lines of {"messages": [...]}.')
    infill: bool = rare(
        False, 'Learn the blanks in JSON lines of {"parts": ["given", "blank", ...]}.'
    )
    block_size: int = flag(256, "Tokens per training block.", range=(8, None))
    eval_dataset: str | None = flag(None, "Validation text. Default: that of WikiText-2 if it is "
                                    "trained on, else blocks held out from the end.")  # fmt: skip
    eval_split: str = rare("validation", "Split of it to use.", choices=("validation", "test"))
    max_train_samples: int | None = rare(None, "Train on the first N blocks only.", **_COUNT)
    max_eval_blocks: int = rare(512, "Largest number of validation blocks.", **_COUNT)
    eval_blocks_file: str | None = rare(None, "JSON file for the results by block and layout.")
    text_column: str | None = rare(None, "Column of a table; default: text, messages or parts.")
    dataset_config: str | None = rare(None, "Configuration name of a hub data set.")
    dataset_revision: str | None = rare(None, "Branch, tag or commit of hub data sets.")
    streaming: bool = rare(False, "Read tables only as far as they are needed.")
    skip_bad: bool = rare(False, "Leave bad rows out, also where they are more than 1 %.")
    wikitext: bool = rare(False, "The text is WikiText, line by line; known of wikitext-2.")

    @property
    def column(self) -> str:
        """Of a table."""
        own = "messages" if self.chat else "parts" if self.infill else "text"
        return self.text_column or own

    @property
    def partly(self) -> bool:
        """Whether each row says which of its tokens are learned."""
        return self.chat or self.infill


@dataclass
class DiffusionArguments:
    """What is learned"""

    objective: str = flag("diffusion", "diffusion, or causal: next-token prediction.",
                          choices=("diffusion", "causal"))  # fmt: skip
    noise: str = flag("auto", "absorbing (<mask>), uniform (any token), hybrid (both), or gaussian "
                      "(of embeddings).",
                      choices=("auto", "absorbing", "uniform", "hybrid", "gaussian"))  # fmt: skip
    layouts: str = flag("full", "Mix of full, causal, blockN, as causal=1,block4=1,full=1. One per "
                        "batch; blockN: from left to right over blocks of N tokens.", metavar="MIX")  # fmt: skip
    soft_masking: bool = flag(False, "Masks keep their predictions for a second pass. Options: "
                              "--soft_... and --mixing.")  # fmt: skip
    prefix_len: int = flag(16, "Number of first tokens of a block that are never masked.")
    loss: str = flag("nelbo", "nelbo (likelihood bound), clipped, or mean over masked tokens.",
                     choices=("nelbo", "clipped", "mean"))  # fmt: skip
    ema: float = flag(0.0, "Decay of the weight average used for inference; 0: none.", **_SHARE)
    schedule: str = rare("linear", "Mask rate as a function of time.",
                         choices=("linear", "log-linear", "cosine-a", "cosine-b"))  # fmt: skip
    mask_schedule: str = rare("stratified", "A mask rate per row, or one per batch out of ten.",
                              choices=("stratified", "batch"))  # fmt: skip
    shift: str = rare("auto", "Read token i from slot i-1.", choices=("auto", "yes", "no"))
    p_u: float | None = rare(None, f"hybrid: share of random tokens at half time; {P_U}.", **_SHARE)
    causal_weight: float = rare(1.67, "blockN: weight of the causal loss.", **_NONNEGATIVE)
    soft_k: int = rare(3, "soft_masking: tokens that a mask keeps.", **_COUNT)
    soft_share: float = rare(0.8, "soft_masking: share of two-pass batches.", range=(0, 1))
    soft_start: float = rare(0.05, "soft_masking: initial share of predictions.", **_SHARE)
    soft_middle: float = rare(0.75, "soft_masking: initial entropy (nats) of half of it.", **_SCALE)
    soft_slope: float = rare(6.66, "soft_masking: initial slope against entropy.", **_SCALE)
    soft_learning_rate: float = rare(1e-2, "soft_masking: of these three.", **_NONNEGATIVE)
    mixing: str = rare("linear", "soft_masking: of embeddings.", choices=("linear", "spherical"))
    eval_draws: int = rare(1, "Mask patterns per validation block in the bound.", **_COUNT)

    def __post_init__(self):
        if self.mask_schedule == "seed":  # its name in older recipes
            self.mask_schedule = "batch"


@dataclass
class TrainerFlags:
    """How it is trained"""

    output_dir: str | None = flag("weights/roberta-base-wikitext", "Folder of the model.",
                                  metavar="DIR")  # fmt: skip
    overwrite_output_dir: bool = flag(False, "Allow a non-empty --output_dir.")
    resume_from_checkpoint: str | None = flag(None, "'last', or a folder.", metavar="DIR")
    evaluate_only: bool = flag(False, "Report the bound of --model, and train and write nothing.")
    num_train_epochs: float = flag(30.0, "Passes over the data.", **_ABOVE_0)
    max_steps: int = flag(-1, "Optimiser steps instead, where above 0.")
    per_device_train_batch_size: int = flag(16, "Rows per device.", **_COUNT)
    per_device_eval_batch_size: int = rare(16, "Rows per device.", **_COUNT)
    gradient_accumulation_steps: int = flag(1, "Batches per optimiser step.", **_COUNT)
    optim: str = flag("adamw_torch", "adamw_torch, muon (for matrices), or others of the Trainer.")
    learning_rate: float = flag(5e-5, "Its highest value.", **_NONNEGATIVE)
    warmup_steps: float = flag(0, "Of the learning rate; below 1: a share.", **_NONNEGATIVE)
    seed: int = flag(42, "Of all that is random.", range=(0, None), below=2**32)
    dtype: str = flag("auto", "float32 or bfloat16, for computing. Weights stay float32.",
                      choices=("auto", "float32", "bfloat16"))  # fmt: skip
    save_dtype: str = rare("float32", "Of the final weights.", choices=("float32", "float16"))
    gradient_checkpointing: bool = rare(False, "Compute activations again instead of storing them.")
    use_cpu: bool = flag(False, "Do not use the GPU.")
    dataloader_num_workers: int = rare(0, "Processes that prepare batches.", range=(0, 1000))
    eval_strategy: str = flag("epoch", "no, steps or epoch.")
    eval_steps: float | None = rare(None, "Default: --logging_steps.", **_ABOVE_0)
    load_best_model_at_end: bool = flag(False, "End with the weights of the lowest bound.")
    save_strategy: str = flag("epoch", "no, steps or epoch.")
    save_steps: float = rare(500, "Of --save_strategy steps.", **_ABOVE_0)
    save_total_limit: int | None = rare(1, "Checkpoints kept.", **_COUNT)
    logging_steps: float = rare(50, "Steps between two lines of the log.", **_ABOVE_0)
    push_to_hub: bool = flag(False, "Upload the final folder. Its name there: --hub_model_id.")


GONE = {"--token": "--token is gone; set the variable HF_TOKEN, or run 'hf auth login'"}
# What other training scripts call a flag.
_THEIRS = {
    "train_file": "dataset", "dataset_name": "dataset", "validation_file": "eval_dataset",
    "model_name_or_path": "model", "tokenizer_name": "tokenizer", "max_seq_length": "block_size",
    "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs",
    "lr": "learning_rate",
}  # fmt: skip
GONE |= {
    f"--{theirs}": f"unrecognized arguments: --{theirs}; did you mean --{ours}?"
    for theirs, ours in _THEIRS.items()
}
GROUPS = (ModelArguments, DataArguments, DiffusionArguments)


def read_recipe() -> None:
    """Replace the TOML file that the command line begins with by the flags it holds, which are then
    read as if they were typed; flags that are typed after it win."""
    name = sys.argv[1] if len(sys.argv) > 1 else "-"
    if name.startswith("-"):
        return
    if ending(name) != ".toml":
        raise UserError(
            f"{name!r} is neither a flag nor a recipe; a recipe is a file NAME.toml with a flag a line"
        )
    try:
        with named("recipe"):
            found = tomllib.loads(read_text(given_path(name)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read the recipe {name}: {cause(error)}") from None
    words = []
    for name, value in found.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            words.append(f"--{name}={text}")
    sys.argv[1:2] = words


def answer_help(description: str) -> None:
    """``--help`` lists the flags people use and ends, without loading anything; ``--help_all`` is
    left for the parser that knows every flag."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text((*GROUPS, TrainerFlags), description))
        sys.exit()


@dataclass(frozen=True)
class Run:
    """All flags of a run, and what follows from several of them."""

    model: ModelArguments
    data: DataArguments
    diffusion: DiffusionArguments
    args: TrainerFlags

    @property
    def causal(self) -> bool:
        """Whether it learns next-token prediction."""
        return self.diffusion.objective == "causal"

    @property
    def prefix_len(self) -> int:
        """Number of first tokens that are never masked."""
        return 1 if self.causal or self.data.partly else self.diffusion.prefix_len

    @cached_property
    def mix(self) -> dict[str, float]:
        """The share of each of the --layouts."""
        longest = self.data.block_size - self.diffusion.prefix_len
        return parse_layouts(self.diffusion.layouts, longest)

    @property
    def mixed(self) -> bool:
        """Whether there are other layouts than the full canvas."""
        return list(self.mix) != ["full"]

    @property
    def size(self) -> dict | None:
        """Of a model from random weights."""
        return None if self.model.config is None else parse_size(self.model.config)


def parse_layouts(text: str, longest: int) -> dict[str, float]:
    """``causal=1,block16=2`` as a dict of weights that sum to 1. Without weights all are the same.

    Args:
        longest: the largest block there can be.

    Raises:
        UserError: it is not of that form.
    """
    mix = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        block = re.fullmatch(r"block([0-9]{1,9})", name)
        try:
            fine = name not in mix and 0 < float(weight or "1") < math.inf
        except ValueError:
            fine = False
        if not fine or (block is None and name not in ("full", "causal")):
            raise UserError(
                f"--layouts {part.strip()!r} is not a layout with a weight above 0; use each of "
                "full, causal and blockN (such as block16=1) once"
            )
        if block and not 1 <= int(block[1]) <= longest:
            raise UserError(
                f"--layouts {name}: a block has 1 to {longest} tokens (--block_size less "
                "--prefix_len)"
            )
        mix[name] = float(weight or "1")
    total = math.fsum(mix.values())
    return {name: weight / total for name, weight in mix.items()}


def _pairs(text: str) -> dict[str, str]:
    """``a=1,b=2`` as a dict; empty where it is not of that form."""
    parts = [part.strip().split("=") for part in text.split(",")]
    return dict(parts) if all(len(part) == 2 for part in parts) else {}


def parse_size(text: str) -> dict[str, int | str]:
    """``layers=6,width=256,heads=4,vocab=8192`` as a dict, with ``type``: roberta or gpt2."""
    size = {"type": "roberta", **_pairs(text)}
    numbers = {name: value for name, value in size.items() if name != "type"}
    if (
        numbers.keys() != {"layers", "width", "heads", "vocab"}
        or size["type"] not in ("roberta", "gpt2")
        or not all(re.fullmatch("0*[1-9][0-9]{0,8}", value) for value in numbers.values())
    ):
        raise UserError(
            f"--config {text!r} must give layers=N,width=N,heads=N,vocab=N, and may give "
            "type=roberta or type=gpt2"
        )
    size |= {name: int(value) for name, value in numbers.items()}
    if size["width"] % size["heads"] or size["vocab"] < 300:
        raise UserError(
            f"--config {text!r} must have a width that is a multiple of the heads, and a vocab of "
            "at least 300 (256 bytes and more)"
        )
    return size
