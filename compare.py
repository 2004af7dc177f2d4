"""Diffusion and GPT-2 write after the same beginning, side by side, on one true clock.

python compare.py "The city was founded in"                 # in the terminal, and compare.gif
python compare.py "The river" --sampler confidence --n_steps 16 --save_animation river.html
python compare.py "The river" --output_dir runs/river       # keeps all times as JSON, too
python compare.py --replay runs/river/compare.json --save_animation river.mp4 --slowdown 4
python compare.py --sweep --output_dir runs/sweep           # seconds against length and steps
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diffusion.cli import console
from diffusion.cli.access import Access
from diffusion.cli.files import (
    check_animation_path,
    check_apart,
    check_display,
    check_output_dir,
    write_text,
)
from diffusion.cli.flags import parse_flags
from diffusion.cli.options import PairOptions
from diffusion.cli.prompts import (
    PROMPT_HELP,
    ask,
    check_prompt,
    given_prompts,
    note_case,
    note_unknown,
)
from diffusion.cli.values import check_values
from diffusion.errors import UserError, run
from diffusion.options import COMPARED_SAMPLER, GenerationOptions
from diffusion.samplers.catalog import STEPPED
from diffusion.samplers.spec import GONE
from diffusion.views import panes, record
from diffusion.views.animation import save_film, show_film
from diffusion.views.comparison import film_of_record, free_name, table
from diffusion.views.film import Film, check_slowdown
from diffusion.views.terminal import supports_live


@dataclass
class CompareOptions(PairOptions):
    repeats: int = field(
        default=5,
        metadata={"help": "Measured runs of each model, after one to warm up.", "range": (1, None)},
    )
    slowdown: float = field(
        default=1.0, metadata={"help": "Show everything so many times slower; 1 is true time."}
    )
    save_animation: str | None = field(
        default=None,
        metadata={"help": "Save as .gif, .mp4, .html or .png (a filmstrip). Default: compare.gif, "
                  "or compare-2.gif and so on if there is one."},
    )  # fmt: skip
    animate: bool = field(
        default=True, metadata={"help": "Whether to save an animation that was not asked for."}
    )
    show: bool = field(default=False, metadata={"help": "Play the animation in a window."})
    live: bool = field(default=True, metadata={"help": "Play it in the terminal."})
    json: bool = field(
        default=False, metadata={"help": "Print the whole measurement, one JSON object a prompt."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the measurement as JSON, and the animation."}
    )
    replay: str | None = field(
        default=None, metadata={"help": "Show a measurement again, without any model."}
    )
    sweep: bool = field(
        default=False,
        metadata={"help": "Measure seconds for several lengths and numbers of steps; writes "
                  "sweep.png and sweep.json into --output_dir."},
    )  # fmt: skip


def main() -> None:
    generation, args, access, prompt = parse_flags(
        (GenerationOptions, CompareOptions, Access), __doc__, PROMPT_HELP, GONE
    )
    check_flags(generation, args, prompt)
    console.prepare_streams()
    if args.replay is not None:
        data = record.load(args.replay)
        return show(data, film_of_record(data, args.slowdown), args)
    prompts = [] if args.sweep else given_prompts(prompt, False)  # None: ask for them
    if prompts is None and (args.save_animation or args.show):
        raise UserError(
            "--save_animation and --show are for one prompt; give it on the command line"
        )
    if prompts is not None and len(prompts) > 1 and args.save_animation:
        raise UserError("--save_animation names one file; with several prompts use --output_dir")

    # torch and transformers take seconds to import; --help and mistakes need neither.
    from diffusion.autoregressive import load_causal_writer
    from diffusion.generate import load_writer
    from diffusion.measure import measured, options_for
    from studies.board.sweep import sweep

    writers = load_pair(
        args, partial(load_writer, access=access), partial(load_causal_writer, access=access)
    )
    for writer in writers:
        note_case(writer.tokenizer, writer.name)
    if args.sweep:
        return sweep(writers, generation, args.repeats, Path(args.output_dir))

    def compare(text: str) -> None:
        for writer in writers:
            note_unknown(writer.tokenizer, writer.name, [text])
        data = measured(writers, generation, args.repeats, text)
        film = film_of_record(data, args.slowdown)
        show(data, film, args)

    if prompts is None:
        return ask(compare, generation.prefix_len)
    for text in prompts:
        options_for(writers, generation, text)  # one that is too long is refused before any work
    for text in prompts:
        compare(text)


def load_pair(args: CompareOptions, load_writer: Callable, load_causal_writer: Callable) -> list:
    """[the diffusion writer, the autoregressive one]"""
    console.say(f"RoBERTa Diffusion: loading {args.model} and {args.baseline} ...")

    def load(dtype: str) -> list:
        return [
            load_writer(args.model, None, args.device, dtype),
            load_causal_writer(args.baseline, None, args.device, dtype),
        ]

    writers = load(args.dtype)
    # `auto` goes by the size of a model; a comparison is of two models in one number format.
    return writers if writers[0].dtype == writers[1].dtype else load("float32")


def show(data: dict, film: Film, args: CompareOptions) -> None:
    """All that was asked for of one comparison. The measurement is kept first: what comes after
    may be interrupted."""
    target = args.save_animation
    if args.replay is None:
        name = free_name(Path(args.output_dir or ".") / "compare", (".json", ".gif"))
        if args.output_dir:
            name.parent.mkdir(parents=True, exist_ok=True)
            write_text(name.with_suffix(".json"), record.dump(data) + "\n")
            console.say(f"saved {name.with_suffix('.json')}")
        if target is None and args.animate and not args.json:
            target = name.with_suffix(".gif")
    live = args.live and not args.json and supports_live(sys.stdout)
    if live:
        panes.play(film, sys.stdout)
    if args.json:
        console.put(record.dump(data))
    else:
        if not live:
            for side in data["sides"]:
                console.put(f"== {side['model']}: {side['method']}\n{side['text']}\n")
        console.put(table(data))
    if target is not None:
        save_film(film, target, on_progress=console.progress)
        console.say(f"saved {target}")
    if args.show:
        show_film(film)


# ---------------------------------------------------------------- the script


# The options that mean something to --replay and to --sweep.
REPLAYS = {"replay", "slowdown", "save_animation", "animate", "show", "live", "json"}
SWEEPS = {
    *("sweep", "model", "baseline", "repeats", "device", "dtype", "output_dir"),
    *(f.name for f in dataclasses.fields(GenerationOptions)),
} - {"length", "max_len", "n_steps"}


def only(names: set[str], why: str, generation, args, prompt: str | None) -> None:
    """Refuse what is not among ``names``."""
    for options in (generation, args):
        for option in dataclasses.fields(options):
            value = getattr(options, option.name)
            if option.name not in names and value != option.default:
                raise UserError(f"{why}; leave out --{option.name} {value}")
    if prompt is not None:
        raise UserError(f"{why}; leave out the prompt")


def check_flags(generation: GenerationOptions, args: CompareOptions, prompt: str | None) -> None:
    """Everything that can be refused before a model is loaded."""
    if args.replay is not None:
        only(REPLAYS, "--replay shows a measurement that was made", generation, args, prompt)
    elif args.sweep:
        only(SWEEPS, "--sweep has its own prompt, lengths and steps, and draws no animation",
             generation, args, prompt)  # fmt: skip
        generation.sampler = generation.sampler or "confidence"
        generation.attention = generation.attention.replace("auto", "full")
        if generation.sampler_name not in STEPPED:
            raise UserError(f"--sweep needs a sampler with a number of steps: {', '.join(STEPPED)}")
    if generation.n_steps is not None and generation.sampler is None:
        generation.sampler = COMPARED_SAMPLER  # the reference loop, which has the full canvas
        generation.attention = generation.attention.replace("auto", "full")
    generation.check()
    check_values(args)
    check_slowdown(args.slowdown)
    if args.sweep and args.output_dir is None:
        raise UserError("--sweep writes sweep.png and sweep.json; say where by --output_dir")
    if prompt is not None:
        check_prompt(prompt)
    if args.save_animation is not None:
        check_animation_path(args.save_animation)
        check_apart({"--save_animation": args.save_animation}, {"--replay": args.replay})
    if args.show:
        check_display()
    if args.output_dir is not None:
        check_output_dir(args.output_dir, False, True, "")  # what is there is kept
    elif args.animate and not (args.json or args.save_animation) and not os.access(".", os.W_OK):
        raise UserError(
            "the current folder cannot be written; give another by --output_dir, or use "
            "--no_animate"
        )


if __name__ == "__main__":
    run(main)
