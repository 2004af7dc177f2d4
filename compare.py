"""Write the same beginning by diffusion and by GPT-2, and show both side by side on one true clock.

python compare.py "Once upon a time"                        # in the terminal, and compare.gif
python compare.py "The river" --sampler confidence --n_steps 16 --save_animation river.html
python compare.py "The river" --output_dir runs/river       # keeps all times as JSON, too
python compare.py --replay runs/river/compare.json --save_animation river.mp4 --slowdown 4
"""

import itertools
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from diffusion.cli import console, files
from diffusion.cli.checks import Conflict, check_conflicts, check_values
from diffusion.cli.flags import flag, parse_flags
from diffusion.cli.options import Access, PairOptions
from diffusion.errors import run
from diffusion.options import GenerationOptions
from diffusion.samplers.spec import GONE


@dataclass
class CompareOptions(PairOptions):
    """What is compared and shown."""

    repeats: int = flag(5, "Measured runs of each model, after one to warm up.", range=(1, None))
    slowdown: float = flag(1.0, "Show it so many times slower.", range=(0.01, 1000))
    save_animation: str | None = flag(None, "Save as .gif, .mp4, .html or .png.", metavar="FILE")
    animate: bool = flag(True, "Save compare.gif.", off="Do not save compare.gif.")
    live: bool = flag(True, "Play it in the terminal.", off="Do not play it in the terminal.")
    json: bool = flag(False, "Print the whole measurement, one JSON object a prompt.")
    output_dir: str | None = flag(None, "Keep the JSON and the animation here.", metavar="FOLDER")
    replay: str | None = flag(None, "Show a measurement again, without any model.", metavar="FILE")


REPLAYED = {"replay", "slowdown", "save_animation", "animate", "live", "json"}
OPTIONS = (GenerationOptions, CompareOptions, Access)
CONFLICTS = [
    *(
        Conflict(
            f"--replay with --{option.name}",
            lambda o, f=option: o.replay is not None and getattr(o, f.name) != f.default,
            f"--replay shows what was measured; leave out --{option.name} {{{option.name}}}",
        )
        for owner in OPTIONS
        for option in fields(owner)
        if option.name not in REPLAYED
    ),
    Conflict(
        "--replay with a prompt",
        lambda o: o.replay is not None and o.prompt is not None,
        "--replay shows what was measured; leave out the prompt",
    ),
    Conflict(
        "--save_animation with several prompts",
        lambda o: o.save_animation and (o.texts is None or len(o.texts) > 1),
        "--save_animation needs one prompt on the command line; or use --output_dir",
    ),
]
SWEEP = {"--sweep": "--sweep is a command of its own: python studies/sweep.py --output_dir FOLDER"}


def main() -> None:
    generation, args, access, prompt = parse_flags(
        OPTIONS, __doc__, console.PROMPT_HELP, GONE | SWEEP
    )
    texts = check(generation, args, access, prompt)
    if args.replay is not None:
        from diffusion.views import record

        return show(record.load(args.replay), args)

    # torch and transformers take seconds to import; --help and mistakes need neither.
    from diffusion.measure import load_pair, measured, options_for

    writers = load_pair(args.model, args.baseline, args.device, args.dtype, access)

    def compare(text: str) -> None:
        show(measured(writers, generation, args.repeats, text), args)

    if texts is None:
        return console.ask(compare, console.question(writers[0].example))
    for text in texts:
        options_for(writers, generation, text)  # one that is too long is refused before any work
    for text in texts:
        compare(text)


def check(generation, args, access, prompt: str | None) -> list[str] | None:
    """Refuse all that can be refused without a model; returns the prompts, None: ask for them."""
    console.prepare_streams()
    if prompt is not None:
        console.check_text(prompt)
    texts = [] if args.replay is not None else console.given_prompts(prompt, False)
    check_conflicts(CONFLICTS, generation, args, access, prompt=prompt, texts=texts)
    generation.check()
    check_values(args)
    if args.save_animation is not None:
        files.check_animation_path(args.save_animation)
        files.check_apart({"--save_animation": args.save_animation}, {"--replay": args.replay})
    if args.output_dir is not None:
        files.check_output_dir(args.output_dir, False, True, "")  # what is there is kept
    return texts


def show(data: dict, args: CompareOptions) -> None:
    """Keep a measurement, play its film in the terminal, print its numbers, save the film."""
    from diffusion.views import record, terminal
    from diffusion.views.animation import save_film

    film, target = record.film_of_record(data, args.slowdown), args.save_animation
    if args.replay is None:
        name = free_name(Path(args.output_dir or "."))
        if args.output_dir:  # first of all: what comes after may be interrupted
            name.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(name.with_suffix(".json"), record.dump(data) + "\n")
            console.say(f"saved {name.with_suffix('.json')}")
        if target is None and args.animate and not args.json:
            target = name.with_suffix(".gif")
    if args.json:
        console.put(record.dump(data))
    elif args.live and terminal.supports_live(sys.stdout):
        terminal.play(film, sys.stdout)
        console.put(record.table(data))
    else:
        for side in data["sides"]:
            console.put(f"== {side['model']}: {side['method']}\n{side['text']}\n")
        console.put(record.table(data))
    if target is not None:
        save_film(film, target, on_progress=console.progress)
        console.say(f"saved {target}")


def free_name(folder: Path) -> Path:
    """A name without ending for the files of a measurement, which replaces none that are there."""
    names = itertools.chain(["compare"], map("compare-{}".format, itertools.count(2)))
    paths = (folder / name for name in names)
    return next(p for p in paths if not any(p.with_suffix(e).exists() for e in (".json", ".gif")))


if __name__ == "__main__":
    run(main)
