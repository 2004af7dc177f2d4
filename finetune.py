"""Train a masked language model as a denoiser (or a causal warm start of one).

The reference recipe is the default: roberta-base, WikiText-2, 30 epochs, batch 16, blocks of 256
tokens whose first 16 are never masked.

    python finetune.py                                            # on a GPU box, from the hub
    python finetune.py --model DIR --dataset wikitext-2 --dataset_dir data --output_dir weights/mine
    accelerate launch finetune.py ...                             # several GPUs
    python finetune.py --resume_from_checkpoint last ...          # go on where a run was stopped

Without a pretrained encoder, a small model from scratch learns far more from a causal warm start:

    python finetune.py --objective causal --config layers=6,width=256,heads=4,vocab=8192 \\
        --output_dir weights/warm
    python finetune.py --model weights/warm --prefix_len 1 --output_dir weights/denoiser
"""

import atexit
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch
import transformers
from accelerate.utils import broadcast_object_list
from transformers import GPT2Config, RobertaConfig, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import get_last_checkpoint

from diffusion import errors, hardware
from diffusion.cli import files
from diffusion.cli.flags import parse_flags
from diffusion.collator import MASK_SCHEDULES, CausalCollator, DiffusionCollator
from diffusion.data import corpus, packing
from diffusion.errors import UserError, run
from diffusion.models import loading, tokenizers
from diffusion.models.backbone import Backbone
from diffusion.models.families import max_length
from diffusion.noise import SCHEDULES, Absorbing
from diffusion.objective import LOSSES
from diffusion.training.trainer import DiffusionTrainer, StopOnSignal, check_checkpoint


@dataclass
class ModelArguments:
    model: str = field(
        default="roberta-base",
        metadata={"help": "Masked LM to start from: hub name, local folder, or name in weights/."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer: hub name or folder. Default: the model's; with --config, "
                  "one trained on the training text."},
    )  # fmt: skip
    config: str | None = field(
        default=None,
        metadata={"help": "Start from random weights of this size instead of --model, for "
                  "example layers=6,width=256,heads=4,vocab=8192; with type=gpt2 a GPT-2."},
    )  # fmt: skip
    dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout rate. Default: the model's own; 0 with --config."},
    )
    attn_implementation: str = field(
        default="auto",
        metadata={"help": "eager, sdpa, ...; auto takes eager on CPUs, where it trains faster."},
    )


@dataclass
class DataArguments:
    dataset: list[str] = field(
        default_factory=lambda: [corpus.WIKITEXT],
        metadata={"help": "One or more of: wikitext-2, a .txt or .txt.xz file, a folder, a hub "
                  "name with a 'text' column."},
    )  # fmt: skip
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration name of a hub data set."}
    )
    dataset_dir: str | None = field(
        default=None, metadata={"help": "Folder with local WikiText-2 files (else: the hub)."}
    )
    eval_dataset: str | None = field(
        default=None,
        metadata={"help": "Validation text. Default: WikiText-2's validation split if it is "
                  "trained on, else blocks held out from the end of the training text."},
    )  # fmt: skip
    eval_split: str = field(
        default="validation",
        metadata={"help": "Which split of it: validation, or test.",
                  "choices": ["validation", "test"]},
    )  # fmt: skip
    max_eval_blocks: int = field(
        default=512, metadata={"help": "Use at most so many validation blocks."}
    )
    block_size: int = field(default=256, metadata={"help": "Tokens per training block."})


@dataclass
class DiffusionArguments:
    objective: str = field(
        default="diffusion",
        metadata={"help": "diffusion, or causal: next-token prediction, as a warm start or for a "
                  "GPT-2 to compare with.",
                  "choices": ["diffusion", "causal"]},
    )  # fmt: skip
    shift: str = field(
        default="auto",
        metadata={"help": "Read token i from the output at slot i-1. auto: as the model was "
                  "trained so far, yes after --objective causal.",
                  "choices": ["auto", "yes", "no"]},
    )  # fmt: skip
    prefix_len: int = field(
        default=16, metadata={"help": "So many first tokens of a block are never masked."}
    )
    mask_schedule: str = field(
        default="stratified",
        metadata={"help": "stratified: a mask rate per row over the full range; seed: one rate "
                  "per batch from {1.0, 0.9, ..., 0.1}.", "choices": list(MASK_SCHEDULES)},
    )  # fmt: skip
    schedule: str = field(
        default="linear",
        metadata={"help": "Mask rate as a function of time.", "choices": list(SCHEDULES)},
    )
    loss: str = field(
        default="nelbo",
        metadata={"help": "nelbo: the weighted likelihood bound; mean: plain mean over masked "
                  "tokens.", "choices": list(LOSSES)},
    )  # fmt: skip
    ema: float = field(
        default=0.0, metadata={"help": "Decay of the weight average used for inference; 0: none."}
    )
    eval_draws: int = field(
        default=1, metadata={"help": "Mask patterns per validation block in the bound."}
    )


