"""The final folder of a run, an ordinary model folder with a card, and its place on the hub."""

import json
import re
import shlex
import sys
from pathlib import Path

import huggingface_hub
import jinja2

from diffusion import hardware
from diffusion.cli import files
from diffusion.data import corpus
from diffusion.errors import UserError, first_line
from diffusion.likelihood import perplexity
from diffusion.models import hub, loading
from diffusion.training.arguments import Run


def _layouts(metrics: dict) -> dict[str, list[str]]:
    """By layout its nats per token and per byte with their errors, where several were measured."""
    found = [re.fullmatch("eval_([^_]+)_nats_per_token", key) for key in metrics]
    kinds = ("nats_per_token", "standard_error", "nats_per_byte", "standard_error_per_byte")
    return {m[1]: [f"{metrics[f'eval_{m[1]}_{k}']:.4f}" for k in kinds] for m in found if m}


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


def save_blocks(path: str, trainer) -> None:
    """``--eval_blocks_file``: by layout the nats per token of each validation block, of ``ordered``
    those of the few that are measured so (`validation.bounds`)."""
    if trainer.args.should_save:
        found = {name: bound.by_block for name, bound in trainer.bounds.items()}
        files.write_text(Path(path), json.dumps(found) + "\n")


def save(run: Run, trainer, tokenizer, metrics: dict, seconds: float) -> None:
    """Write the final folder, the first of several processes alone. All of them call this, and none
    trains after it."""
    model, args = trainer.finished_model(), run.args
    if not args.should_save:
        return
    trainer.check_finite("validation loss", metrics["eval_nats_per_token"])
    blocks = trainer.train_dataset
    tokens = round(trainer.weights_step * args.global_batch * blocks.tokens / len(blocks))
    settings = dict(model.config.diffusion)
    settings["tokens_seen"] += tokens
    settings["bound_nats_per_token"] = round(metrics["eval_nats_per_token"], 4)
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


def command() -> str:
    """The command line without a token, and without the flags of an interruption: a resumed run equals
    the whole one."""
    words, kept = iter(sys.argv), ["python"]
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag.replace("-", "_") not in ("__token", "__resume_from_checkpoint"):
            kept.append(word)
        elif not equals:
            next(words, None)
    return shlex.join(kept)


_TITLES = {
    "causal": "causal (exact)",
    "full": "full canvas (bound)",
    "ordered": "full canvas, from left to right (exact)",
}
_CARD = """---
library_name: transformers
{%- if not shifted %}
pipeline_tag: {{ kind }}
{%- endif %}
---
# {{ name }}
{% if shifted %}
The prediction for a token stands one slot to its left (`diffusion.shift` in config.json): a fill-mask
pipeline would silently read it one slot off. `inference.py --model` reads it correctly; in transformers
`model(ids).logits[:, :-1]` are the predictions of `ids[:, 1:]`, with `<s>` in front.
{% endif %}
Trained by `finetune.py` with

```
{{ command }}
```

| | |
|---|---|
{%- for name, value in rows.items() if value %}
| {{ name }} | {{ value }} |
{%- endfor %}
{% if layouts %}
| layout | nats per token | per byte |
|---|---|---|
{%- for name, (token, error, byte, byte_error) in layouts.items() %}
| {{ titles.get(name, "blocks of " ~ name[5:] ~ " (bound)") }} | {{ token }} ± {{ error }} | \
{{ byte }} ± {{ byte_error }} |
{%- endfor %}
{% endif %}
WikiText-2 was detokenised, without headings and without sentences that hold the literal `<unk>`.
"""


