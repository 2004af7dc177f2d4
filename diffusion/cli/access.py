"""The options of getting a model, shared by all scripts that load one."""

from dataclasses import dataclass

from diffusion.cli.flags import MODEL, flag


@dataclass
class Access:
    """What may be done to get a model, and how it is held."""

    trust_remote_code: bool = flag(
        False, "Run the Python code that comes with a model: it can do all that you can. Without it "
        "LLaDA and Dream are read natively, and other models with code of their own are refused.",
        rare=True, group=MODEL,
    )  # fmt: skip
    revision: str | None = flag(
        None, "Branch, tag or commit of --model on the hub.", rare=True, group=MODEL
    )
    device_map: str | None = flag(
        None, "auto spreads a large model over all devices.",
        choices=("auto",), rare=True, group=MODEL,
    )  # fmt: skip
    quantize: str | None = flag(
        None, "8bit or 4bit weights by bitsandbytes on CUDA. On a CPU 8bit also computes in eight bits "
        "by torch: faster and slightly less exact.",
        choices=("8bit", "4bit"), rare=True, group=MODEL,
    )  # fmt: skip
