"""The options that several scripts share."""

from dataclasses import dataclass
from functools import partial

from diffusion.cli.checks import Conflict, check_values, clash, conflict
from diffusion.cli.console import check_text
from diffusion.cli.files import check_animation_path, check_apart, check_file
from diffusion.cli.flags import MODEL, SHOWN, TEXT, flag

_text, _shown, _model = (partial(flag, group=group) for group in (TEXT, SHOWN, MODEL))
_PLACE = "folder, name in weights/, or hub name."


@dataclass
class Access:
    """What may be done to get a model."""

    trust_remote_code: bool = _model(
        False, "Run the Python code that comes with a model: it can do all that you can. Without it "
        "such a model is refused.", rare=True,
    )  # fmt: skip
    revision: str | None = _model(None, "Branch, tag or commit of --model on the hub.", rare=True)


@dataclass
class WritingOptions:
    """What to write from and to; a script names its own default model."""

    unconditional: bool = _text(False, "Write from an empty prompt.")
    num_samples: int = _text(1, "Texts for each prompt.", range=(1, 10**6))
    output: str | None = _shown(None, "Write the texts to this file instead.", metavar="FILE")
    json: bool = _shown(False, "One JSON object a text: prompt, text, ids, NFE and more.")
    save_animation: str | None = _shown(
        None, "Save how one text is written as .gif, .mp4, .html or .png.", metavar="FILE"
    )
    live: bool = _shown(
        True, "Show the canvas while it fills.", off="No live view in the terminal."
    )
    model: str = _model("roberta-minilm-stories", _PLACE.capitalize())
    tokenizer: str | None = _model(None, "Default: the model's.", rare=True)
    batch_size: int = _model(
        8, "Texts written at once; in float32 it does not change them.", range=(1, None)
    )
    device: str = _model("auto", "cuda, mps or cpu; auto takes the first available.")
    dtype: str = _model(
        "auto", "float32, bfloat16 or float16. auto is bfloat16 for large models where the device "
        "supports it, else float32.",
    )  # fmt: skip

    @property
    def outputs(self) -> dict[str, str | None]:
        """The files that are written, by their flags."""
        return {"--output": self.output, "--save_animation": self.save_animation}

    def check(self, prompt: str | None) -> None:
        """Refuse values out of range, an empty prompt and files that cannot be written."""
        check_values(self)
        if prompt is not None:
            check_text(prompt)
        if self.save_animation is not None:
            check_animation_path(self.save_animation)
        if self.output is not None:
            check_file("--output", self.output)
        check_apart(self.outputs, {"--model": self.model, "--tokenizer": self.tokenizer})


# Beside the options these read `prompt` and whether a flag `brings_text`.
WRITING = [
    clash(
        "prompt", "unconditional",
        "--unconditional writes from an empty prompt; leave out the prompt or the flag",
    ),
    conflict("--save_animation with --num_samples", "shows one text"),
    Conflict(
        "--save_animation without PROMPT",
        lambda o: o.save_animation and not {"prompt", "unconditional", "brings_text"} & o.given,
        "--save_animation shows one text; give one prompt as an argument, or --unconditional",
    ),
]  # fmt: skip


@dataclass
class PairOptions:
    """Two models to compare, and where they compute."""

    model: str = _model("roberta-minilm-stories", f"The masked LM: {_PLACE}")
    baseline: str = _model("gpt2-small-stories", f"The causal LM: {_PLACE}")
    device: str = _model("auto", "cuda, mps or cpu; auto takes the first available.")
    dtype: str = _model("auto", "float32, bfloat16, float16 or auto, as in inference.py.")
