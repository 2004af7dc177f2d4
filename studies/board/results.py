"""The results of a scoreboard: what is measured, and how results.json holds it."""

import json
import math
from collections.abc import Sequence

from studies.board.metrics import Estimate

FORMAT, VERSION = "roberta-diffusion scoreboard", 2

# name -> (head of the column, what it is); the first table is on quality, the second on the rest.
QUALITY = {
    "gen_ppl": ("gen. PPL", "perplexity under the scorer, pooled over tokens; lower is likelier, "
                "and repetition is likely: read it with the entropy"),
    "nats_per_char": ("nats/char", "nats of a character of the text under the scorer, which scorers of "
                      "different tokens share; lower is likelier"),
    "entropy": ("entropy", "of a text's token frequencies in nats, only of texts of full length"),
    "self_bleu": ("self-BLEU", "BLEU-4 of a text against others of its row; 1: all the same"),
    "length": ("tokens", "new tokens of a text"),
    "unfinished": ("unfinished", "share of texts that did not end by themselves"),
}  # fmt: skip
OTHERS = {
    "distinct_1": ("dist-1", "unique / all tokens of the row"),
    "distinct_2": ("dist-2", "the same of pairs"),
    "distinct_3": ("dist-3", "the same of triples"),
    "rep_4": ("rep-4", "repeated 4-grams of a text"),
    "nfe": ("NFE", "forward passes for a text"),
    "order": ("order", "Kendall's tau between place and time of writing inside a block, or 16 tokens; "
              "1: from left to right, 0: in random order"),
    "seconds": ("s/text", "seconds of model and sampler for a text, in a batch"),
    "tokens_per_second": ("tokens/s", "new tokens in a second of model and sampler, in a batch"),
}  # fmt: skip
METRICS = QUALITY | OTHERS


def dump(data: dict) -> str:
    """The results as JSON text; what was not measured is null."""
    return json.dumps({"format": FORMAT, "version": VERSION, **plain(data)}, indent=1) + "\n"


def plain(value):
    """Without nan and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def estimate(values: Sequence[float | None]) -> Estimate:
    return Estimate(*(math.nan if v is None else float(v) for v in values))


def measured(row: dict, metric: str) -> Estimate:
    return estimate(row["metrics"].get(metric, [None] * 3))


def machine_line(data: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return f"{data['hardware']}; {data['processor']}; {versions}"
