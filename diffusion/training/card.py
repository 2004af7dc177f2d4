"""The final folder of a run: an ordinary model folder with a card."""

import json
import re
import shlex
import sys
from pathlib import Path

from diffusion import hardware
from diffusion.cli import files
from diffusion.data import corpus
from diffusion.likelihood import perplexity
from diffusion.models import loading
from diffusion.training.arguments import parse_lora

_BY_LAYOUT = re.compile("eval_(full|causal|ordered|block[0-9]+)_nats_per_token")


def summary(metrics: dict, two_pass: bool = False) -> str:
    """What an evaluation found, in one line; ``two_pass``: of a denoiser with soft-masking."""
    layouts = [
        f"{found[1]} {nats:.3f}"
        for key, nats in metrics.items()
        if (found := _BY_LAYOUT.match(key))
    ]
    return (
        f"{metrics['eval_nats_per_token']:.3f} ± {metrics['eval_standard_error']:.3f} nats per "
        f"token, {metrics['eval_nats_per_byte']:.3f} per byte, perplexity "
        f"{metrics['eval_perplexity']:.1f} per token, "
        f"{perplexity(metrics['eval_nats_per_byte']):.2f} per byte"
        + ("; of the two passes of soft-masking" if two_pass else "")
        + (f"; nats per token by layout: {', '.join(layouts)}" if layouts else "")
    )


def save_blocks(path: str, trainer) -> None:
    """``--eval_blocks_file``: by layout the nats per token of each validation block, of ``ordered``
    those of the few that are read so (`validation.bounds`)."""
    if trainer.args.should_save:
        found = {name: bound.by_block for name, bound in trainer.bounds.items()}
        files.write_text(Path(path), json.dumps(found) + "\n")


def save(model, trainer, tokenizer, options, data, diffusion, args, metrics, seconds) -> None:
    """The final folder: an ordinary model folder with a card."""
    trainer.check_finite("validation loss", metrics["eval_nats_per_token"])
    blocks = trainer.train_dataset
    tokens = round(trainer.weights_step * args.global_batch * blocks.tokens / len(blocks))
    settings = dict(model.config.diffusion)
    settings["tokens_seen"] += tokens
    settings["bound_nats_per_token"] = round(metrics["eval_nats_per_token"], 4)
    model.config.diffusion = settings
    if trainer.soft is not None:
        trainer.note_soft(model.config)
    card = model_card(model, trainer, options, data, diffusion, args, metrics, tokens, seconds)

    def write(folder: Path) -> None:
        model.to(hardware.DTYPES[args.save_dtype]).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if trainer.soft is not None:
            trainer.soft.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        trainer.state.save_to_json(str(folder / "trainer_state.json"))

    files.write_folder(Path(args.output_dir), write)


def command() -> str:
    """The command line without a token, and without the flags of an interruption: a resumed run equals
    the whole one."""
    words, kept = iter(sys.argv), ["python"]
    for word in words:
        flag, given, _ = word.partition("=")
        if flag.replace("-", "_") not in ("__token", "__resume_from_checkpoint"):
            kept.append(word)
        elif not given:
            next(words, None)
    return shlex.join(kept)


def by_layout(metrics: dict) -> str:
    """A table of the layouts that were measured; empty where there is one."""
    names = [found[1] for key in metrics if (found := _BY_LAYOUT.match(key))]
    if not names:
        return ""
    lines = ["", "| layout | nats per token | per byte |", "|---|---|---|"]
    for name in names:
        token, error, byte, byte_error = (
            metrics[f"eval_{name}_{kind}"]
            for kind in (
                "nats_per_token",
                "standard_error",
                "nats_per_byte",
                "standard_error_per_byte",
            )
        )
        told = {
            "causal": "causal (exact)",
            "full": "full canvas (bound)",
            "ordered": "full canvas, from left to right (exact)",
        }
        told = told.get(name, f"blocks of {name[5:]} (bound)")
        lines.append(f"| {told} | {token:.4f} ± {error:.4f} | {byte:.4f} ± {byte_error:.4f} |")
    return "\n".join([*lines, ""])


def model_card(model, trainer, options, data, diffusion, args, metrics, tokens, seconds) -> str:
    """What a reader needs to judge the model and to make it again."""
    settings = model.config.diffusion
    kind = "exact NLL" if diffusion.objective == "causal" else "likelihood bound (NELBO)"
    curve = ", ".join(
        f"{name.removeprefix('eval_nats_at_').replace('_', '-')} %: {value:.2f}"
        for name, value in metrics.items()
        if name.startswith("eval_nats_at_")
    )
    soft = settings.get("soft")
    memory = ""
    if soft:
        memory = "\n| soft-masking | " + ", ".join(f"{k} {v}" for k, v in soft.items())
        memory += "; likelihoods are of its two passes |"
    steps, last = trainer.weights_step, trainer.state.global_step
    average = f"average, decay {diffusion.ema}" if diffusion.ema else ""
    best = f"step {steps:,} of {last:,}, whose bound is the lowest" if trainer.best_step else ""
    weights = ", ".join(filter(None, (average, best))) or "last step"
    adapters = f"\n| LoRA, merged | {parse_lora(options.lora)} |" if options.lora else ""
    learned = "\n| learned | the answers of conversations alone |" if data.chat else ""
    noise = settings.get("noise", "absorbing") + (
        f", p_u {settings['p_u']}" if "p_u" in settings else ""
    )
    mix = ", ".join(f"{name} {share:.0%}" for name, share in settings["layouts"].items())
    kind_of = "fill-mask" if loading.is_masked_lm(model.config) else "text-generation"
    tag, note = f"\npipeline_tag: {kind_of}", ""
    if kind_of == "fill-mask" and settings["shift"]:
        tag, note = (
            "",
            (
                "\nThe prediction for a token stands one slot to its left (`diffusion.shift` in "
                "config.json): a fill-mask pipeline would silently read it one slot off. "
                "`inference.py --model` reads it right; in transformers `model(ids).logits[:, :-1]` "
                "are the predictions of `ids[:, 1:]`, with `<s>` in front.\n"
            ),
        )
    return f"""---
library_name: transformers{tag}
---
# {Path(args.output_dir).name}
{note}
Trained by `finetune.py` with

```
{command()}
```

| | |
|---|---|
| parameters | {model.num_parameters():,} |
| started from | {options.origin} |{adapters}
| objective | {diffusion.objective}{" (shifted)" if settings["shift"] else ""} |
| training text | {", ".join(data.dataset)} |{learned}
| noise | {noise} |
| layouts | {mix} |{memory}
| tokens seen in this run | {tokens:,} ({steps:,} steps of {args.global_batch} blocks of {data.block_size}) |
| tokens seen in all | {settings["tokens_seen"]:,} |
| weights | {weights}, {args.save_dtype} |
| wall time of this run | {seconds / 60:.0f} minutes |
| {data.eval_split} text | {data.eval_dataset or (corpus.WIKITEXT if corpus.WIKITEXT in data.dataset else "held out")}, {len(trainer.eval_dataset):,} blocks of {data.block_size} tokens |
| {kind} | {metrics["eval_nats_per_token"]:.4f} ± {metrics["eval_standard_error"]:.4f} nats per token |
| per byte | {metrics["eval_nats_per_byte"]:.4f} nats |
| perplexity | {metrics["eval_perplexity"]:.1f} per token, {perplexity(metrics["eval_nats_per_byte"]):.2f} per byte |
{f"| nats per token by mask rate | {curve} |" if curve else ""}
{by_layout(metrics)}
WikiText-2 was detokenised, without headings and without sentences that hold the literal `<unk>`.
"""
