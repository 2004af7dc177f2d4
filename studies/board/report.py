"""What a scoreboard shows, made from its results.json: tables, a CSV, and `pictures`."""

import csv
import io
import json
import os
import re
import shlex
import textwrap
from pathlib import Path
from urllib.parse import quote

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion.cli.files import write_atomically, write_text
from diffusion.cli.reading import check_ending, named, read_text
from diffusion.errors import UserError, printable
from diffusion.views.terminal import WIDTH
from studies.board.pictures import PICTURES
from studies.board.results import (
    FORMAT,
    METRICS,
    OTHERS,
    QUALITY,
    VERSION,
    dump,
    estimate,
    machine_line,
    measured,
)


def load(path: str) -> dict:
    """The results that scoreboard.py wrote.

    Raises:
        UserError: it cannot be read, is damaged, or of another format or version.
    """
    check_ending(path, (".json",), f"--results {path}")
    try:
        with named("--results"):
            data = json.loads(read_text(Path(path)))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UserError(f"--results {path} is not of a scoreboard; give a results.json")
        if data.get("version") != VERSION:
            raise UserError(
                f"--results {path} is of version {data.get('version')!r}, and this program reads "
                f"version {VERSION}; run the scoreboard again"
            )
        data = json.loads(dump(data))  # no NaN, which a page would not show
        for shown in (markdown({path: data}), as_csv(data), plain_text(data)):
            shown.encode("utf-8")  # lone surrogates cannot be shown
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        raise UserError(f"--results {path} is damaged; run the scoreboard again") from None
    return data


# ---------------------------------------------------------------- tables


def likelihood_table(data: dict) -> list[list[str]]:
    head = [
        "model",
        "estimate",
        "prefix",
        "nats per token",
        "nats per byte",
        "PPL per token",
        "tokens",
    ]
    # A difference is there where two models have the same tokens.
    paired = any(entry["more"][0] is not None for entry in data["likelihood"])
    rows = [head + [f"nats per token minus {data['likelihood'][0]['more_than']}"] * paired]
    for entry in data["likelihood"]:
        kind = "exact NLL"
        if entry["estimator"] != "exact":
            kind = f"bound, {entry['estimator']}, {entry['draws']} draws"
            kind += ", two passes" * bool(entry.get("two_pass"))
        names = "nats_per_token", "nats_per_byte", "perplexity", *["more"] * paired
        values = [str(estimate(entry[name])) for name in names]
        values.insert(3, f"{entry['tokens']:,}")
        rows.append([entry["model"], kind, str(entry["prefix_len"]), *values])
    return rows


def generation_table(data: dict, conditional: bool, metrics: dict) -> list[list[str]]:
    head = ["model", "how", "seed", *(name for name, _ in metrics.values())]
    rows = []
    for row in data["rows"]:
        if row["conditional"] == conditional:
            values = [str(measured(row, m)) for m in metrics]
            rows.append([row["model"], row["method"], str(row["seed"]), *values])
    return [head, *rows]


def paired_table(data: dict) -> list[list[str]]:
    head = ["model", "how", "seed", f"nats per token minus {data['paired_with']}"]
    return [head, *([*p["name"], str(estimate(p["difference"]))] for p in data["paired"])]


def sections(data: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, sentences, table) of each part of the report."""
    texts, scorer = data["data"], data["scorer"]
    n, prompt, length = data["samples"], data["prompt_len"], data["length"]
    judged = f"Scorer: {scorer['name']}."
    if scorer["compared"]:
        judged += (
            f" It is one of the compared models ({scorer['compared']}), so these values favour it and "
            "models like it."
        )
    notes, out = data["notes"], []
    if data["likelihood"]:
        about = (
            f"{texts['name']}, {texts['split']} split, in blocks; ± is half a 95 % interval over blocks. "
            "The bound is an upper bound of the NLL; the first `prefix` tokens of a block are context. "
            "Compare models of different tokenizers per byte; differences are taken block by block."
        )
        out.append(("Likelihood", [about], likelihood_table(data)))
    prompts = f"prompts of {prompt} tokens" if prompt else "first sentences"
    of = f"{n} {prompts} of the {texts['split']} split, {length} new tokens"
    kinds = {True: ("After prompts", of),
             False: ("From nothing", f"{n} texts from nothing, {prompt + length} tokens")}  # fmt: skip
    for conditional, (title, what) in kinds.items():
        if not any(row["conditional"] == conditional for row in data["rows"]):
            continue
        about = f"{what}, in batches of {data['batch_size']}. ± is half a 95 % interval over texts; `~` has none."
        out.append((title, [about, judged, *notes], generation_table(data, conditional, QUALITY)))
        out.append(("", [], generation_table(data, conditional, OTHERS)))
        notes = []  # once
    if data["paired"]:
        about = f"Nats per token under the scorer, prompt by prompt, minus those of {data['paired_with']}."
        out.append(("Paired differences", [about], paired_table(data)))
    return out


def first_text(row: dict) -> str:
    """The row's first text with its prompt in brackets, on one line."""
    first = row["first"]
    prompt = f"[{first['prompt']}]" if first["prompt"] else ""
    return literal(prompt + first["text"]) + (" (end)" if first["finished"] else "")


def literal(text: str) -> str:
    """On one line, and nothing in it is Markdown."""
    return re.sub(r"([\\`*_~#$\[\]])", r"\\\1", " ".join(text.split()))


