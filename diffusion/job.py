"""A stream of Steps -> a live view, lines of text or JSON, a file, an animation."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from diffusion import hardware
from diffusion.canvas import Step, prompt_ids, written_ids
from diffusion.cli import console
from diffusion.cli.console import say
from diffusion.cli.files import unfinished
from diffusion.cli.options import WritingOptions
from diffusion.options import SamplingOptions
from diffusion.proposal import MIN_TEMPERATURE
from diffusion.views.film import film_of
from diffusion.views.frames import Frame, Framer, status_of
from diffusion.views.terminal import LiveView, supports_live


class Output(contextlib.ExitStack):
    """Where texts go: standard output, or one file. That holds each text as soon as it is finished, and
    takes its name at the end of the ``with`` that is around all, also where that is an error."""

    def __init__(self, script: WritingOptions):
        super().__init__()
        self.json, self.path, self.file, self.between = script.json, script.output, None, ""

    def __exit__(self, *exc) -> None:
        super().__exit__(None, None, None)

    def write(self, record: dict, shown: bool = False, end: str = "\n") -> None:
        """``shown``: the live view has left this text on the terminal already; ``end``: a blank line
        after a text, which may have several lines."""
        text = json.dumps(record, ensure_ascii=False) if self.json else record["text"]
        end = "" if self.json else end
        if self.path:
            if self.file is None:
                place = self.enter_context(unfinished(Path(self.path)))
                how = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
                self.file = self.enter_context(open(place, "w", **how))  # noqa: SIM115
            self.file.write(f"{self.between}{text}\n")
            self.file.flush()
            self.between = end
        elif not shown:
            console.put(text, f"\n{end}")


@dataclass
class Job:
    """A writer, the options it writes with, and where its texts go."""

    writer: object
    requested: SamplingOptions  # as the user gave them; `generation` has defaults filled in
    script: WritingOptions
    asks: bool = False  # a person sits at the loop: Ctrl-C ends a text
    last: dict | None = None  # the record of the last text that was put out

    def __post_init__(self):
        self.output = Output(self.script)
        self.framer = Framer(self.writer.tokenizer)
        self.ready()

    def ready(self, left_to_right: bool = True) -> SamplingOptions:
        """The options for the next canvas."""
        self.generation = self.writer.resolve(self.requested, left_to_right)
        return self.generation

    @classmethod
    def load(
        cls, loader: Callable, requested: SamplingOptions, script: WritingOptions, asks: bool
    ) -> Self:
        """Load the model of ``script``, check the options against it, and say what is going on."""
        console.prepare_streams()
        started = time.monotonic()
        say(f"RoBERTa Diffusion: loading {script.model} ...")
        writer = loader(script.model, script.tokenizer, script.device, script.dtype)
        if writer.soft is not None and not requested.soft_masking:
            writer = replace(writer, denoiser=writer.denoiser.changed(soft=None))
        job = cls(writer, requested, script, asks)
        writer.check(job.generation)
        seconds, where = time.monotonic() - started, hardware.describe(writer.device, writer.dtype)
        how = writer.method(job.generation)
        say(f"ready in {seconds:.1f} s on {where}; {how}, seed {job.generation.seed}")
        for note in writer.notes(job.generation):
            say(f"note: {note}")
        return job

    def used(self) -> str:
        """What takes memory, and what to do."""
        sizes = f"--batch_size {self.script.batch_size} and --max_len {self.generation.max_len}"
        return f"{sizes}; use less of either"

    @property
    def live(self) -> bool:
        """Whether the terminal shows a text while it is written; files and JSON are for machines."""
        aside = self.script.json or self.script.output
        return self.script.live and supports_live(sys.stdout) and not aside

    def chunks(self, items: Iterable, size: int | None = None) -> list:
        """The items in batches."""
        items, size = list(items), size or self.script.batch_size
        return [items[i : i + size] for i in range(0, len(items), size)]

    def batches(self, texts: list[str], first: int = 0) -> Iterator[tuple[Sequence, Sequence]]:
        """(prompts, sample numbers) of each batch: ``num_samples`` texts for each prompt, numbered
        from ``first``; a prompt that is too long is refused before any."""
        options = self.ready()
        prompt_ids(self.writer.tokenizer, texts, options.max_len, options.length)
        if note := self.writer.far_prompt(texts):
            say(f"note: {note}")
        if self.writer.autoregressive and any(text.endswith(" ") for text in texts):
            say("note: a prompt ends in a space, and words begin with their own; leave it out")
        numbers = range(first, first + self.script.num_samples)
        for batch in self.chunks((prompt, n) for prompt in texts for n in numbers):
            yield tuple(zip(*batch, strict=True))

    def show(
        self, steps: Iterable[Step], known: list, samples: Sequence[int], row: int | None = None
    ) -> list[str]:
        """Run a generation, put out its texts, or only that of ``row``, and return them.

        Args:
            known: for each text the beginning of its record, or a function (last step, row, facts
                of what was written) -> record.
            samples: their numbers.
        """
        step, frames = self._watch(steps, row or 0)
        texts = []
        for i in range(len(step.ids)) if row is None else [row]:
            facts = self._facts(step, i, samples[i])
            record = known[i](step, i, facts) if callable(known[i]) else {**known[i], **facts}
            self.output.write(record, shown=self.live and i == (row or 0))
            texts.append(record["text"])
            self.last = record
        if len(texts) > 1 == len(set(texts)) and self.generation.temperature < MIN_TEMPERATURE:
            say("note: these samples are one and the same text; raise --temperature for others")
        if path := self.script.save_animation:
            from diffusion.views.animation import save_film  # matplotlib takes a second

            how, nfe = self.writer.method(self.generation), frames[-1].nfe
            title = f"{self.script.model}: {how}, {nfe} forward passes"
            film = film_of(frames, title, status=status_of(self.writer))
            save_film(film, path, on_progress=console.progress)
            say(f"saved {path}")
        return texts

    def _watch(self, steps: Iterable[Step], row: int) -> tuple[Step, list[Frame]]:
        """(the last step of a generation, the frames of a row if they are shown or saved)."""
        frames, step, live = [], None, self.live
        with LiveView(sys.stdout, status=status_of(self.writer)) as view:
            try:
                for step in steps:
                    if step.index == 0:  # a fast model takes some five seconds, to be watched
                        view.hold = 5.0 / max(20, step.total or int(step.masked.sum(1).max()))
                    if live or self.script.save_animation:
                        frames.append(self.framer.frame(step, row))
                    if live:
                        view.show(frames[-1])
            except KeyboardInterrupt:
                if step is None or not self.asks:
                    raise
                say("\nstopped here")
        return step, frames

    def _facts(self, step: Step, row: int, sample: int) -> dict:
        """The facts of one text that was written, for its JSON."""
        written = int((~step.frozen[row] & ~step.masked[row]).sum())
        return {
            "text": self.framer.frame(step, row).text,
            "ids": written_ids(step, row),
            "sample": sample,
            **{k: v for k, v in asdict(self.generation).items() if v is not None},
            "steps": step.index,
            "nfe": int(step.nfe[row]),
            "slots": int(step.slots[row]),
            "tokens_per_pass": round(written / max(1, int(step.nfe[row])), 3),
            "seconds": round(step.seconds, 6),
            "batch": len(step.ids),
            "model": self.writer.name,
            "device": str(self.writer.device),
            "dtype": str(self.writer.dtype).removeprefix("torch."),
        }
