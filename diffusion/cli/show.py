"""A stream of Steps -> a live view, lines of text or JSON, a file, an animation."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from diffusion.cli.console import progress, say
from diffusion.cli.options import WritingOptions
from diffusion.views.animation import save_film, show_film
from diffusion.views.film import film_of
from diffusion.views.frames import Framer
from diffusion.views.terminal import LiveView, supports_live


class Output:
    """Where texts go: standard output as they come, or one file, written whole each time."""

    def __init__(self, script: WritingOptions):
        self.json, self.path, self.written = script.json, script.output, []

    def write(self, record: dict, shown: bool, line: str | None = None) -> None:
        """``shown``: the live view has left this text on the terminal already; ``line``: one line
        of a table, to be written in place of the text."""
        text = record["text"] if line is None else line
        text = json.dumps(record, ensure_ascii=False) if self.json else text
        # In a pipe, a blank line ends a text that may have several lines.
        separator = "\n" if self.json or line is not None else "\n\n"
        if self.path:
            from diffusion.cli.files import write_text

            self.written.append(text)
            write_text(Path(self.path), separator.join(self.written) + "\n")
        elif not shown:
            print(text, end=separator, flush=True)


def write_texts(writer, prompts: list[str], generation, script, output: Output) -> None:
    """Generate ``num_samples`` texts for each prompt, in batches."""
    from diffusion.canvas import prompt_ids

    # A prompt that is too long is refused before the first text is written, not in the middle.
    prompt_ids(writer.tokenizer, prompts, generation.max_len, generation.length)
    jobs = [(p, s) for p in prompts for s in range(script.num_samples)]
    framer = Framer(writer.tokenizer)
    for start in range(0, len(jobs), script.batch_size):
        batch = jobs[start : start + script.batch_size]
        texts, samples = zip(*batch, strict=True)
        write = writer.generate if is_live(script) else writer.record
        step, frames, shown = watch(write(texts, generation, samples), writer, script, framer)
        for row, (prompt, sample) in enumerate(batch):
            record = {"prompt": prompt, **facts(writer, generation, step, row, sample)}
            output.write(record, shown=shown and row == 0)
        if frames:
            animation(frames, writer, generation, script)


def is_live(script) -> bool:
    """Whether the terminal shows a text while it is written; a file or a JSON line is for machines."""
    return script.live and supports_live(sys.stdout) and not (script.json or script.output)


def watch(steps, writer, script, framer: Framer, row: int = 0) -> tuple:
    """Run a generation to its end and show one row of it.

    Returns:
        (the last step, the frames of the row if an animation is wanted, whether the terminal
        shows its text).
    """
    live = is_live(script)
    animate = bool(script.save_animation or script.show)
    frames = []
    with LiveView(sys.stdout, status=writer.status) as view:
        for step in steps:
            if step.index == 0:
                view.hold = frame_time(step)
            if live or animate:
                frame = framer.frame(step, row)
                if live:
                    view.show(frame)
                if animate:
                    frames.append(frame)
    return step, frames, live


def facts(writer, generation, step, row: int, sample: int) -> dict:
    """What is known of one text that was written: its JSON but for what was asked."""
    from diffusion.canvas import written_ids, written_text

    return {
        "text": written_text(writer.tokenizer, step, row),
        "ids": written_ids(step, row),
        "sample": sample,
        **{k: v for k, v in asdict(generation).items() if v is not None},
        "steps": step.index,
        "nfe": int(step.nfe[row]),
        "seconds": round(step.seconds, 6),
        "batch": len(step.ids),
        "model": writer.name,
        "device": str(writer.device),
        "dtype": str(writer.dtype).removeprefix("torch."),
    }


def frame_time(first) -> float:
    """Least seconds between two live frames, so that a fast model can be watched: some five
    seconds for the whole text. Not part of any measured time."""
    steps = first.total or int(first.masked.sum(1).max())
    return 5.0 / max(20, steps)


def animation(frames, writer, generation, script) -> None:
    title = f"{script.model}: {writer.method(generation)}, {frames[-1].nfe} forward passes"
    film = film_of(frames, title, status=writer.status)
    if script.save_animation:
        save_film(film, script.save_animation, on_progress=progress)
        say(f"saved {script.save_animation}")
    if script.show:
        show_film(film)
