"""The options of getting a model, shared by all scripts that load one."""

from dataclasses import dataclass, field


@dataclass
class Access:
    """What may be done to get a model, and how it is held."""

    trust_remote_code: bool = field(
        default=False,
        metadata={
            "help": "Run the Python code that comes with a model: it can do all that you can. Without "
            "it LLaDA and Dream are read natively, and others with code of their own are refused."
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of --model on the hub."}
    )
    device_map: str | None = field(
        default=None,
        metadata={"help": "auto: spread a large model over all devices.", "choices": ("auto",)},
    )
    quantize: str | None = field(
        default=None,
        metadata={
            "help": "8bit or 4bit: hold a large model in so many bits, by bitsandbytes on CUDA; on a "
            "CPU 8bit, by torch, computes in eight bits too: faster, and a little off.",
            "choices": ("8bit", "4bit"),
        },
    )
