"""A measured comparison, see `record`, as a film and as numbers."""

import statistics
from functools import partial
from pathlib import Path

from diffusion.views.film import Film, Track, rate_line, synchronized
from diffusion.views.tables import aligned, wrapped


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
    unit, length, notes = data["unit"], data["options"]["length"], []
    rows = [["", "seconds (range)", f"{unit}s/s", "passes", "tokens/pass"]]
    for side in data["sides"]:
        seconds = max(middle(side), 1e-9)
        spread = f"{seconds:.3f} ({min(side['seconds']):.3f}-{max(side['seconds']):.3f})"
        count = length if unit == "token" else written(side)
        a_pass = f"{length / max(1, side['nfe']):.2f}"
        rows.append([side["model"], spread, f"{count / seconds:.1f}", str(side["nfe"]), a_pass])
        if max(side["seconds"]) > 1.5 * seconds:
            notes.append(
                f"note: runs of {side['model']} differ much; was the machine busy with other work?"
            )
    repeats = len(data["sides"][0]["seconds"])
    machine = f"{data['hardware']}, {data.get('processor', '')}"
    said = f"{verdict(data['sides'], unit)} (medians of {repeats}, {machine})"
    return "\n".join([*aligned(rows, 1), *wrapped("\n".join([*notes, said]))])


def free_name(path: Path, endings: tuple[str, ...]) -> Path:
    """The path, or with a number if there is such a file with one of the endings: nothing is
    replaced unasked, and files of one measurement have one name."""
    number, free = 1, path
    while any(free.with_suffix(ending).exists() for ending in endings):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
