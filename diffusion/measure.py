"""Seconds of several ways of writing, side by side in one run."""

import dataclasses
import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from diffusion import hardware
from diffusion.canvas import Step, prompt_ids, written_ids
from diffusion.cli.console import progress
from diffusion.options import COMPARED_SAMPLER, GenerationOptions
from diffusion.views import record
from diffusion.views.frames import Framer

Kept = TypeVar("Kept")


def measure(
    jobs: Sequence[tuple], prompt: str, repeats: int, keep: Callable[[Iterable[Step]], Kept]
) -> list[list[Kept]]:
    """What ``keep`` makes of the Steps of every run, [job][repeat].

    Each job (writer, options) runs alone; nothing is decoded, drawn or printed meanwhile; who goes
    first alternates. One run of each comes before, to warm up, and is not kept.
    """
    runs: list[list[Kept]] = [[] for _ in jobs]
    order, done = list(range(len(jobs))), 0
    for repeat in range(-1, repeats):
        for i in order if repeat % 2 == 0 else reversed(order):
            writer, options = jobs[i]
            gc.collect()
            with hardware.memory_told(
                lambda options=options: (
                    f"one text of {options.length} new tokens; try --length "
                    f"{max(1, options.length // 2)}, or a smaller model"
                )
            ):
                kept = keep(writer.record([prompt], options, [0]))
            if repeat >= 0:
                runs[i].append(kept)
            done += 1
            progress(done, len(jobs) * (repeats + 1), "run")
    return runs


# ---------------------------------------------------------------- two models after one prompt


def options_for(writers: list, generation: GenerationOptions, prompt: str) -> list:
    """What each writer is asked for: the same, and exactly so many new tokens that both have
    room."""
    generation = generation.fitted(min(writer.positions for writer in writers))
    length = generation.length
    if length is None:
        given = [prompt_ids(w.tokenizer, [prompt], generation.max_len)[0] for w in writers]
        length = generation.max_len - max(map(len, given))
    own = (
        writers[0].blocks or writers[0].noise.doubtful
    )  # whose default it is to write many at once
    sampler = generation.sampler or (None if own else COMPARED_SAMPLER)
    diffusion = dataclasses.replace(generation, length=length, sampler=sampler)
    options = [writers[0].resolve(diffusion), diffusion.shared()]
    for writer, own in zip(writers, options, strict=True):
        writer.check(own)
        prompt_ids(writer.tokenizer, [prompt], own.max_len, own.length)
    return options


def median_run(runs: list) -> list:
    """The run with the median time: one that took place, so that its times belong together."""
    return sorted(runs, key=lambda steps: steps[-1].seconds)[(len(runs) - 1) // 2]


def measured(writers: list, generation: GenerationOptions, repeats: int, prompt: str) -> dict:
    """The record of one comparison, see `record`."""
    options = options_for(writers, generation, prompt)
    runs = measure(list(zip(writers, options, strict=True)), prompt, repeats, keep=list)
    same = writers[0].tokenizer.get_vocab() == writers[1].tokenizer.get_vocab()
    sides = []
    for writer, own, all_runs in zip(writers, options, runs, strict=True):
        steps = median_run(all_runs)
        framer = Framer(writer.tokenizer)
        frames = [framer.frame(step) for step in steps]
        sides.append(
            {
                "model": Path(writer.name).name,
                "method": writer.method(own),
                "dtype": str(writer.dtype).removeprefix("torch."),
                "text": frames[-1].text,
                "ids": written_ids(steps[-1], 0),
                "nfe": int(steps[-1].nfe[0]),
                "seconds": [steps[-1].seconds for steps in all_runs],
                "frames": frames,
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
