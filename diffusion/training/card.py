"""The final folder of a run, an ordinary model folder with a card, and its place on the hub."""

import re
import shlex
import sys
from pathlib import Path

import huggingface_hub

from diffusion import hardware
from diffusion.cli import files
from diffusion.data import corpus
from diffusion.errors import UserError, cause
from diffusion.likelihood import perplexity
from diffusion.models import loading
from diffusion.models.tokenizers import tokens_per_word
from diffusion.training.arguments import Run


def _layouts(metrics: dict) -> list[str]:
    """The layouts whose likelihoods were measured, where these are several."""
    found = (re.fullmatch("eval_([^_]+)_nats_per_token", key) for key in metrics)
    return [match[1] for match in found if match]


def summary(metrics: dict, two_pass: bool = False) -> str:
    """The result of an evaluation in one line; ``two_pass``: of a denoiser with soft-masking."""
    layouts = [f"{name} {metrics[f'eval_{name}_nats_per_token']:.3f}" for name in _layouts(metrics)]
    return (
        "{eval_nats_per_token:.3f} ± {eval_standard_error:.3f} nats per token, "
        "{eval_nats_per_byte:.3f} per byte, perplexity {eval_perplexity:.1f} per token, "
    ).format(**metrics) + (
        f"{perplexity(metrics['eval_nats_per_byte']):.2f} per byte"
        + ("; of the two passes of soft-masking" if two_pass else "")
        + (f"; nats per token by layout: {', '.join(layouts)}" if layouts else "")
    )


def save(run: Run, trainer, tokenizer, metrics: dict, seconds: float) -> None:
    """Write the final folder, the first of several processes alone. All of them call this, and none
    trains after it."""
    model, args = trainer.inference_model, run.args
    if not args.should_save:
        return
    trainer.check_finite("validation loss", metrics["eval_nats_per_token"])
    blocks = trainer.train_dataset
    tokens = round(trainer.weights_step * args.global_batch * blocks.tokens / len(blocks))
    settings = dict(model.config.diffusion)
    settings["tokens_seen"] += tokens
    settings["bound_nats_per_token"] = round(metrics["eval_nats_per_token"], 4)
    texts = tokenizer.batch_decode(trainer.eval_dataset.blocks, skip_special_tokens=True)
    settings["tokens_per_word"] = round(tokens_per_word(tokenizer, texts), 3)
    model.config.diffusion = settings
    if trainer.soft is not None:
        trainer.note_soft(model.config)
    card = model_card(run, model, trainer, metrics, tokens, seconds)

    def write(folder: Path) -> None:
        model.to(hardware.DTYPES[args.save_dtype]).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if trainer.soft is not None:
            trainer.soft.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        trainer.state.save_to_json(str(folder / "trainer_state.json"))

    files.write_folder(Path(args.output_dir), write)


def _command() -> str:
    """The command line without the flag of an interruption: a resumed run equals the whole one."""
    words, kept = iter(sys.argv), ["python"]
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag.replace("-", "_") != "__resume_from_checkpoint":
            kept.append(word)
        elif not equals:
            next(words, None)
    return shlex.join(kept)


_CARD = """---
library_name: transformers{kind}
---
# {name}

Trained by `finetune.py` of RoBERTa Diffusion; `inference.py --model` writes with it.{shifted}

```
{command}
```

| | |
|---|---|
{rows}
"""
_SHIFTED = """
The prediction for a token stands one slot to its left (`diffusion.shift` in config.json): in transformers
`model(ids).logits[:, :-1]` are the predictions of `ids[:, 1:]`, with `<s>` in front."""
_TITLES = {
    "causal": "causal (exact)",
    "full": "full canvas (bound)",
    "ordered": "full canvas, from left to right (exact)",
}


def model_card(run: Run, model, trainer, metrics: dict, tokens: int, seconds: float) -> str:
    """What a reader needs to judge the model and to reproduce it."""
    args, data, settings = run.args, run.data, model.config.diffusion
    steps = trainer.weights_step
    weights = f"step {steps:,} of {trainer.state.global_step:,}, {args.save_dtype}"
    if run.diffusion.ema:
        weights = f"average, decay {run.diffusion.ema}, {weights}"
    soft = ", ".join(f"{name} {value}" for name, value in settings.get("soft", {}).items())
    noise = f"{settings.get('noise', 'absorbing')} {settings.get('p_u', '')}"
    text = corpus.WIKITEXT if corpus.WIKITEXT in data.dataset else "held out"
    evaluated = trainer.eval_dataset.source
    rows = {
        "parameters": f"{model.num_parameters():,}",
        "started from": run.model.origin,
        "objective": run.diffusion.objective + (" (shifted)" if settings["shift"] else ""),
        "training text": ", ".join(data.dataset),
        "what was read": trainer.train_dataset.source,
        "learned": (data.chat and "only the answers of conversations")
        or (data.infill and "only the blanks of texts"),
        "noise": noise.strip(),
        "layouts": ", ".join(f"{name} {share:.0%}" for name, share in settings["layouts"].items()),
        "soft-masking": soft and f"{soft}; likelihoods are of its two passes",
        "tokens seen": f"{tokens:,} in this run, {settings['tokens_seen']:,} in all",
        "weights": weights,
        "wall time": f"{seconds / 60:.0f} minutes on {hardware.describe(args.device, args.compute_dtype)}",
        f"{data.eval_split} text": f"{data.eval_dataset or text}, {len(trainer.eval_dataset):,} blocks "
        f"of {data.block_size} tokens",
        "what was read of it": evaluated != trainer.train_dataset.source and evaluated,
        "exact NLL" if run.causal else "likelihood bound (NELBO)": summary(metrics),
    }
    for name in _layouts(metrics):
        token, error, byte, byte_error = (
            f"{metrics[f'eval_{name}_{kind}']:.4f}"
            for kind in ("nats_per_token", "standard_error", "nats_per_byte",
                         "standard_error_per_byte")
        )  # fmt: skip
        title = _TITLES.get(name, f"blocks of {name[5:]} (bound)")
        rows[title] = f"{token} ± {error} nats per token, {byte} ± {byte_error} per byte"
    kind = "fill-mask" if loading.is_masked_lm(model.config) else "text-generation"
    shifted = kind == "fill-mask" and settings["shift"]  # a pipeline would read it one slot off
    return _CARD.format(
        name=Path(args.output_dir).name,
        kind="" if shifted else f"\npipeline_tag: {kind}",
        shifted=_SHIFTED if shifted else "",
        command=_command(),
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items() if value),
    )


def publish(folder: Path, args) -> str:
    """Upload a finished model folder with its card; returns its address."""
    name = args.hub_model_id or folder.absolute().name
    try:
        address = huggingface_hub.create_repo(name, private=args.hub_private_repo, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            ignore_patterns=["checkpoint-*", "runs/*", ".*", "*/.*"],
        )
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"{folder} is saved, but could not be uploaded ({cause(error)}); try "
            f"'hf upload {name} {folder} --exclude checkpoint-*' later"
        ) from None
    return str(address)
