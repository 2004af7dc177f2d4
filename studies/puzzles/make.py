"""Write puzzles for training and tests, and their tokenizer.

    python studies/puzzles/make.py sudoku6 runs/sudoku6 --train 200000 --test 1000
    python studies/puzzles/make.py --template runs/sudoku6/test.jsonl --number 3    # for inference.py --infill

The folder gets ``train.jsonl`` for ``finetune.py --infill``, the same puzzles as ``train-gpt2.jsonl`` (the puzzle,
an empty line, then what is written after it), ``test.jsonl`` and ``tokenizer/``. The kinds are in `boards.py`.
"""

import argparse
import itertools
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.cli.checks import within
from diffusion.cli.console import say
from diffusion.cli.files import write_text
from diffusion.data.corpus import load_records
from diffusion.data.report import Report
from diffusion.errors import UserError, run
from diffusion.models.tokenizers import train_tokenizer
from studies.puzzles.boards import BLANK, KINDS, puzzles

BETWEEN = "\n\n"  # a puzzle and what GPT-2 writes after it


def parts(puzzle: str, solved: str) -> list[str]:
    """Given characters and those of blanks in turns, the first given."""
    pairs = zip(puzzle, solved, strict=True)
    runs = itertools.groupby(pairs, key=lambda pair: pair[0] == BLANK)
    found = [(blank, "".join(c for _, c in chars)) for blank, chars in runs]
    return [""] * found[0][0] + [text for _, text in found]


def record(name: str, puzzle: str, solved: str) -> dict:
    return {"kind": name, "puzzle": puzzle, "parts": parts(puzzle, solved)}


def tokenizer_of(kind):
    """A token for each character that a puzzle may have, and RoBERTa's special ones."""
    return train_tokenizer([kind.symbols + BLANK + ",\n"], 0, all_bytes=False)


def template(puzzle: str) -> str:
    """A puzzle as --infill of inference.py reads it."""
    return re.sub(re.escape(BLANK) + "+", lambda run: f"<mask:{len(run[0])}>", puzzle)


def read_puzzles(path: str, most: int | None = None) -> list[tuple[str, str]]:
    """(its kind, the puzzle) of the first rows of a ``test.jsonl``.

    Raises:
        UserError: it cannot be read, or is another file.
    """
    columns = (
        load_records(
            path,
            "test",
            str,
            "puzzle",
            "puzzles",
            '{"kind": ..., "puzzle": ...}',
            reader="this script",
            column=c,
            report=Report(),
        )
        for c in ("kind", "puzzle")
    )
    found = list(zip(*columns, strict=True))[:most]
    if unknown := {kind for kind, _ in found} - set(KINDS):
        raise UserError(
            f"{path} has a puzzle of kind {min(unknown)!r}; known are {', '.join(KINDS)}"
        )
    return found


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--template", metavar="FILE", help="print puzzle --number of a test.jsonl "
                        "for --infill, and end")  # fmt: skip
    parser.add_argument("--number", type=int, default=1, help="of that file [1]")
    parser.add_argument("--train", type=int, default=100_000, help="puzzles [100000]")
    parser.add_argument("--test", type=int, default=1000, help="puzzles [1000]")
    parser.add_argument("--copies", type=int, default=8, help="of a training puzzle, renamed [8]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("train", "test", "copies"):
        within(f"--{name}", getattr(args, name), 1, None)
    if args.template:
        found = read_puzzles(args.template)
        within("--number", args.number, 1, len(found))
        print(template(found[args.number - 1][1]))
        return
    if args.folder is None:
        raise UserError(f"give a kind ({', '.join(KINDS)}) and a folder, or --template")
    kind = KINDS[args.kind]
    args.folder.mkdir(parents=True, exist_ok=True)
    tokenizer_of(kind).save_pretrained(args.folder / "tokenizer")
    found = list(puzzles(kind, True, args.test, args.seed))
    write_text(args.folder / "test.jsonl", lines(record(args.kind, *pair) for pair in found))
    found = list(puzzles(kind, False, args.train, args.seed, args.copies))
    write_text(args.folder / "train.jsonl", lines(record(args.kind, *pair) for pair in found))
    rows = ({"parts": [puzzle + BETWEEN, kind.answer(solved)]} for puzzle, solved in found)
    write_text(args.folder / "train-gpt2.jsonl", lines(rows))
    puzzle, solved = found[0]
    after = len(puzzle + BETWEEN + kind.answer(solved))
    say(f"{args.folder}: --block_size {1 + len(puzzle)} for RoBERTa, {1 + after} for GPT-2")


if __name__ == "__main__":
    run(main)
