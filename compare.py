"""Diffusion and GPT-2 write after the same beginning, side by side, on one true clock.

python compare.py "The city was founded in"                 # in the terminal, and compare.gif
python compare.py "The river" --sampler confidence --n_steps 16 --save_animation river.html
python compare.py "The river" --output_dir runs/river       # keeps all times as JSON, too
python compare.py --replay runs/river/compare.json --save_animation river.mp4 --slowdown 4
python compare.py --sweep --output_dir runs/sweep           # seconds against length and steps
"""

import dataclasses
import os
import statistics
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from diffusion.cli import console
from diffusion.cli.flags import parse_flags
from diffusion.cli.prompts import PROMPT_HELP, ask, check_prompt, piped_prompts
from diffusion.errors import UserError, run
from diffusion.evaluation import record
from diffusion.options import COMPARED_SAMPLER, GenerationOptions, PairOptions, at_least
from diffusion.samplers.catalog import STEPPED
from diffusion.views import panes
from diffusion.views.animation import check_animation_path, check_display, save_film, show_film
from diffusion.views.film import Film, Track, check_slowdown, rate_line, synchronized
from diffusion.views.terminal import supports_live

# torch and transformers' models take seconds to import; --help and mistakes need neither.


@dataclass
class CompareOptions(PairOptions):
    repeats: int = field(
        default=5, metadata={"help": "Measured runs of each model, after one to warm up."}
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


# ---------------------------------------------------------------- measuring


def load_writers(args: CompareOptions) -> list:
    """[the diffusion writer, the autoregressive one]"""
    from diffusion.generate import load_writer
    from diffusion.models.causal import load_causal_writer

    console.say(f"RoBERTa Diffusion: loading {args.model} and {args.baseline} ...")

    def load(dtype: str) -> list:
        return [
            load_writer(args.model, None, args.device, dtype),
            load_causal_writer(args.baseline, None, args.device, dtype),
        ]

    writers = load(args.dtype)
    # `auto` goes by the size of a model; a comparison is of two models in one number format.
    return writers if writers[0].dtype == writers[1].dtype else load("float32")


def options_for(writers: list, generation: GenerationOptions, prompt: str) -> list:
    """What each writer is asked for: the same, and exactly so many new tokens that both have
    room."""
    from diffusion.canvas import prompt_ids

    length = generation.length
    if length is None:
        given = [prompt_ids(w.tokenizer, [prompt], generation.max_len)[0] for w in writers]
        length = generation.max_len - max(map(len, given))
    diffusion = dataclasses.replace(generation, length=length)
    options = [diffusion.resolved(), GenerationOptions(**diffusion.shared())]
    for writer, own in zip(writers, options, strict=True):
        writer.check(own)
        prompt_ids(writer.tokenizer, [prompt], own.max_len, own.length)
    return options


def median_run(runs: list) -> list:
    """The run with the median time: one that took place, so that its times belong together."""
    return sorted(runs, key=lambda steps: steps[-1].seconds)[(len(runs) - 1) // 2]


def measured(writers: list, generation: GenerationOptions, args, prompt: str) -> dict:
    """The record of one comparison, see `record`."""
    from diffusion import hardware
    from diffusion.canvas import written_ids, written_text
    from diffusion.evaluation.measuring import measure
    from diffusion.views.frames import Framer

    options = options_for(writers, generation, prompt)
    runs = measure(list(zip(writers, options, strict=True)), prompt, args.repeats, keep=list)
    same = writers[0].tokenizer.get_vocab() == writers[1].tokenizer.get_vocab()
    sides = []
    for writer, own, all_runs in zip(writers, options, runs, strict=True):
        steps = median_run(all_runs)
        framer = Framer(writer.tokenizer)
        sides.append(
            {
                "model": Path(writer.name).name,
                "method": writer.method(own),
                "dtype": str(writer.dtype).removeprefix("torch."),
                "text": written_text(writer.tokenizer, steps[-1], 0),
                "ids": written_ids(steps[-1], 0),
                "nfe": int(steps[-1].nfe[0]),
                "seconds": [steps[-1].seconds for steps in all_runs],
                "frames": [framer.frame(step) for step in steps],
            }
        )
    return {
        "format": record.FORMAT,
        "version": record.VERSION,
        "prompt": prompt,
        "options": {k: v for k, v in asdict(options[0]).items() if v is not None},
        # Tokens of two tokenizers are not of one length, characters are.
        "unit": "token" if same else "character",
        "sides": sides,
        **hardware.record(writers[0].device, writers[0].dtype),
    }


# ---------------------------------------------------------------- showing


def verdict(sides: list[dict], unit: str) -> str:
    """Who was how much faster, by the medians; in characters a second where tokens differ."""
    medians = [middle(side) for side in sides]
    costs = medians
    if unit == "character":
        costs = [s / max(1, written(side)) for s, side in zip(medians, sides, strict=True)]
    fast, slow = sorted((0, 1), key=lambda i: costs[i])
    ratio = costs[slow] / max(costs[fast], 1e-9)
    per = "" if unit == "token" else " per character"
    return f"{sides[fast]['model']} was {ratio:.2f}× faster{per}"


def middle(side: dict) -> float:
    """The seconds of the run that is shown, see `median_run`."""
    return statistics.median_low(side["seconds"])


def written(side: dict) -> int:
    """Characters after the prompt."""
    frame = side["frames"][-1]
    return sum(len(p) for p, s in zip(frame.pieces, frame.states, strict=True) if s != "given")


def film_of_record(data: dict, slowdown: float) -> Film:
    unit = data["unit"]
    tracks = [
        Track(side["frames"], f"{side['model']}: {side['method']}", partial(rate_line, unit=unit))
        for side in data["sides"]
    ]
    n = data["options"]["length"]
    prompt = f"after “{data['prompt']}”" if data["prompt"] else "from nothing"
    title = f"{n} new tokens {prompt}"
    note = data["hardware"]
    if unit == "character":
        note = f"tokenizers differ: compare characters; {note}"
    return synchronized(tracks, title, slowdown, note, verdict(data["sides"], unit))


def table(data: dict) -> str:
    """The numbers as plain text."""
    unit = data["unit"]
    head = f"{'':28}{'seconds (range)':>22}  {unit + 's/s':>12}  {'passes':>6}  tokens/pass"
    lines = [head]
    for side in data["sides"]:
        seconds = max(middle(side), 1e-9)
        spread = f"{seconds:.3f} ({min(side['seconds']):.3f}-{max(side['seconds']):.3f})"
        count = data["options"]["length"] if unit == "token" else written(side)
        lines.append(
            f"{side['model'][:27]:28}{spread:>22}  {count / seconds:12.1f}  {side['nfe']:6}  "
            f"{data['options']['length'] / max(1, side['nfe']):.2f}"
        )
        if max(side["seconds"]) > 1.5 * seconds:
            lines.append(f"{'':28}note: runs differ much; was the machine busy with other work?")
    repeats = len(data["sides"][0]["seconds"])
    lines.append(f"{verdict(data['sides'], unit)} (medians of {repeats}, {data['hardware']}, "
                 f"{data.get('processor', '')})")  # fmt: skip
    return "\n".join(lines)


def present(data: dict, args: CompareOptions) -> None:
    """All that was asked for of one comparison. The measurement is kept first: what comes after
    may be interrupted."""
    film = film_of_record(data, args.slowdown)
    target = args.save_animation
    if args.replay is None:
        name = free_name(Path(args.output_dir or ".") / "compare", (".json", ".gif"))
        if args.output_dir:
            from diffusion.cli.files import write_text

            write_text(name.with_suffix(".json"), record.dump(data) + "\n")
            console.say(f"saved {name.with_suffix('.json')}")
        if target is None and args.animate and not args.json:
            target = name.with_suffix(".gif")
    live = args.live and not args.json and supports_live(sys.stdout)
    if live:
        panes.play(film, sys.stdout)
    if args.json:
        print(record.dump(data), flush=True)
    else:
        if not live:
            for side in data["sides"]:
                print(f"== {side['model']}: {side['method']}\n{side['text']}\n")
        print(table(data), flush=True)
    if target is not None:
        save_film(film, target, on_progress=console.progress)
        console.say(f"saved {target}")
    if args.show:
        show_film(film)


def free_name(path: Path, endings: tuple[str, ...]) -> Path:
    """The path, or with a number if there is such a file with one of the endings: nothing is
    replaced unasked, and files of one measurement have one name."""
    number, free = 1, path
    while any(free.with_suffix(ending).exists() for ending in endings):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


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


def check(generation: GenerationOptions, args: CompareOptions, prompt: str | None) -> None:
    """Everything that can be refused before a model is loaded."""
    if args.replay is not None:
        only(REPLAYS, "--replay shows a measurement that was made", generation, args, prompt)
    elif args.sweep:
        only(SWEEPS, "--sweep has its own prompt, lengths and steps, and draws no animation",
             generation, args, prompt)  # fmt: skip
        generation.sampler = generation.sampler or "confidence"
        if generation.sampler not in STEPPED:
            raise UserError(f"--sweep needs a sampler with a number of steps: {', '.join(STEPPED)}")
    generation.sampler = generation.sampler or COMPARED_SAMPLER
    generation.check()
    at_least("--repeats", args.repeats, 1)
    check_slowdown(args.slowdown)
    if args.sweep and args.output_dir is None:
        raise UserError("--sweep writes sweep.png and sweep.json; say where by --output_dir")
    if prompt is not None:
        check_prompt(prompt)
    if args.save_animation is not None:
        check_animation_path(args.save_animation)
    if args.show:
        check_display()
    folder = Path(args.output_dir or ".")
    if args.output_dir is not None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output_dir {folder} is a file; give a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {folder} cannot be made ({error.strerror})") from None
    writes = args.output_dir or (args.animate and not (args.json or args.save_animation))
    if writes and not os.access(folder, os.W_OK):
        raise UserError(
            f"the folder {folder.absolute()} cannot be written; give another by --output_dir, or "
            "use --no_animate"
        )


def main() -> None:
    generation, args, prompt = parse_flags(
        (GenerationOptions, CompareOptions), __doc__.split("\n")[0], PROMPT_HELP
    )
    check(generation, args, prompt)
    console.prepare_streams()
    if args.replay is not None:
        return present(record.load(args.replay), args)
    asks = prompt is None and not args.sweep and sys.stdin.isatty()
    prompts = [] if asks or args.sweep else [prompt] if prompt else piped_prompts()
    if asks and (args.save_animation or args.show):
        raise UserError(
            "--save_animation and --show are for one prompt; give it on the command line"
        )
    if len(prompts) > 1 and args.save_animation:
        raise UserError("--save_animation names one file; with several prompts use --output_dir")

    writers = load_writers(args)
    if args.sweep:
        from diffusion.evaluation.sweep import sweep

        return sweep(writers, generation, args.repeats, Path(args.output_dir))

    def compare(text: str) -> None:
        present(measured(writers, generation, args, text), args)

    if asks:
        return ask(compare, generation.prefix_len)
    for text in prompts:
        options_for(writers, generation, text)  # one that is too long is refused before any work
    for text in prompts:
        compare(text)


if __name__ == "__main__":
    run(main)
