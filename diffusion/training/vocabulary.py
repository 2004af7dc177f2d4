"""Replace the vocabulary of a pretrained model by one made from the training text.

A tokenizer made from the text has one token for most of its words, so fewer word pieces drawn in parallel
contradict each other. The layers are unchanged. Each new embedding is computed from the embeddings of
the old tokens that spell the same text.
"""

import bisect
import inspect
import itertools
from collections import Counter

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.text import Speller, read_on

# New tokens with the same old tokens would have the same embedding. These offsets, in standard deviations
# of the embeddings, make them distinguishable: one direction marks a capital, one a missing leading
# space, and each token has a random one of its own.
CAPITAL, JOINED, OWN = 0.4, 0.2, 0.1
SPECIALS = ("bos", "eos", "pad", "unk", "mask")


def old_tokens(old: Speller, new: Speller, index: int) -> list[int]:
    """The old tokens that spell the new token ``index``: word-initial ones if it has a leading space, else
    pieces from inside a word. Empty if the old tokenizer cannot spell it."""
    raw, tokenizer = new.bytes_of(index), old.tokenizer
    if old.kind == "ByteLevel":  # both use the same alphabet for bytes
        return _in_vocabulary(tokenizer, new.tokenizer.convert_ids_to_tokens(index))
    text = raw.decode("utf-8", "ignore")
    if not text.strip() or len(text.encode()) < len(raw):  # only part of a character
        return []
    if old.kind == "Metaspace":
        return _in_vocabulary(tokenizer, _normal(tokenizer, text).replace(" ", "▁"))
    if old.kind == "WordPiece":
        division = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
        words = [word for word, _ in division(_normal(tokenizer, text))]
        ids = []
        for number, word in enumerate(words):
            inside = number == 0 and text[0].isalnum()
            ids += _inside(tokenizer, word) if inside else _in_vocabulary(tokenizer, word)
        return ids
    return read_on(tokenizer, text)[0]


def _normal(tokenizer, text: str) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer.normalize_str(text) if normalizer else text


def _in_vocabulary(tokenizer, spelled: str) -> list[int]:
    """The tokens of a string in the notation of the vocabulary."""
    found = tokenizer.backend_tokenizer.model.tokenize(spelled)
    return [token.id for token in found if token.id != tokenizer.unk_token_id]


def _inside(tokenizer, word: str) -> list[int]:
    """WordPiece's longest-match pieces for text inside a word."""
    vocabulary, ids = tokenizer.get_vocab(), []
    while word:
        fits = (n for n in range(len(word), 0, -1) if "##" + word[:n] in vocabulary)
        if (end := next(fits, None)) is None:
            return []
        ids.append(vocabulary["##" + word[:end]])
        word = word[end:]
    return ids


def _reduced(old: Tensor, made_of: list[list[int]]) -> Tensor:
    """For each new token the mean of its rows of ``old`` (V, d), as (V', d), or the minimum of its entries
    of a bias (V,), as (V',); tokens without old tokens get that of all."""
    counts = torch.tensor([len(ids) for ids in made_of])
    owner = torch.arange(len(made_of)).repeat_interleave(counts)
    rows = old[torch.tensor([i for ids in made_of for i in ids])]
    if old.ndim == 1:
        out = old.new_full((len(made_of),), torch.inf).scatter_reduce_(0, owner, rows, "amin")
        out[counts == 0] = old.min()
        return out
    out = old.new_zeros(len(made_of), old.shape[1]).index_add_(0, owner, rows)
    out /= counts.clamp(min=1)[:, None]
    out[counts == 0] = old.mean(0)
    return out