@dataclass
class RunArguments(TrainingArguments):
    output_dir: str | None = field(
        default="weights/roberta-base-wikitext", metadata={"help": "Where the model goes."}
    )
    num_train_epochs: float = field(default=30.0, metadata={"help": "Passes over the data."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows per device."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Rows per device."})
    eval_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    report_to: str = field(default="none", metadata={"help": "tensorboard, wandb, ... or none."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Needed by models that do not use all their weights."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "'last', or a checkpoint folder to go on from."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Allow a non-empty --output_dir."}
    )
    evaluate_only: bool = field(
        default=False,
        metadata={"help": "Train nothing and write nothing: report the bound of --model (or, with "
                  "--objective causal, its exact NLL) on the --eval_split."},
    )  # fmt: skip
    dtype: str = field(
        default="auto",
        metadata={"help": "Computing in float32 or bfloat16 (weights stay float32); auto takes "
                  "bfloat16 where the machine has it in hardware.",
                  "choices": ["auto", "float32", "bfloat16"]},
    )  # fmt: skip
    save_dtype: str = field(
        default="float32",
        metadata={"help": "Number format of the final weights.", "choices": ["float32", "float16"]},
    )

    def __post_init__(self):
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
        super().__post_init__()
        # One process drives one device; several are what `accelerate launch` is for.
        self._n_gpu = min(self.n_gpu, 1)


def parse() -> tuple[ModelArguments, DataArguments, DiffusionArguments, RunArguments]:
    groups = (ModelArguments, DataArguments, DiffusionArguments, RunArguments)
    try:
        return tuple(parse_flags(groups, __doc__.split("\n\n")[0]))
    except (ValueError, ImportError) as error:  # TrainingArguments checks its own values
        raise UserError(f"{errors.first_line(error)}; see --help") from None


# Flags of the Trainer that would do nothing here, or harm, with the one value they may have.
_FIXED = {
    "activation_checkpointing": False,
    "auto_find_batch_size": False,  # mask rates are stratified over a batch known beforehand
    "average_tokens_across_devices": True,
    "gradient_checkpointing": False,
    "label_smoothing_factor": 0.0,
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "remove_unused_columns": False,
}
_AT_LEAST = {
    "block_size": 8,
    "eval_draws": 1,
    "max_eval_blocks": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "adam_epsilon": 0,
    "seed": 0,
}
_BELOW_ONE = ("ema", "dropout", "adam_beta1", "adam_beta2")


def check(model: ModelArguments, data: DataArguments, diffusion: DiffusionArguments, args) -> None:
    """Everything that can be refused before any work."""
    values = vars(model) | vars(data) | vars(diffusion) | vars(args)
    for name, value in _FIXED.items():
        if values.get(name, value) != value:  # not every version has all of them
            raise UserError(f"--{name} {values[name]} is not supported here; leave it out")
    for name, least in _AT_LEAST.items():
        if not values[name] >= least:  # nan, too
            raise UserError(f"--{name} {values[name]} must be at least {least}")
    for name in _BELOW_ONE:
        if values[name] is not None and not 0 <= values[name] < 1:
            raise UserError(f"--{name} {values[name]} must be at least 0 and below 1")
    if args.seed >= 2**32:
        raise UserError(f"--seed {args.seed} must be below 2**32")
    for name in set(args.report_to) - set(get_available_reporting_integrations()):
        raise UserError(f"--report_to {name} is unknown or not installed; use none, or install it")
    if not (args.max_steps > 0 or args.num_train_epochs > 0):
        raise UserError(f"--num_train_epochs {args.num_train_epochs} must be above 0")
    if not 1 <= diffusion.prefix_len < data.block_size:
        raise UserError(
            f"--prefix_len {diffusion.prefix_len} must be between 1 (<s>) and --block_size - 1"
        )
    if diffusion.mask_schedule == "seed" and diffusion.schedule != "linear":
        raise UserError("--mask_schedule seed draws mask rates itself; leave --schedule linear")
    if diffusion.objective == "causal" and diffusion.shift == "no":
        raise UserError("--objective causal predicts the next token: --shift cannot be no")
    args.resume_from_checkpoint = find_checkpoint(args)
    if args.evaluate_only:
        if model.config is not None or args.resume_from_checkpoint:
            raise UserError(
                "--evaluate_only measures a --model; leave out --config and "
                "--resume_from_checkpoint"
            )
    else:
        files.check_output_dir(
            args.output_dir,
            args.overwrite_output_dir,
            args.resume_from_checkpoint is not None,
            "--overwrite_output_dir",
        )
    if model.config is not None:
        if parse_size(model.config)["type"] == "gpt2" and diffusion.objective != "causal":
            raise UserError("--config type=gpt2 reads left to right; it needs --objective causal")
    else:
        positions = max_length(loading.load_config(model.model))
        if data.block_size > positions:
            raise UserError(
                f"--block_size {data.block_size} exceeds the {positions} positions of {model.model}"
            )


