"""Quality against speed: models and samplers measured on the same text by the same code.

python studies/scoreboard.py --quick --output_dir runs/quick                       # a minute on two cores
python studies/scoreboard.py --dataset_dir data --output_dir runs/board            # WikiText-2; much longer
python studies/scoreboard.py --settings grid.toml --scorer gpt2-large              # your own rows
python studies/scoreboard.py --results runs/board/results.json --markdown report.md
accelerate launch studies/scoreboard.py ...                                        # several GPUs

A run that was stopped resumes when it is started again with the same flags. A file of settings has a
table for each row, and a list as a value makes a row of each element:

    title = "How many steps?"

    [[row]]
    model = "roberta-small-wikitext"
    sampler = "confidence"
    n_steps = [8, 16, 32]
    temperature = [0.8, 1.0]

    [[row]]
    model = "gpt2-small-wikitext"
    conditional = false          # from nothing instead of after prompts
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli import console
from diffusion.cli.flags import parse_flags
from diffusion.cli.options import Access
from diffusion.errors import run
from studies.board import report
from studies.board.options import ScoreOptions
from studies.board.processes import Processes
from studies.board.rows import expand


def main() -> None:
    args, access = parse_flags((ScoreOptions, Access), __doc__.split("\n")[0])
    args.check_flags()
    console.prepare_streams()
    if args.results:
        return show({path: report.load(path) for path in args.results}, args.markdown)
    grid = args.grid()
    rows = expand(grid.tables, [args.model, args.baseline])

    # torch and transformers' models take seconds to import; --help and mistakes need neither.
    from diffusion.autoregressive import load_causal_writer
    from diffusion.generate import load_writer
    from diffusion.hardware import memory_told
    from studies.board.board import check_rows, load_board, measure

    check_rows(rows, access)
    processes = Processes(args.device)
    with memory_told(lambda: f"--batch_size {args.batch_size}; use a smaller one"):
        board = load_board(args, rows, processes, access, load_writer, load_causal_writer)
        measured = measure(board, rows)
    command = shlex.join(["python", "studies/scoreboard.py", *sys.argv[1:]])
    results = {"title": grid.title, "about": grid.about, "command": command, **measured}
    if processes.rank == 0:
        for path in report.write_all(results, Path(args.output_dir)):
            console.say(f"saved {path}")
    processes.end()
    if processes.rank == 0:
        show({str(Path(args.output_dir) / "results.json"): results}, args.markdown)


def show(parts: dict[str, dict], page: str | None) -> None:
    """The tables of several results, in the terminal and on a page of Markdown."""
    console.put("\n\n".join(map(report.plain_text, parts.values())))
    if page is not None:
        report.write_markdown(parts, page)
        console.say(f"saved {page}")


if __name__ == "__main__":
    run(main)