def plain(markdown: str) -> str:
    """Without HTML, and without what could steer a terminal."""
    return printable(markdown).replace("<", "&lt;")


def samples_table(data: dict, conditional: bool) -> list[list[str]]:
    rows = [row for row in data["rows"] if row["conditional"] == conditional and row["first"]]
    return [["model", "how", "text"], *([r["model"], r["method"], first_text(r)] for r in rows)]


def examples(data: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """More `sections`, with unselected texts."""
    out = []
    for conditional, what in ((True, "after the prompt in brackets"), (False, "from nothing")):
        table = samples_table(data, conditional)
        if len(table) > 1:
            title = "" if out else "First texts"
            out.append(
                (title, [f"Number 0 of each row, {what}; (end): it ended by itself."], table)
            )
    return out


def wrapped(text: str) -> list[str]:
    """The lines of a text, those that are too long in several parts."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]


def aligned(table: list[list[str]], names: int) -> list[str]:
    """The lines of a table whose first row is its head: the first ``names`` columns hold words, to
    the left, the others numbers, to the right. Long heads and names, of 24 columns or more, take
    several lines, and columns that still do not fit follow below, beside the names again."""
    widths = []
    for i, (head, *cells) in enumerate(zip(*table, strict=True)):
        words = [head] if i < names else head.split()
        widths.append(2 + max(map(cell_len, [*words, *cells]), default=1))
    room = WIDTH + 2 - sum(min(width, 26) for width in widths[:names])
    parts: list[list[int]] = [[]]
    for i in range(names, len(widths)):
        if parts[-1] and sum(widths[j] for j in [*parts[-1], i]) > room:
            parts.append([])
        parts[-1].append(i)
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    for part in parts if table else ():
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i in [*range(names), *part]:
            number = {"justify": "right", "width": widths[i] - 2} if i in part else {}
            grid.add_column(Text(table[0][i]), overflow="fold", **number)
        for row in table[1:]:
            grid.add_row(*(Text(row[i]) for i in [*range(names), *part]))
        console.print(grid)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def plain_text(data: dict) -> str:
    """The tables for a terminal."""
    lines = [*wrapped(f"=== {data['title']}"), *wrapped(data["about"]), ""]
    for title, sentences, table in sections(data):
        lines += [f"== {title}"] if title else []
        lines += [line for sentence in sentences for line in wrapped(sentence)]
        names = 2 if table and table[0][1] in ("how", "estimate") else 1
        lines += [*aligned(table, names), ""]
    return "\n".join([*lines, *wrapped(machine_line(data))])


def markdown_table(table: list[list[str]]) -> list[str]:
    """The lines of a table, of which the first row is the head."""
    head, *rows = (
        "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in row) + " |" for row in table
    )
    return [head, "|---" * len(table[0]) + "|", *rows]


def markdown(parts: dict[str, dict], target: str = "tables.md") -> str:
    """A page of the results of several runs, path of the results.json -> its content, with the
    pictures that lie beside each; ``target`` is where the page will be."""
    command = shlex.join(
        ["python", "studies/scoreboard.py", "--results", *parts, "--markdown", target]
    )
    lines = ["# Tables\n", f"Generated by `{command}`; do not edit.\n"]
    for path, data in parts.items():
        lines += [
            f"## {plain(literal(data['title']))}\n",
            *([plain(data["about"]) + "\n"] if data["about"] else []),
        ]
        command = printable(data["command"]).replace("`", "'")
        lines += [f"Measured by `{command}` on {plain(machine_line(data))}.\n"]
        for title, sentences, table in [*sections(data), *examples(data)]:
            lines += [f"### {title}\n"] if title else []
            lines += [plain(" ".join(sentences)) + "\n"] if sentences else []
            if table:
                lines += [*markdown_table(table), ""]
        for name, picture in PICTURES.items():
            file = Path(path).with_name(name)
            if file.exists():
                place = Path(os.path.relpath(file, Path(target).parent)).as_posix()
                lines += [f"![{picture.title}]({quote(place)})\n"]
    meanings = [f"- **{name}**: {meaning}" for name, meaning in METRICS.values()]
    return "\n".join([*lines, "## What the columns mean\n", *meanings, ""])


def as_csv(data: dict) -> str:
    """One line a row of the generation tables, with all intervals."""
    out = io.StringIO()
    names = [f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "how", "conditional", "seed", "samples", "scorer", *names])
    for row in data["rows"]:
        numbers = [v for m in METRICS for v in row["metrics"].get(m, [None] * 3)]
        writer.writerow(
            [row["model"], row["method"], row["conditional"], row["seed"], row["samples"],
             data["scorer"]["name"], *("" if v is None else v for v in numbers)]
        )  # fmt: skip
    return out.getvalue()


# ---------------------------------------------------------------- files


def write_all(data: dict, folder: Path) -> list[Path]:
    """results.json, results.csv and the pictures there is something for; returns their paths."""
    data = json.loads(dump(data))
    files: list[tuple[str, bytes]] = [
        ("results.json", dump(data).encode()),
        ("results.csv", as_csv(data).encode()),
    ]
    files += [(name, drawn) for name, picture in PICTURES.items() if (drawn := picture.draw(data))]
    for name, content in files:
        write_atomically(folder / name, content)
    return [folder / name for name, _ in files]


def write_markdown(parts: dict[str, dict], path: str) -> None:
    parts = {name: json.loads(dump(data)) for name, data in parts.items()}
    write_text(Path(path), markdown(parts, path))
