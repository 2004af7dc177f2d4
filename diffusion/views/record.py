"""A measured comparison: as JSON and back, as a film, and as numbers.

Frames are kept as what changes from one to the next, which is small for any number of steps.
"""

import io
import itertools
import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion.cli.reading import check_ending, named, read_text
from diffusion.errors import UserError, cause
from diffusion.views.film import Film, Track, synchronized
from diffusion.views.frames import Frame, State, changes, token_line
from diffusion.views.terminal import WIDTH

FORMAT, VERSION = "roberta-diffusion comparison", 3
LONGEST = 100_000  # positions of a frame: a damaged number must not fill the memory
NUMBERS = ("index", "total", "nfe", "slots", "seconds", "ends")  # of a frame, kept as they are


def pack(frames: Sequence[Frame]) -> list[dict]:
    """Frames as dicts with ``changes`` [[position, state, piece, confidence], ...] against the frame
    before; ``length`` is the number of positions."""
    rows = [list(itertools.zip_longest(f.states, f.pieces, f.confidence)) for f in frames]
    return [
        {name: getattr(frame, name) for name in NUMBERS} | {"length": len(row), "changes": changed}
        for frame, row, changed in zip(frames, rows, changes(rows), strict=True)
    ]


def unpack(data: Sequence[dict]) -> list[Frame]:
    """The frames that `pack` described; ValueError, TypeError or LookupError if it described none."""
    frames, cells = [], []
    for entry in data:
        length = entry["length"]
        if length > LONGEST:
            raise ValueError(f"{length} positions")
        cells = cells[:length] + [(State.MASKED, "", None)] * (length - len(cells))
        for i, state, piece, confidence, *_ in entry["changes"]:  # some had a fifth cell
            cells[i] = State(state), str(piece), confidence and float(confidence)
        states, pieces, known = ([cell[k] for cell in cells] for k in range(3))
        frames.append(Frame(
            pieces, states, int(entry["index"]), entry["total"] and int(entry["total"]),
            int(entry["nfe"]), float(entry["seconds"]), [int(end) for end in entry["ends"]],
            known, int(entry["slots"]),
        ))  # fmt: skip
    times = [0.0, *(frame.seconds for frame in frames)]
    if not all(before <= after for before, after in itertools.pairwise(times)):
        raise ValueError("its seconds fall")
    return frames


def load(path: str) -> dict:
    """A record as compare.py wrote it, with real `Frame`s.

    Raises:
        UserError: it cannot be read, is damaged, or is not such a record or of another version.
    """
    wrote = "give a file that compare.py --output_dir wrote"
    check_ending(path, (".json",), f"--replay {path}")
    try:
        with named("--replay"):
            record = json.loads(read_text(Path(path)))
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise UserError(f"--replay {path} is not a comparison; {wrote}")
        if record["version"] != VERSION:
            raise UserError(
                f"--replay {path} is of version {record['version']!r}, and this program reads "
                f"version {VERSION}; record it anew with compare.py --output_dir"
            )
        for side in record["sides"]:
            side |= {name: str(side[name]) for name in ("model", "method", "text")}
            side["frames"] = unpack(side["frames"])
        table(record)
        film_of_record(record, 0.01)
    except (
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
    ) as error:  # fmt: skip
        raise UserError(f"--replay {path} is damaged ({cause(error)}); {wrote}") from None
    return record


def dump(record: dict) -> str:
    """The record as JSON text."""
    sides = [{**side, "frames": pack(side["frames"])} for side in record["sides"]]
    return json.dumps({**record, "sides": sides}, ensure_ascii=False)


# ---------------------------------------------------------------- as a film, and as numbers


def median(side: dict) -> float:
    """The seconds of the run that is shown, see `measure.median_run`."""
    return statistics.median_low(side["seconds"])


def count(data: dict, side: dict) -> int:
    """What a side wrote after the prompt, in the unit of the comparison."""
    written = {"token": data["options"]["length"], "character": len(side["frames"][-1].added())}
    return written[data["unit"]]


def verdict(data: dict) -> str:
    """Which was how much faster, by the medians; in characters a second where tokens differ."""
    fast, slow = sorted(data["sides"], key=lambda side: median(side) / max(1, count(data, side)))
    ratio = median(slow) * max(1, count(data, fast)) / max(1, count(data, slow))
    per = "" if data["unit"] == "token" else " per character"
    return f"{fast['model']} was {ratio / max(median(fast), 1e-9):.2f}× faster{per}"


def film_of_record(data: dict, slowdown: float) -> Film:
    """Both sides on one clock."""
    line, note = partial(token_line, unit=data["unit"]), data["hardware"]
    tracks = [
        Track(side["frames"], f"{side['model']}: {side['method']}", line) for side in data["sides"]
    ]
    prompt = f"after “{data['prompt']}”" if data["prompt"] else "from nothing"
    title = f"{data['options']['length']} new tokens {prompt}"
    if data["unit"] == "character":
        note = f"tokenizers differ: compare characters; {note}"
    return synchronized(tracks, slowdown, note, title=title, verdict=verdict(data))


def table(data: dict) -> str:
    """The numbers as plain text."""
    length, notes = data["options"]["length"], []
    grid = Table("", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("seconds (range)", f"{data['unit']}s/s", "passes", "tokens/pass"):
        grid.add_column(head, justify="right", no_wrap=True)
    for side in data["sides"]:
        name, seconds = side["model"], max(median(side), 1e-9)
        low, high = min(side["seconds"]), max(side["seconds"])
        rate, a_pass = f"{count(data, side) / seconds:.1f}", f"{length / max(1, side['nfe']):.2f}"
        times = f"{seconds:.3f} ({low:.3f}-{high:.3f})"
        grid.add_row(Text(name, overflow="fold"), times, rate, str(side["nfe"]), a_pass)
        if high > 1.5 * seconds:
            notes.append(f"note: runs of {name} differ much; was the machine busy with other work?")
    machine = f"{data['hardware']}, {data.get('processor', '')}"
    said = f"{verdict(data)} (medians of {len(data['sides'][0]['seconds'])}, {machine})"
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(grid, *map(Text, [*notes, said]), sep="\n")
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
