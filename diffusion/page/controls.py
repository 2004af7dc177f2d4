"""Fields of the page for options, made from the descriptions of the options themselves, so that a new
sampler has its fields without further code."""

from dataclasses import fields

import gradio as gr

from diffusion.cli.flags import kinds_of
from diffusion.generate import Writer
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import SAMPLERS
from diffusion.samplers.make import sampler_class
from diffusion.samplers.spec import Option, options_of

DEFAULT = "default"
# The fields of `GenerationOptions` that stand beside the sampler.
GENERAL = ("temperature", "top_k", "top_p", "attention", "block_length", "guidance")
KINDS = {option.name: option for option in fields(GenerationOptions)}


def field(name: str, kind: type, help: str, default, choices, bounds) -> gr.Component:
    """The field of one option; empty is the default of the model or sampler."""
    label, least, most = name.replace("_", " "), *(bounds or (None, None))
    if choices:
        shown = [(DEFAULT, ""), *((str(choice), str(choice)) for choice in choices)]
        return gr.Dropdown(shown, value="", label=label, info=help)
    whole = 0 if kind is int else None
    unset = "" if default is None else f" Default {default:g}."
    return gr.Number(
        None, label=label, info=help + unset, precision=whole, minimum=least, maximum=most
    )


def general(name: str) -> gr.Component:
    """The field of an option of `GenerationOptions`."""
    option = KINDS[name]
    kind = next(kind for kind in (float, int, str) if kind in kinds_of(option.type))
    help = option.metadata["help"].split(". ")[0].removesuffix(".") + "."
    choices = [one for one in option.metadata.get("choices", ()) if one != option.default]
    return field(name, kind, help, option.default, choices, option.metadata.get("range"))


def own(option: Option) -> gr.Component:
    """The field of an option of a sampler."""
    default = None if isinstance(option.default, str) else option.default
    help = option.help[:1].upper() + option.help[1:] + "."
    choices = [one for one in option.choices if one != option.default]
    if option.choices and option.default is not None:
        help += f" Default {option.default}."
    return field(option.name, option.kind, help, default, choices, option.range)


class Controls:
    """The sampler and its options, temperature and the like.

    Attributes:
        inputs: all fields, whose values `read` takes in this order.
    """

    def __init__(self, writer: Writer):
        names = [name for name, entry in SAMPLERS.items() if writer.noise.name in entry.noises]
        default = writer.resolve(GenerationOptions()).sampler
        self.sampler = gr.Dropdown(
            [(f"default: {default}", ""), *((name, name) for name in names)],
            value="", label="sampler", info="Which tokens are written in each step.",
        )  # fmt: skip
        self.names: list[tuple[str | None, str]] = []  # (sampler or None for all, option)
        self.inputs = [self.sampler]
        groups = []
        for name in names:
            with gr.Group(visible=False) as group:
                gr.Markdown(f"{name}: {SAMPLERS[name].line}.")
                for option in options_of(sampler_class(name)).values():
                    self._add(name, option.name, own(option))
            groups.append(group)
        self.seed = gr.Number(0, label="seed", info="Same seed, same text.", precision=0)
        self._add(None, "seed", self.seed)
        with gr.Accordion("More options", open=False):
            for name in GENERAL:
                self._add(None, name, general(name))
        self.sampler.change(
            lambda chosen: [gr.Group(visible=name == chosen) for name in names],
            self.sampler, groups, queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def _add(self, sampler: str | None, name: str, component: gr.Component) -> None:
        self.names.append((sampler, name))
        self.inputs.append(component)

    def read(self, values) -> dict:
        """The options by name, of the values of all fields; those of other samplers are left out."""
        chosen, *rest = values
        given = {
            name: value
            for (sampler, name), value in zip(self.names, rest, strict=True)
            if sampler in (None, chosen) and value not in (None, "")
        }
        return given | ({"sampler": chosen} if chosen else {})
