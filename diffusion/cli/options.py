"""The options of the scripts that write."""

from dataclasses import dataclass, field


@dataclass
class WritingOptions:
    """What to write from and to; a script names its own default model."""

    model: str = field(
        default="roberta-small-wikitext",
        metadata={"help": "Folder, name in weights/, or hub name such as roberta-base."},
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Default: the model's."})
    num_samples: int = field(default=1, metadata={"help": "Texts for each prompt."})
    batch_size: int = field(
        default=8, metadata={"help": "Texts written at once; in float32 it does not change them."}
    )
    unconditional: bool = field(default=False, metadata={"help": "Write from nothing."})
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
