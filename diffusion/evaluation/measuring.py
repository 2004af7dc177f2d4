"""Seconds of several ways of writing, side by side in one run."""

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from diffusion.cli.console import progress
from diffusion.denoise import Step
from diffusion.errors import UserError

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
            try:
                kept = keep(writer.record([prompt], options, [0]))
            except torch.OutOfMemoryError:
                raise UserError(
                    f"the device ran out of memory with one text of {options.length} new tokens; "
                    f"try --length {max(1, options.length // 2)}, or a smaller model"
                ) from None
            if repeat >= 0:
                runs[i].append(kept)
            done += 1
            progress(done, len(jobs) * (repeats + 1), "run")
    return runs
