"""A measured comparison as plain JSON, and back: everything that is needed to draw it again.

Frames are kept as what changes from one to the next, which is small for any number of steps.
"""

import itertools
import json
import math
from collections.abc import Sequence
from itertools import zip_longest

from diffusion.cli.files import read_bytes
from diffusion.errors import UserError
from diffusion.views.frames import Frame, State, changes

FORMAT, VERSION, READABLE = "roberta-diffusion comparison", 3, (1, 2, 3)

LONGEST, MOST_CELLS = 100_000, 20_000_000  # positions of a frame, and of all


def pack(frames: Sequence[Frame]) -> list[dict]:
    """Frames as dicts with ``changes`` [[position, state, piece, confidence], ...] against the
    frame before, each with [guess, strength] behind it where masks remember; ``length`` is the
    number of positions."""
    cells = [
        [
            list(cell)
            for cell in zip_longest(
                (state.value for state in frame.states),
                frame.pieces,
                frame.confidence,
                *([frame.guesses] if any(f.guesses for f in frames) else ()),
            )
        ]
        for frame in frames
    ]
    return [
        {
            "index": frame.index,
            "total": frame.total,
            "nfe": frame.nfe,
            "slots": frame.slots,
            "seconds": frame.seconds,
            "ends": frame.ends,
            "length": len(frame.pieces),
            "changes": changed,
        }
        for frame, changed in zip(frames, changes(cells), strict=True)
    ]


def unpack(data: Sequence[dict]) -> list[Frame]:
    """The frames that `pack` described; ValueError, TypeError, KeyError or IndexError if none."""
    frames, cells, total = [], [], 0
    for entry in data:
        length = entry["length"]
        total += length
        # A damaged number must not fill the memory.
        if not 0 <= length <= LONGEST or total > MOST_CELLS:
            raise ValueError(f"{length} positions")
        cells = cells[:length] + [(State.MASKED, "", None, None)] * (length - len(cells))
        # Version 1 had no confidence, version 2 no guesses.
        for i, state, piece, *more in entry["changes"]:
            if i < 0:
                raise IndexError("a position before the first")
            sure, guess, *_ = [*more, None, None]
            _text(piece)
            cells[i] = (
                State(state),
                piece,
                None if sure is None else _finite(sure),
                None if guess is None else _guess(*guess),
            )
        states, pieces, confidence, guesses = ([cell[k] for cell in cells] for k in range(4))
        numbers = {name: int(entry[name]) for name in ("index", "nfe")}
        frames.append(
            Frame(
                pieces,
                states,
                total=None if entry["total"] is None else int(entry["total"]),
                ends=[int(end) for end in entry["ends"]],
                seconds=_finite(entry["seconds"]),
                confidence=confidence,
                guesses=guesses if any(guesses) else [],
                slots=int(entry.get("slots", 0)),
                **numbers,
            )
        )
    if not frames or frames[0].seconds < 0:
        raise ValueError("it holds no frames, or time before the start")
    if any(a.seconds > b.seconds for a, b in itertools.pairwise(frames)):
        raise ValueError("its seconds fall")
    return frames


def _finite(value) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} seconds")
    return float(value)


def _guess(text, strength) -> tuple[str, float]:
    _text(text)
    if not 0 <= strength <= 1:
        raise ValueError(f"a mask that remembers {strength} of a token")
    return text, float(strength)


def _text(value) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:50]} is no text")
    value.encode("utf-8")  # lone surrogates cannot be shown


def load(path: str) -> dict:
    """A record as compare.py wrote it, with real `Frame`s.

    Raises:
        UserError: it cannot be read, is cut off, or is not such a record or not of this version.
    """
    again = "make it again with compare.py --output_dir"
    try:
        record = json.loads(read_bytes(path))
    except OSError as error:
        raise UserError(f"--replay {path} cannot be read ({error.strerror}); give a file that "
                        "compare.py --output_dir wrote") from None  # fmt: skip
    except (ValueError, RecursionError):
        raise UserError(f"--replay {path} is not complete JSON; {again}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"--replay {path} is not a comparison; give a file that compare.py "
                        "--output_dir wrote")  # fmt: skip
    if record.get("version") not in READABLE:
        raise UserError(
            f"--replay {path} is of version {record.get('version')!r}, and this program reads "
            f"versions {READABLE[0]} to {VERSION}; {again}"
        )
    try:
        for side in record["sides"]:
            side["frames"] = unpack(side["frames"])
            for name in ("model", "method", "text"):
                _text(side[name])
            side["nfe"] = int(side["nfe"])
            side["seconds"] = [_finite(x) for x in side["seconds"]]
        if len(record["sides"]) != 2 or not all(side["seconds"] for side in record["sides"]):
            raise ValueError("it has not two measured sides")
        if record["unit"] not in ("token", "character"):
            raise ValueError("unknown unit")
        record["options"]["length"] = int(record["options"]["length"])
        if not 0 <= record["options"]["length"] <= LONGEST:
            raise ValueError("a length that cannot be")
        for name in ("prompt", "hardware", "processor"):
            _text(record[name])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError):
        raise UserError(f"--replay {path} is damaged; {again}") from None
    return record


def dump(record: dict) -> str:
    """The record as JSON text."""
    sides = [{**side, "frames": pack(side["frames"])} for side in record["sides"]]
    return json.dumps({**record, "sides": sides}, ensure_ascii=False)
