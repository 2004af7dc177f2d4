"""The options of the scripts that write, and of those that compare two models."""

from dataclasses import dataclass, field

from diffusion.cli.files import check_animation_path, check_apart, check_display, check_file
from diffusion.cli.prompts import check_prompt
from diffusion.cli.values import check_values
from diffusion.errors import UserError


@dataclass
class WritingOptions:
    """What to write from and to; a script names its own default model."""

    model: str = field(
        default="roberta-small-wikitext",
        metadata={"help": "Folder, name in weights/, or hub name such as roberta-base."},
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Default: the model's."})
    num_samples: int = field(
        default=1, metadata={"help": "Texts for each prompt.", "range": (1, 10**6)}
    )
    batch_size: int = field(
        default=8,
        metadata={
            "help": "Texts written at once; in float32 it does not change them.",
            "range": (1, None),
        },
    )
    unconditional: bool = field(default=False, metadata={"help": "Write from nothing."})
    skip_bad: bool = field(
        default=False, metadata={"help": "Leave out piped prompts that are not UTF-8 text."}
    )
    device: str = field(default="auto", metadata={"help": "auto: CUDA, then MPS, then CPU."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "float32, bfloat16, float16, or auto: bfloat16 for large models where "
            "the device has it, else float32."
        },
    )
    output: str | None = field(
        default=None, metadata={"help": "Write the texts to this file instead."}
    )
    json: bool = field(
        default=False, metadata={"help": "One JSON object a text: prompt, text, ids, NFE, ..."}
    )
    save_animation: str | None = field(
        default=None,
        metadata={"help": "Save the generation of one text as .gif, .mp4, .html or .png."},
    )
    show: bool = field(default=False, metadata={"help": "Play the animation in a window."})
    live: bool = field(
        default=True, metadata={"help": "Show the canvas while it fills (in a terminal)."}
    )

    @property
    def outputs(self) -> dict[str, str | None]:
        """The files that are written, by their flags."""
        return {"--output": self.output, "--save_animation": self.save_animation}

    def check_flags(self, prompt: str | None, edits: bool = False) -> None:
        """Refuse all that can be refused without a model; ``edits``: the text to work on is given
        by a flag."""
        check_values(self)
        if prompt is not None:
            if self.unconditional:
                raise UserError(
                    "--unconditional writes from nothing; leave out the prompt, or the flag"
                )
            check_prompt(prompt)
        if self.save_animation is not None:
            check_animation_path(self.save_animation)
        if self.show:
            check_display()
        one_text = (prompt is not None or self.unconditional or edits) and self.num_samples == 1
        if (self.save_animation or self.show) and not one_text:
            flag = "--save_animation" if self.save_animation else "--show"
            if edits:
                raise UserError(
                    f"{flag} animates one text, and --num_samples {self.num_samples} writes several; "
                    "leave out one of the two"
                )
            raise UserError(
                f"{flag} animates one text; give one prompt (or --unconditional) and one sample"
            )
        if self.output is not None:
            check_file("--output", self.output)
        check_apart(self.outputs, {"--model": self.model, "--tokenizer": self.tokenizer})


@dataclass
class PairOptions:
    """Two models to hold against each other, and where they compute."""

    model: str = field(
        default="roberta-small-wikitext",
        metadata={"help": "The masked LM: folder, name in weights/, or hub name."},
    )
    baseline: str = field(
        default="gpt2-small-wikitext",
        metadata={"help": "The causal LM: folder, name in weights/, or hub name such as gpt2."},
    )
    device: str = field(default="auto", metadata={"help": "auto: CUDA, then MPS, then CPU."})
    dtype: str = field(
        default="auto", metadata={"help": "float32, bfloat16, float16 or auto, as in inference.py."}
    )