def model_card(run: Run, model, trainer, metrics: dict, tokens: int, seconds: float) -> str:
    """What a reader needs to judge the model and to reproduce it."""
    args, data, settings = run.args, run.data, model.config.diffusion
    steps, last = trainer.weights_step, trainer.state.global_step
    weights = [
        run.diffusion.ema and f"average, decay {run.diffusion.ema}",
        trainer.best_step and f"step {steps:,} of {last:,}, whose bound is the lowest",
    ]
    p_u = f", p_u {settings['p_u']}" if "p_u" in settings else ""
    soft = ", ".join(f"{name} {value}" for name, value in settings.get("soft", {}).items())
    curve = ", ".join(
        f"{name.removeprefix('eval_nats_at_').replace('_', '-')} %: {value:.2f}"
        for name, value in metrics.items()
        if name.startswith("eval_nats_at_")
    )
    text = corpus.WIKITEXT if corpus.WIKITEXT in data.dataset else "held out"
    bound = "{eval_nats_per_token:.4f} ± {eval_standard_error:.4f} nats per token".format(**metrics)
    rows = {
        "parameters": f"{model.num_parameters():,}",
        "started from": run.model.origin,
        "LoRA, merged": run.adapters,
        "objective": run.diffusion.objective + (" (shifted)" if settings["shift"] else ""),
        "training text": ", ".join(data.dataset),
        "learned": data.chat and "only the answers of conversations",
        "noise": settings.get("noise", "absorbing") + p_u,
        "layouts": ", ".join(f"{name} {share:.0%}" for name, share in settings["layouts"].items()),
        "soft-masking": soft and f"{soft}; likelihoods are of its two passes",
        "tokens seen in this run": f"{tokens:,} ({steps:,} steps of {args.global_batch} blocks of "
        f"{data.block_size})",
        "tokens seen in all": f"{settings['tokens_seen']:,}",
        "weights": f"{', '.join(filter(None, weights)) or 'last step'}, {args.save_dtype}",
        "wall time of this run": f"{seconds / 60:.0f} minutes",
        f"{data.eval_split} text": f"{data.eval_dataset or text}, {len(trainer.eval_dataset):,} blocks "
        f"of {data.block_size} tokens",
        "exact NLL" if run.causal else "likelihood bound (NELBO)": bound,
        "per byte": f"{metrics['eval_nats_per_byte']:.4f} nats",
        "perplexity": f"{metrics['eval_perplexity']:.1f} per token, "
        f"{perplexity(metrics['eval_nats_per_byte']):.2f} per byte",
        "nats per token by mask rate": curve,
    }
    kind = "fill-mask" if loading.is_masked_lm(model.config) else "text-generation"
    return jinja2.Template(_CARD, keep_trailing_newline=True).render(
        name=Path(args.output_dir).name,
        kind=kind,
        shifted=kind == "fill-mask" and settings["shift"],
        command=command(),
        rows=rows,
        layouts=_layouts(metrics),
        titles=_TITLES,
    )


# ---------------------------------------------------------------- the hub

# Files of a model folder that are read; pickled weights are not among them.
_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
# Files of a run that are not uploaded with its model.
_LEFT_OUT = ["checkpoint-*", "runs/*", ".*", "*/.*"]


def take_revision(model) -> None:
    """Download the model of the `ModelArguments` at their revision; the folder becomes its ``place``.

    Raises:
        UserError: it is unavailable.
    """
    if model.revision is None:
        return
    name, _ = hub.locate(model.model)
    try:
        model.place = huggingface_hub.snapshot_download(
            name, revision=model.revision, allow_patterns=_READ
        )
    except Exception as error:  # the library raises many kinds
        raise hub.unreadable("files", f"{name} at {model.revision}", False, error) from None


def check_publishing() -> None:
    """Refuse, before any work, a run whose upload cannot succeed."""
    if huggingface_hub.get_token() is None:
        raise UserError(
            "--push_to_hub needs a token with write access: run 'hf auth login', or set the variable "
            "HF_TOKEN"
        )


def publish(folder: Path, args) -> str:
    """Upload a finished model folder with its card; returns its address.

    Raises:
        UserError: it failed; the folder is unchanged.
    """
    name = args.hub_model_id or folder.absolute().name
    try:
        api = huggingface_hub.HfApi()
        name = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=_LEFT_OUT)
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"{folder} is saved, but could not be uploaded ({first_line(error)}); try "
            f"'hf upload {name} {folder} --exclude checkpoint-*' later"
        ) from None
    return f"{huggingface_hub.constants.ENDPOINT}/{name}"