def _apart(new: Speller, made_of: list[list[int]], width: int, generator) -> Tensor:
    """Offsets (V', d) of tokens that share their old tokens with another one, in standard deviations; 0
    for all others."""
    capital, joined = torch.randn(2, width, generator=generator)
    own = torch.randn(len(made_of), width, generator=generator)
    texts = [new.bytes_of(index).decode("utf-8", "ignore") for index in range(len(made_of))]
    scales = torch.tensor(
        [(CAPITAL * t.strip()[:1].isupper(), JOINED * (t[:1] != " "), OWN) for t in texts]
    )
    count = Counter(map(tuple, made_of))
    special = set(new.tokenizer.all_special_ids)
    shared = [count[tuple(ids)] > 1 and i not in special for i, ids in enumerate(made_of)]
    out = scales[:, :1] * capital + scales[:, 1:2] * joined + scales[:, 2:] * own
    return out * torch.tensor(shared)[:, None]


def _resize(model, size: int) -> None:
    """Resize embeddings and output without computing initial values, which are overwritten."""
    asks = "mean_resizing" in inspect.signature(model.resize_token_embeddings).parameters
    try:
        model.resize_token_embeddings(size, **({"mean_resizing": False} if asks else {}))
    except NotImplementedError:
        kind = model.config.model_type
        raise UserError(
            f"transformers cannot change the vocabulary of {kind} models; leave out --new_vocabulary"
        ) from None


@torch.no_grad()
def move(model, old_tokenizer, new_tokenizer, seed: int = 0) -> None:
    """Replace the vocabulary of a model in place.

    The embedding of a new token is the mean of the embeddings of its old tokens (see `old_tokens`). The
    same holds for its row of an untied output matrix; its output bias is the minimum of theirs. Special
    tokens keep their embeddings. Tokens that the old tokenizer cannot spell get the mean of all.

    Args:
        model: a language model of transformers with V tokens.
        new_tokenizer: a byte-level BPE with V' tokens.
        seed: of the offsets between tokens that share their old tokens, such as "The" and "the" of an
            uncased model.

    Raises:
        UserError: transformers cannot resize the vocabulary of this model type.
    """
    old, new = Speller(old_tokenizer), Speller(new_tokenizer)
    own = {}
    for name in SPECIALS:
        before = getattr(old_tokenizer, f"{name}_token_id")
        own[getattr(new_tokenizer, f"{name}_token_id")] = [] if before is None else [before]
    made_of = [own[i] if i in own else old_tokens(old, new, i) for i in range(len(new_tokenizer))]
    size = len(model.get_input_embeddings().weight)
    weights = {n: w.clone() for n, w in model.named_parameters() if size in w.shape}
    # The ones that change with the vocabulary have a row, or a column, for each token.
    _resize(model, size + 1)
    axes = {
        n: w.shape.index(size + 1)
        for n, w in model.named_parameters()
        if n in weights and w.shape != weights[n].shape
    }
    _resize(model, len(new_tokenizer))
    for name, old_weight in weights.items():
        if name in axes:
            rows = old_weight.transpose(0, axes[name])
            moved = _reduced(rows, made_of)
            model.get_parameter(name).copy_(moved.transpose(0, axes[name]))
        elif old_weight.ndim == 1:  # a bias that transformers does not resize, such as ESM's
            module, _, own_name = name.rpartition(".")
            bias = nn.Parameter(_reduced(old_weight, made_of))
            setattr(model.get_submodule(module), own_name, bias)
    table = model.get_input_embeddings()
    apart = _apart(new, made_of, table.weight.shape[1], torch.Generator().manual_seed(seed))
    table.weight += (apart * table.weight.std()).to(table.weight)
    table.padding_idx = new_tokenizer.pad_token_id
    for name in ("bos", "eos", "pad", "mask", "cls", "sep"):
        if getattr(model.config, f"{name}_token_id", None) is not None:
            setattr(model.config, f"{name}_token_id", getattr(new_tokenizer, f"{name}_token_id"))


def bytes_per_token(tokenizer, documents: list[str], most: int = 2_000_000) -> float:
    """Bytes per token of the first documents, about ``most`` characters."""
    characters = list(itertools.accumulate(map(len, documents)))
    some = documents[: bisect.bisect(characters, most) + 1]
    tokens = sum(len(ids) for ids in tokenizer(some, add_special_tokens=False)["input_ids"])
    return sum(len(text.encode()) for text in some) / max(1, tokens)
