"""Quality against speed: models and samplers measured on the same text with the same code.

python scoreboard.py --quick --dataset_dir data --output_dir runs/quick    # a minute on two cores
python scoreboard.py --output_dir runs/board                               # much longer
python scoreboard.py --settings grid.toml --scorer gpt2-large              # your own rows
python scoreboard.py --results runs/board/results.json --markdown report.md
accelerate launch scoreboard.py ...                                        # several GPUs

A run that was stopped goes on where it was when it is started again with the same flags. A file of
settings has a table for each row, and a list as a value makes a row of each element:

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

import dataclasses
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from diffusion.cli import console
from diffusion.cli.flags import parse_flags
from diffusion.errors import UserError, run
from diffusion.evaluation import report
from diffusion.evaluation.processes import Processes
from diffusion.evaluation.rows import REAL, SHUFFLED, Grid, Row, Store, expand, read_grid
from diffusion.options import PairOptions, at_least, check_values

# torch and transformers' models take seconds to import; --help and mistakes need neither.

# What --quick and the default run measure, where a flag does not say otherwise.
SIZES = {
    True: {"num_samples": 64, "length": 32, "likelihood_blocks": 16},
    False: {"num_samples": 500, "length": 64, "likelihood_blocks": 128},
}
# A scorer should be none of the compared models, and better than them. gpt2-large takes longer
# than four minutes on two cores, so --quick has a small one that has read other text.
SCORER, QUICK_SCORER = "gpt2-large", "gpt2-small-books"


@dataclass
class ScoreOptions(PairOptions):
    settings: str | None = field(
        default=None, metadata={"help": "A TOML file of rows, instead of the two models above."}
    )
    quick: bool = field(default=False, metadata={"help": "A few rows of few and short texts."})
    scorer: str | None = field(
        default=None,
        metadata={"help": "The causal LM that judges: folder, name in weights/, or hub name. "
                  f"Default: {SCORER}; with --quick {QUICK_SCORER}."},
    )  # fmt: skip
    dataset: str = field(
        default="wikitext-2",
        metadata={"help": "Where prompts and real text come from, as in finetune.py."},
    )
    dataset_dir: str | None = field(
        default=None, metadata={"help": "Folder with local WikiText-2 files (else: the hub)."}
    )
    split: str = field(
        default="test",
        metadata={"help": "The split of prompts and likelihoods; what MAUVE compares with comes "
                  "from the other one.", "choices": ["validation", "test"]},
    )  # fmt: skip
    num_samples: int | None = field(
        default=None, metadata={"help": "Texts of each row; default 500, with --quick 64."}
    )
    prompt_len: int = field(default=16, metadata={"help": "Tokens of a prompt."})
    length: int | None = field(
        default=None,
        metadata={"help": "New tokens of a text, if it does not end before; default 64, with "
                  "--quick 32."},
    )  # fmt: skip
    clusters: int | None = field(
        default=None, metadata={"help": "Clusters of MAUVE; default a tenth of the texts."}
    )
    likelihood_blocks: int | None = field(
        default=None,
        metadata={"help": "Blocks of text for the likelihood; default 128, with --quick 16; 0: "
                  "leave it out."},
    )  # fmt: skip
    block_size: int = field(default=256, metadata={"help": "Tokens of such a block."})
    draws: int = field(default=4, metadata={"help": "Mask patterns a block in the bound."})
    estimator: str = field(
        default="fixed-count",
        metadata={"help": "Of the bound: fixed-count (less variance) or bernoulli (the definition).",
                  "choices": ["fixed-count", "bernoulli"]},
    )  # fmt: skip
    batch_size: int = field(default=16, metadata={"help": "Texts written or judged at once."})
    seed: int = field(default=0, metadata={"help": "Of rows that do not name one."})
    output_dir: str = field(
        default="runs/scoreboard", metadata={"help": "Folder for results, texts and pictures."}
    )
    results: list[str] = field(
        default_factory=list,
        metadata={"help": "Show the results.json of other runs; measure nothing."},
    )
    markdown: str | None = field(
        default=None, metadata={"help": "Write the tables to this file, too, such as RESULTS.md."}
    )


def grid(args: ScoreOptions) -> list[dict]:
    """The rows that are measured without --settings."""
    masked, causal = {"model": args.model}, {"model": args.baseline}
    if args.quick:
        return [
            causal | {"temperature": [1.0, 0.8]},
            masked | {"sampler": "seed"},
            masked | {"sampler": "confidence", "n_steps": [8, 16], "alg_temp": 0.3},
            masked | {"temperature": [1.0, 0.8]},
            causal | {"conditional": False},
            masked | {"conditional": False, "sampler": "ancestral", "n_steps": 16},
        ]
    return [
        causal | {"temperature": [1.0, 0.85, 0.7]},
        masked | {"sampler": "seed", "n_steps": [4, 8, 16, 32, 64]},
        masked | {"sampler": "ancestral", "n_steps": [8, 16, 64, 256]},
        masked | {"sampler": "remdm", "n_steps": [32, 128]},
        masked | {"sampler": "confidence", "n_steps": [4, 8, 16, 32], "alg_temp": 0.3},
        masked | {"sampler": "p2", "n_steps": 32},
        masked | {"sampler": "entropy-bound", "entropy_bound": 1.0},
        masked | {"temperature": [1.0, 0.85, 0.7]},
        causal | {"conditional": False},
        masked | {"conditional": False},
    ]


# ---------------------------------------------------------------- the script


def check(args: ScoreOptions) -> None:
    """Everything that can be refused before a model is loaded; fills in sizes."""
    if args.markdown is not None and not Path(args.markdown).absolute().parent.is_dir():
        raise UserError(f"--markdown {args.markdown!r} is in no folder that exists; make it first")
    if args.results:
        if args.settings or args.quick:
            raise UserError("--results measures nothing; leave out --settings and --quick")
        return
    if args.settings is not None and args.quick:
        raise UserError("--quick has rows of its own; leave out --quick or --settings")
    for name, value in SIZES[args.quick].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.scorer = args.scorer or (QUICK_SCORER if args.quick else SCORER)
    check_values(args)
    at_least("--num_samples", args.num_samples, 2)
    at_least("--length", args.length, 4)
    for name in ("prompt_len", "batch_size", "draws"):
        at_least(f"--{name}", getattr(args, name), 1)
    at_least("--likelihood_blocks", args.likelihood_blocks, 0)
    if args.likelihood_blocks == 1:
        raise UserError("--likelihood_blocks 1 has no interval; use 2 or more, or 0 for none")
    at_least("--block_size", args.block_size, 8)
    if args.prompt_len >= args.block_size:
        raise UserError(
            f"--prompt_len {args.prompt_len} must be below --block_size {args.block_size}"
        )
    if args.clusters is not None:
        at_least("--clusters", args.clusters, 2)
        if args.clusters > args.num_samples:
            raise UserError(
                f"--clusters {args.clusters} exceeds the {args.num_samples} texts of a row; use "
                "fewer clusters or a larger --num_samples"
            )
    from diffusion.cli.files import check_output_dir

    # What is there already is what a stopped run has done.
    check_output_dir(args.output_dir, False, True, "")


def check_rows(rows: list[Row]) -> None:
    """What can be refused of the rows before a model is loaded."""
    from diffusion.models import loading

    for row in rows:
        options = dataclasses.replace(row.options)
        masked = loading.is_masked_lm(loading.load_config(row.model))
        (options.check if masked else options.check_autoregressive)()


def load(args: ScoreOptions, rows: list[Row], processes: Processes):
    """The `board.Board`: models, scorer and text."""
    from diffusion.data import corpus
    from diffusion.evaluation import metrics
    from diffusion.evaluation.board import Board
    from diffusion.evaluation.rows import model_digest
    from diffusion.evaluation.scorer import load_scorer, passages, scored_model
    from diffusion.generate import load_writer
    from diffusion.models import loading
    from diffusion.models.causal import load_causal_writer

    other = "validation" if args.split == "test" else "test"
    documents = corpus.load_documents(args.dataset, args.split, args.dataset_dir)
    more = corpus.load_documents(args.dataset, other, args.dataset_dir)
    if documents == more:  # a file is one split: no passage may be prompt and reference
        documents, more = documents[::2], documents[1::2]
    writers, digests = {}, {}
    for name in dict.fromkeys(row.model for row in rows):
        masked = loading.is_masked_lm(loading.load_config(name))
        loader = load_writer if masked else load_causal_writer
        processes.say(f"loading {name} ...")
        writer = loader(name, None, processes.device, args.dtype)
        writers[name] = writer
        digests[name] = model_digest(scored_model(writer), writer.tokenizer)
    processes.say(f"loading the scorer {args.scorer} ...")
    # In float32 whatever the models write in: its opinion is the measure.
    scorer = load_scorer(args.scorer, processes.device, "float32")
    tokenizer = next(iter(writers.values())).tokenizer
    found = {}
    for split, texts in ((args.split, documents), (other, more)):
        found[split] = passages(texts, tokenizer, args.prompt_len, args.length)
        if len(found[split]) < args.num_samples:
            raise UserError(
                f"--num_samples {args.num_samples}: the {split} text has only {len(found[split])} "
                f"passages of {args.prompt_len} + {args.length} tokens; use fewer or shorter texts"
            )
        found[split] = found[split][: args.num_samples]
    args.clusters = args.clusters or metrics.default_clusters(args.num_samples, args.num_samples)
    store = Store(Path(args.output_dir))
    return Board(
        args, processes, writers, digests, scorer, model_digest(scorer.model, scorer.tokenizer),
        found[args.split], found[other], documents, store,
    )  # fmt: skip


def measure(args: ScoreOptions, processes: Processes) -> dict:
    """The results, see `report`."""
    from diffusion import hardware
    from diffusion.evaluation.board import generations, likelihoods, notes, paired, with_room

    asked = (
        read_grid(args.settings) if args.settings else Grid(grid(args), "Diffusion against GPT-2")
    )
    rows = expand([{"seed": args.seed, **t} for t in asked.tables], [args.model, args.baseline])
    check_rows(rows)
    board = load(args, rows, processes)
    kinds = dict.fromkeys(row.conditional for row in rows)
    real = [Row(name, kind) for kind in kinds for name in (REAL, SHUFFLED)]
    planned = real + [with_room(board, row) for row in rows]
    entries = generations(board, planned)
    name, differences = paired(entries)
    same = [board.label(n) for n, value in board.digests.items() if value == board.scorer_digest]
    writer = next(iter(board.writers.values()))
    return {
        "title": asked.title,
        "about": asked.about,
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "data": {
            "name": Path(args.dataset).name,
            "split": args.split,
            "reference_split": "validation" if args.split == "test" else "test",
        },
        "samples": args.num_samples,
        "prompt_len": args.prompt_len,
        "length": args.length,
        "clusters": args.clusters,
        "batch_size": args.batch_size,
        "scorer": {
            "name": Path(args.scorer).name,
            "hash": board.scorer_digest,
            "compared": ", ".join(same),
        },
        "notes": notes(board, entries),
        "likelihood": likelihoods(board),
        "rows": [{k: v for k, v in entry.items() if k != "nats"} for entry in entries],
        "paired_with": name,
        "paired": differences,
        **hardware.record(writer.device, writer.dtype, "scikit-learn"),
    }


def main() -> None:
    (args,) = parse_flags((ScoreOptions,), __doc__.split("\n")[0])
    check(args)
    console.prepare_streams()
    if args.results:
        parts = {path: report.load(path) for path in args.results}
    else:
        import torch

        processes = Processes(args.device)
        try:
            data = measure(args, processes)
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device ran out of memory with --batch_size {args.batch_size}; use a smaller "
                "one"
            ) from None
        if processes.rank == 0:
            for path in report.write_all(data, Path(args.output_dir)):
                console.say(f"saved {path}")
        processes.end()
        if processes.rank > 0:
            return
        parts = {str(Path(args.output_dir) / "results.json"): data}
    print("\n\n".join(map(report.plain_text, parts.values())), flush=True)
    if args.markdown is not None:
        report.write_markdown(parts, args.markdown)
        console.say(f"saved {args.markdown}")


if __name__ == "__main__":
    run(main)