def find_checkpoint(args: RunArguments) -> str | None:
    wanted = args.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted in ("last", "true", "True"):
        folder = Path(args.output_dir)
        last = get_last_checkpoint(args.output_dir) if folder.is_dir() else None
        if last is None:
            raise UserError(
                f"--resume_from_checkpoint {wanted}: {args.output_dir} has no checkpoint; leave "
                "the flag out to start anew"
            )
        wanted = last
    if not Path(wanted).is_dir():
        raise UserError(f"--resume_from_checkpoint {wanted} is not a folder; try 'last'")
    check_checkpoint(Path(wanted))
    return wanted


def parse_size(text: str) -> dict[str, int | str]:
    """``layers=6,width=256,heads=4,vocab=8192`` as a dict, with ``type``: roberta or gpt2."""
    names = ("layers", "width", "heads", "vocab")
    try:
        size = dict(part.strip().split("=") for part in text.split(","))
        kind = size.pop("type", "roberta")
        size = {name: int(value) for name, value in size.items()}
    except ValueError:
        size = {}
    if set(size) != set(names) or min(size.values()) < 1 or kind not in ("roberta", "gpt2"):
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


def random_model(size: dict, tokenizer, block_size: int, dropout: float):
    """A RoBERTa or a GPT-2 of one body shape, with room for ``block_size`` tokens."""
    # A short text has fewer pieces than asked for; a given tokenizer has its own number.
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if size["type"] == "gpt2":
        config = GPT2Config(
            **ids,
            n_embd=size["width"],
            n_layer=size["layers"],
            n_head=size["heads"],
            n_positions=block_size,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one fused kernel
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
        return transformers.AutoModelForCausalLM.from_config(config)
    config = RobertaConfig(
        **ids,
        hidden_size=size["width"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["width"],
        max_position_embeddings=block_size + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return transformers.AutoModelForMaskedLM.from_config(config)


def build_model(options: ModelArguments, diffusion: DiffusionArguments, data, args, documents):
    """(model, tokenizer), pretrained or from random weights."""
    if options.config is None:
        load = loading.load_masked_lm
        gpt2 = not loading.is_masked_lm(loading.load_config(options.model))
        if gpt2 and diffusion.objective == "causal":
            load = loading.load_causal_lm
        tokenizer = tokenizers.load_tokenizer(
            options.tokenizer or options.model, needs_mask=load is loading.load_masked_lm
        )
        model = load(options.model, tokenizer)
        if options.dropout is not None:
            set_dropout(model, options.dropout)
    else:
        size = parse_size(options.config)
        if options.tokenizer:
            tokenizer = tokenizers.load_tokenizer(options.tokenizer)
        elif args.resume_from_checkpoint:
            tokenizer = tokenizers.load_tokenizer(args.resume_from_checkpoint)
        else:
            say(f"training a byte-level BPE of {size['vocab']} tokens on the training text")
            tokenizer = None
            if args.process_index == 0:
                tokenizer = tokenizers.train_tokenizer(documents, size["vocab"])
            # The others take it over, rather than hope to arrive at the same one.
            tokenizer = broadcast_object_list([tokenizer])[0]
        model = random_model(size, tokenizer, data.block_size, options.dropout or 0.0)
    before = loading.diffusion_settings(model.config)
    shift = {"yes": True, "no": False}.get(diffusion.shift, before.get("shift", False))
    causal = diffusion.objective == "causal"
    model.config.diffusion = {
        "objective": diffusion.objective,
        "shift": shift or causal,
        "prefix_len": 1 if causal else diffusion.prefix_len,
        "tokens_seen": before.get("tokens_seen", 0),
    }
    return model, tokenizer


def set_dropout(model, rate: float) -> None:
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # RoBERTa's and its kin's
    for name in (*names, "resid_pdrop", "embd_pdrop", "attn_pdrop"):  # GPT-2's
        if hasattr(model.config, name):
            setattr(model.config, name, rate)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


@torch.no_grad()
def set_output_bias(model, blocks: torch.Tensor) -> None:
    """Start the output bias at the log frequencies of the tokens, which training would otherwise
    spend its first hundreds of steps on."""
    bias = model.get_output_embeddings().bias
    if bias is None:  # GPT-2 has none
        return
    counts = torch.bincount(blocks.flatten().long(), minlength=len(bias)).double() + 0.5
    bias.copy_((counts / counts.sum()).log())


def load_data(data: DataArguments, train: bool = True) -> tuple[list[str], list[str] | None]:
    """(training documents, validation documents or None when blocks are to be held out)."""
    documents = []
    for name in data.dataset if train else ():
        documents += corpus.load_documents(name, "train", data.dataset_dir, data.dataset_config)
    if data.eval_dataset is not None:
        name = data.eval_dataset
    elif corpus.WIKITEXT in data.dataset:
        name = corpus.WIKITEXT
    elif train:
        return documents, None
    else:
        name = data.dataset[0]
    return documents, corpus.load_documents(name, data.eval_split, data.dataset_dir)


def say(message: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        print(message, file=sys.stderr, flush=True)


def main() -> None:
    loading.quiet_libraries()
    options, data, diffusion, args = parse()
    check(options, data, diffusion, args)
    hardware.use_all_cores()
    transformers.set_seed(args.seed)

    if args.evaluate_only:
        args.output_dir = tempfile.mkdtemp()  # the Trainer wants one
        atexit.register(shutil.rmtree, args.output_dir, ignore_errors=True)
    documents, eval_documents = load_data(data, train=not args.evaluate_only)
    model, tokenizer = build_model(options, diffusion, data, args, documents)
    blocks = None if args.evaluate_only else packing.pack(documents, tokenizer, data.block_size)
    if eval_documents is None:
        held_out = min(max(2, len(blocks) // 50), data.max_eval_blocks)  # 2 for an error
        if len(blocks) <= held_out:
            raise UserError(
                f"the data set fills only {len(blocks)} blocks, none is left for validation; give "
                "more text or an --eval_dataset"
            )
        blocks, eval_blocks = blocks[:-held_out], blocks[-held_out:]
        say(f"no --eval_dataset: the last {held_out} blocks are held out for validation")
    else:
        eval_blocks = packing.pack(eval_documents, tokenizer, data.block_size, "validation set")
        # Spread over the whole text, not only its beginning.
        keep = torch.linspace(0, len(eval_blocks) - 1, min(len(eval_blocks), data.max_eval_blocks))
        eval_blocks = eval_blocks[keep.round().long()]
    if options.config is not None:
        set_output_bias(model, blocks)

    device = args.device
    attention = options.attn_implementation
    if attention == "auto":
        attention = "eager" if device.type == "cpu" else "sdpa"
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError) as error:
        raise UserError(f"--attn_implementation {attention}: {errors.first_line(error)}") from None
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    if args.evaluate_only:
        amount = f"{len(eval_blocks)} blocks of the {data.eval_split} split"
        blocks = eval_blocks
    else:
        amount = f"{blocks.numel() / 1e6:.2f} M training tokens in {len(blocks)} blocks"
    say(
        f"{model.num_parameters() / 1e6:.1f} M parameters; {amount}; "
        f"{hardware.describe(device, dtype)}"
    )

    global_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if diffusion.objective == "causal":
        collator = CausalCollator()
    else:
        collator = DiffusionCollator(
            Absorbing.of(tokenizer),
            sorted({tokenizer.bos_token_id, tokenizer.pad_token_id}),
            diffusion.prefix_len,
            diffusion.mask_schedule,
            diffusion.schedule,
            args.seed,
            global_batch,
        )
    trainer = DiffusionTrainer(
        Backbone(model),
        args,
        train_blocks=blocks,
        eval_blocks=eval_blocks,
        collator=collator,
        tokenizer=tokenizer,
        token_bytes=tokenizers.token_byte_lengths(tokenizer, model.config.vocab_size),
        schedule=diffusion.schedule,
        loss=diffusion.loss,
        ema_decay=diffusion.ema,
        eval_draws=diffusion.eval_draws,
    )
    if args.evaluate_only:
        say(f"{options.model}: {summary(trainer.evaluate())}")
        return
    stop = StopOnSignal()
    trainer.add_callback(stop)
    started = time.monotonic()
    if args.resume_from_checkpoint is None:
        trainer.discard_checkpoints()  # there are some only after --overwrite_output_dir
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if not stop.stopped:
        metrics = trainer.evaluate()
        seconds = time.monotonic() - started
        if args.should_save:
            save(trainer, tokenizer, options, data, diffusion, args, metrics, seconds)
    if args.world_size > 1:  # a process that just ends may take the others down with it
        trainer.accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()
    if stop.stopped:
        say(
            f"stopped at step {trainer.state.global_step}; go on with the same command and "
            "--resume_from_checkpoint last"
        )
        sys.exit(130)

    say(f"saved {args.output_dir}: {summary(metrics)}")


def summary(metrics: dict) -> str:
    return (
        f"{metrics['eval_nats_per_token']:.3f} ± {metrics['eval_standard_error']:.3f} nats per "
        f"token, {metrics['eval_nats_per_byte']:.3f} per byte, perplexity "
        f"{metrics['eval_perplexity']:.1f} per token, "
        f"{math.exp(metrics['eval_nats_per_byte']):.2f} per byte"
    )


def save(trainer, tokenizer, options, data, diffusion, args, metrics, seconds) -> None:
    """The final folder: an ordinary model folder with a card."""
    model = trainer.inference_model
    tokens = trainer.state.global_step * trainer.global_batch * data.block_size
    settings = dict(model.config.diffusion)
    settings["tokens_seen"] += tokens
    settings["bound_nats_per_token"] = round(metrics["eval_nats_per_token"], 4)
    model.config.diffusion = settings
    card = model_card(trainer, options, data, diffusion, args, metrics, tokens, seconds)

    def write(folder: Path) -> None:
        model.to(hardware.DTYPES[args.save_dtype]).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        trainer.state.save_to_json(str(folder / "trainer_state.json"))

    files.write_folder(Path(args.output_dir), write)


def command() -> str:
    """The command line without the flags of an interruption: a resumed run equals the whole one."""
    words = shlex.join(["python", *sys.argv])
    return re.sub(r" --resume_from_checkpoint[ =]('[^']*'|\S+)", "", words)


def model_card(trainer, options, data, diffusion, args, metrics, tokens, seconds) -> str:
    """What a reader needs to judge the model and to make it again."""
    model, settings = trainer.inference_model, trainer.inference_model.config.diffusion
    kind = "exact NLL" if diffusion.objective == "causal" else "likelihood bound (NELBO)"
    curve = ", ".join(
        f"{name.removeprefix('eval_nats_at_').replace('_', '-')} %: {value:.2f}"
        for name, value in metrics.items()
        if name.startswith("eval_nats_at_")
    )
    return f"""---
library_name: transformers
pipeline_tag: {"fill-mask" if loading.is_masked_lm(model.config) else "text-generation"}
---
# {Path(args.output_dir).name}

Trained by `finetune.py` with

```
{command()}
```

| | |
|---|---|
| parameters | {model.num_parameters():,} |
| started from | {options.config or options.model} |
| objective | {diffusion.objective}{" (shifted)" if settings["shift"] else ""} |
| training text | {", ".join(data.dataset)} |
| tokens seen in this run | {tokens:,} ({trainer.state.global_step:,} steps of {trainer.global_batch} blocks of {data.block_size}) |
| tokens seen in all | {settings["tokens_seen"]:,} |
| weights | {f"average, decay {diffusion.ema}" if diffusion.ema else "last step"}, {args.save_dtype} |
| wall time of this run | {seconds / 60:.0f} minutes |
| {data.eval_split} text | {data.eval_dataset or (corpus.WIKITEXT if corpus.WIKITEXT in data.dataset else "held out")}, {len(trainer.eval_dataset):,} blocks of {data.block_size} tokens |
| {kind} | {metrics["eval_nats_per_token"]:.4f} ± {metrics["eval_standard_error"]:.4f} nats per token |
| per byte | {metrics["eval_nats_per_byte"]:.4f} nats |
| perplexity | {metrics["eval_perplexity"]:.1f} per token, {math.exp(metrics["eval_nats_per_byte"]):.2f} per byte |
{f"| nats per token by mask rate | {curve} |" if curve else ""}

WikiText-2 was detokenised, without headings and without sentences that hold the literal `<unk>`.
"""


if __name__ == "__main__":
    run(main)
