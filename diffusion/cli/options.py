"""The options that several scripts share."""

from dataclasses import dataclass

from diffusion.cli.checks import Conflict, check_values, clash
from diffusion.cli.files import check_animation_path, check_apart, check_display, check_file
from diffusion.cli.flags import MODEL, SHOWN, TEXT, flag
from diffusion.cli.prompts import check_text


@dataclass
class Access:
    """What may be done to get a model."""

    trust_remote_code: bool = flag(
        False, "Run the Python code that comes with a model: it can do all that you can. Without it "
        "such a model is refused.", rare=True, group=MODEL,
    )  # fmt: skip
    revision: str | None = flag(
        None, "Branch, tag or commit of --model on the hub.", rare=True, group=MODEL
    )


@dataclass
class WritingOptions:
    """What to write from and to; a script names its own default model."""

    unconditional: bool = flag(False, "Write from an empty prompt.", group=TEXT)
    num_samples: int = flag(1, "Texts for each prompt.", range=(1, 10**6), group=TEXT)
    output: str | None = flag(
        None, "Write the texts to this file instead.", metavar="FILE", group=SHOWN
    )
    json: bool = flag(
        False, "One JSON object a text: prompt, text, ids, NFE and more.", group=SHOWN
    )
    save_animation: str | None = flag(
        None, "Save how one text is written as .gif, .mp4, .html or .png.",
        metavar="FILE", group=SHOWN,
    )  # fmt: skip
    show: bool = flag(False, "Play the animation in a window.", group=SHOWN)
    live: bool = flag(
        True, "Show the canvas while it fills.", off="No live view in the terminal.", group=SHOWN
    )
    model: str = flag(
        "roberta-small-wikitext",
        "Folder, name in weights/, or hub name.", group=MODEL,
    )  # fmt: skip
    tokenizer: str | None = flag(None, "Default: the model's.", rare=True, group=MODEL)
    batch_size: int = flag(
        8, "Texts written at once; in float32 it does not change them.",
        range=(1, None), group=MODEL,
    )  # fmt: skip
    device: str = flag("auto", "cuda, mps or cpu; auto takes the first available.", group=MODEL)
    dtype: str = flag(
        "auto", "float32, bfloat16 or float16. auto is bfloat16 for large models where the device "
        "supports it, else float32.", group=MODEL,
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
        if self.show:
            check_display()
        if self.output is not None:
            check_file("--output", self.output)
        check_apart(self.outputs, {"--model": self.model, "--tokenizer": self.tokenizer})


# Beside the options these read `prompt` and whether a flag `brings_text`.
WRITING = [
    clash(
        "prompt", "unconditional",
        "--unconditional writes from an empty prompt; leave out the prompt or the flag",
    ),
]  # fmt: skip
for _name in ("save_animation", "show"):
    WRITING += [
        clash(_name, "num_samples", f"--{_name} animates one text; leave out --num_samples"),
        Conflict(
            f"--{_name} without PROMPT",
            lambda o, name=_name: (
                name in o.given and not {"prompt", "unconditional", "brings_text"} & o.given
            ),
            f"--{_name} animates one text; give one prompt as an argument, or --unconditional",
        ),
    ]


@dataclass
class PairOptions:
    """Two models to compare, and where they compute."""

    model: str = flag(
        "roberta-small-wikitext",
        "The masked LM: folder, name in weights/, or hub name.",
        group=MODEL,
    )
    baseline: str = flag(
        "gpt2-small-wikitext", "The causal LM: folder, name in weights/, or hub name.", group=MODEL
    )
    device: str = flag("auto", "cuda, mps or cpu; auto takes the first available.", group=MODEL)
    dtype: str = flag(
        "auto", "float32, bfloat16, float16 or auto, as in inference.py.", group=MODEL
    )
