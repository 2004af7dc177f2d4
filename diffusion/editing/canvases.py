"""Canvases of partly fixed text: blanks to fill, a text to rewrite, two texts to mix."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusion import rng
from diffusion.canvas import Allowed, Canvas, padding_id
from diffusion.editing.templates import Template, kept_characters, short
from diffusion.errors import UserError
from diffusion.likelihood import TextBound, text_bounds
from diffusion.noise import Absorbing
from diffusion.text import (
    IDEOGRAM,
    NOTHING,
    SPACED,
    Speller,
    Typed,
    encode,
    in_word,
    located,
    parts,
    read,
    read_on,
    typed_where,
)

# Random streams of a row beside those of the steps, which count from 0.
RENOISE, MIX = -1, -2

TO_WRITE = -1  # the id of a token that is not there yet

# ---------------------------------------------------------------- rules at the edges of fixed text

RULED = ("ByteLevel", *SPACED)  # kinds of tokenizers whose tokens tell about spaces
ANY, OPENS, JOINS, CLOSES, AFTER, STARTS, SIGN = KINDS = range(7)
BEFORE = len(KINDS)  # added to each of them: no letter or digit last, if any token is left then


def edge_rules(speller: Speller, vocab_size: int) -> Tensor:
    """(2 * kinds, V) bool, see `Allowed`: the tokens that each of `KINDS` admits, alone and `BEFORE`.

    OPENS: one space, then a visible character. JOINS: a visible character first. CLOSES: no white
    space last. AFTER: no letter or digit first. STARTS: may begin a text. SIGN: JOINS and AFTER, and
    nothing that joins two words.
    """
    spelled = [speller.bytes_of(i) for i in range(min(vocab_size, len(speller.tokenizer)))]
    rules = torch.zeros(2 * len(KINDS), vocab_size, dtype=torch.bool)
    for kind, fits in {
        OPENS: lambda b: b[:1] == b" " and b[1:2].strip() and b == b.rstrip(),
        JOINS: lambda b: b[:1].strip() and b == b.rstrip(),
        CLOSES: lambda b: b and b == b.rstrip(),
        AFTER: lambda b: b and not _in_word(b[0]),
        BEFORE: lambda b: b and not _in_word(b[-1]),
    }.items():
        rules[kind, : len(spelled)] = torch.tensor([bool(fits(b)) for b in spelled])
    if speller.kind == "WordPiece":  # signs and ideograms stand beside a word without a space
        firsts = [b.decode()[1:2] for b in spelled]
        rules[JOINS, : len(spelled)] |= torch.tensor([not in_word(c) for c in firsts])
        rules[AFTER, : len(spelled)] &= torch.tensor([not IDEOGRAM.match(c) for c in firsts])
    rules[STARTS] = rules[JOINS]
    if speller.kind in SPACED:
        rules[STARTS, : len(spelled)] = torch.tensor(speller.beginnings()[: len(spelled)])
    joined = torch.tensor([b.strip()[:1] in (b"'", b"-") for b in spelled])
    rules[SIGN] = rules[JOINS] & rules[AFTER]
    rules[SIGN, : len(spelled)] &= ~joined
    for kind in KINDS[1:]:
        both = rules[kind] & rules[BEFORE]
        rules[BEFORE + kind] = both if both.any() else rules[kind]
    return rules


def _in_word(byte: int) -> bool:
    """Whether a byte is of a letter or digit; beyond ASCII it is taken for one."""
    return byte > 127 or chr(byte).isalnum() or byte == ord("_")


def _allowed(speller: Speller, kinds: Sequence[Tensor]) -> Allowed | None:
    """The rules at the positions of each row, (L_b,) kinds."""
    if speller.kind not in RULED:
        return None
    rules = edge_rules(speller, len(speller.tokenizer))
    return Allowed(pad_sequence(kinds, batch_first=True), rules)


@dataclass(frozen=True)
class Segment:
    """A fixed text of a template."""

    text: str  # as it is shown
    ids: list[int]
    pieces: list[str]  # the part of the text that each token stands for
    edge: int  # the rule for the first token of the blank after it


def segments(speller: Speller, template: Template) -> list[Segment]:
    """The fixed texts of a template, one more than it has blanks."""
    out = []
    for text, fixed in zip(template.texts, template.fixed(), strict=True):
        continues = out and speller.kind in SPACED and fixed[:1].strip()
        ids, pieces = (read_on if continues else read)(speller.tokenizer, fixed)
        edge = _edge(speller, text, ids, first=not out)
        if speller.kind == "ByteLevel":  # the space before a blank is a byte of what is written
            text = fixed
        if pieces:
            pieces[-1] += text[len(fixed) :]
        out.append(Segment(text, ids, pieces, edge))
    return out


def _edge(speller: Speller, text: str, ids: list[int], first: bool) -> int:
    """The rule for the first token after a fixed text."""
    if text.endswith(" "):
        return OPENS
    if (text or first) and speller.awaits_word(text, ids):
        return STARTS
    if text and speller.kind == "WordPiece" and not in_word(text[-1]):
        return OPENS
    return CLOSES if speller.kind == "WordPiece" and IDEOGRAM.match(text[-1:]) else JOINS


def infill_canvas(tokenizer, template: Template, layouts: list[tuple[int, ...]]) -> Canvas:
    """``<s>`` and a template with masks in its blanks, a row for each of B tuples of their lengths."""
    speller = Speller(tokenizer)
    fixed = segments(speller, template)
    spelled = all(speller.spells(part.ids, "".join(part.pieces)) for part in fixed)
    apart = [*(template.apart or [(False, False)] * len(template.blanks)), (False, False)]
    rows, kinds, typed = [], [], []
    for lengths in layouts:
        row, kind = [tokenizer.bos_token_id], [ANY]
        pieces, after, tight = {}, {}, set()
        for part, length, (sign_first, sign_last) in zip(fixed, [*lengths, 0], apart, strict=True):
            at = len(row)
            if part.ids:
                pieces |= dict(enumerate(part.pieces, at))
            elif part.text:  # at the beginning, or after the previous blank
                (pieces if at == 1 else after)[at - 1] = part.text
            tight |= {at, at + len(part.ids)}
            row += part.ids + [TO_WRITE] * length
            # A blank of one token opens and closes: a token that may open may also close.
            first = SIGN if sign_first else part.edge
            edges = [first, *[ANY] * (length - 2), CLOSES][:length]
            edges[-1:] = [edge + BEFORE * sign_last for edge in edges[-1:]]
            kind += [ANY] * len(part.ids) + edges
        rows.append(torch.tensor(row))
        kinds.append(torch.tensor(kind))
        typed.append(NOTHING if spelled else Typed(pieces, after, frozenset(tight)))
    return canvas_of(tokenizer, rows, _allowed(speller, kinds), typed)


def blank_spans(tokenizer, template: Template, lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(start, end) of each blank on the canvas, in tokens."""
    spans, at = [], 1
    for part, length in zip(segments(Speller(tokenizer), template), lengths, strict=False):
        at += len(part.ids)
        spans.append((at, at + length))
        at += length
    return spans


def rewrite_canvas(
    tokenizer, text: str, strength: float, keys: Tensor, keep: list[str] | None
) -> Canvas:
    """``<s>`` and a text each of whose tokens is masked with probability ``strength``.

    That is the forward process up to the time with r(t) = strength (SDEdit, arXiv:2108.01073, for
    text). Visible tokens are fixed, for samplers that re-mask too. A text that begins without a
    space keeps beginning without one.

    Args:
        keys: (B,) random keys; a row for each.
        keep: words whose tokens are never masked; new tokens beside them do not run into them.
    """
    speller = Speller(tokenizer)
    tokens, spans = located(tokenizer, text)
    pieces = parts(text, spans)
    ids = torch.tensor([tokenizer.bos_token_id, *tokens])
    start, end = torch.tensor([(0, 0), *spans]).T
    kept = torch.zeros(len(ids), dtype=torch.bool)
    for first, last in kept_characters(text, keep):
        kept |= (start < last) & (end > first)
    masked = rng.uniform(rng.fold_in(keys.cpu(), RENOISE), len(ids)) < strength
    masked &= ~kept & (torch.arange(len(ids)) > 0)
    rows = Absorbing.of(tokenizer).corrupt(ids.expand(masked.shape), masked)
    allowed, typed = None, ()
    if speller.kind in RULED:
        rules = edge_rules(speller, len(tokenizer))
        # Where the text had no letter beside the words, none may come. This looks at characters,
        # since the bytes of a curly quote look like those of a letter.
        bare_before = [not re.match(r"\w", text[i - 1 : i]) for i in start.tolist()]
        bare_after = [not re.match(r"\w", text[i : i + 1]) for i in end.tolist()]
        before, after = torch.zeros_like(kept), torch.zeros_like(kept)
        before[:-1] = (kept & torch.tensor(bare_before) & ~rules[AFTER, ids])[1:]
        after[1:] = (kept & torch.tensor(bare_after))[:-1]
        front = speller.kind in SPACED or not text[0].isspace()
        awaits = [speller.awaits_word(p, [i]) for p, i in zip(pieces, tokens, strict=True)]
        starts = torch.tensor([False, front, *awaits][: len(ids)]) & ~masked.roll(1, 1)
        kind = torch.full(masked.shape, ANY)
        kind[:, after] = AFTER
        kind[starts] = STARTS
        kind[:, before] += BEFORE
        allowed = Allowed(kind, rules)
    if not tokens:
        typed = [Typed({0: text})] * len(rows)
    elif not speller.spells(tokens, text):
        typed = [typed_where(pieces, fixed) for fixed in (~masked[:, 1:]).tolist()]
    return Canvas(rows, ~masked, torch.zeros_like(masked), allowed, typed)


def interpolation_canvas(
    tokenizer, texts: tuple[str, str], weights: list[float], keys: Tensor
) -> Canvas:
    """``<s>`` and a mixture of the words of two texts, with masks between them.

    At weight w a word of the first text is kept with probability (1-w)^2 and a word of the second
    with w^2; the rest are masks. The length changes linearly from that of the first text to that of
    the second, and a kept word stays at its relative position; of two that overlap the one with the
    smaller u / probability stays. Each word has one random number u for all weights, so that the
    words of the first text only disappear along the way, and those of the second only appear,
    except for overlaps. The text begins without a space.

    Args:
        weights: (B,) in [0, 1].
        keys: (B,) random keys, one a row.
    """
    if texts[0] == texts[1]:  # nothing lies between a text and itself: every point is that text
        weights = [0.0] * len(weights)
    speller = Speller(tokenizer)
    sources, pieces = zip(*(read(tokenizer, text) for text in texts), strict=True)
    words = [_words(speller, *source) for source in zip(sources, pieces, strict=True)]
    spelled = all(map(speller.spells, sources, texts))
    rows, typed = [], []
    for weight, key in zip(weights, keys.cpu(), strict=True):
        length = round((1 - weight) * len(sources[0]) + weight * len(sources[1]))
        ids = torch.full((length,), TO_WRITE)
        kept, shown = [], {}
        for side, share in enumerate(((1 - weight) ** 2, weight**2)):
            u = rng.uniform(rng.fold_in(rng.fold_in(key, MIX), side), len(words[side])).tolist()
            kept += [
                (x / share, side, *word)
                for x, word in zip(u, words[side], strict=True)
                if x < share
            ]
        for _, side, first, last in sorted(kept):
            place = first * length // len(sources[side])
            slot = ids[place : place + last - first]
            fits = len(slot) == last - first and (slot == TO_WRITE).all()
            if fits and (first == 0 or place > 0):  # the space before a word is part of it
                slot[:] = torch.tensor(sources[side][first:last])
                shown |= dict(enumerate(pieces[side][first:last], 1 + place))
        rows.append(torch.cat([torch.tensor([tokenizer.bos_token_id]), ids]))
        typed.append(NOTHING if spelled else Typed(shown))
    kinds = [torch.arange(len(row)).eq(1) * STARTS for row in rows]
    return canvas_of(tokenizer, rows, _allowed(speller, kinds), typed)


def _words(speller: Speller, ids: list[int], pieces: list[str]) -> list[tuple[int, int]]:
    """(start, end) of the words of a text in tokens: each one with a space begins one."""
    spelled = map(speller.bytes_of, ids) if speller.kind == "ByteLevel" else pieces
    starts = [i for i, part in enumerate(spelled) if not i or part[:1].isspace()]
    return list(pairwise([*starts, len(ids)]))


def canvas_of(
    tokenizer, rows: list[Tensor], allowed: Allowed | None = None, typed: Sequence[Typed] = ()
) -> Canvas:
    """A canvas of rows (L_b,) of different lengths, padded on the right, with masks at `TO_WRITE`."""
    ids = pad_sequence(rows, batch_first=True, padding_value=padding_id(tokenizer))
    lengths = torch.tensor([len(row) for row in rows])
    padding = torch.arange(ids.shape[1]) >= lengths[:, None]
    written = ids != TO_WRITE
    ids = Absorbing.of(tokenizer).corrupt(ids, ~written)
    return Canvas(ids, written, padding, allowed, typed)


def check_room(what: str, needed: int, most: int) -> None:
    """Refuse a text of more positions than there are."""
    if needed > most:
        raise UserError(
            f"{what} needs {needed} of {most} positions; shorten it, or change --max_len"
        )


def token_rows(tokenizer, texts: list[str], most: int) -> list[list[int]]:
    """``<s>`` and the ids of each text; one of more than ``most`` positions is refused."""
    rows = [[tokenizer.bos_token_id, *encode(tokenizer, text)] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        check_room(f"the text {short(text)!r}", len(row), most)
    return rows


def bounds_of(
    writer, rows: list[list[int]], fixed: list[int], texts: list[str], **settings
) -> list[TextBound]:
    """The likelihood bound of each of several token rows after its first ``fixed`` tokens, which spell
    a text; settings of `likelihood.text_bounds`."""
    canvas = canvas_of(writer.tokenizer, [torch.tensor(ids) for ids in rows]).to(writer.device)
    start = torch.tensor(fixed, device=writer.device)[:, None]
    after = torch.arange(canvas.ids.shape[1], device=writer.device) >= start
    reader, noise = writer.denoiser.reader, writer.denoiser.noise
    values = text_bounds(reader, canvas, after & ~canvas.padding, noise, **settings)
    return [
        TextBound.of(value, len(ids) - n, len(text.encode()))
        for value, ids, n, text in zip(values, rows, fixed, texts, strict=True)
    ]


def score_texts(writer, texts: list[str], most: int | None = None, **settings) -> list[TextBound]:
    """The likelihood bound of each text; settings as in `bounds_of`.

    Raises:
        UserError: a text of more than ``most`` positions, or than the model sees.
    """
    rows = token_rows(writer.tokenizer, texts, most or writer.positions)
    return bounds_of(writer, rows, [1] * len(rows), texts, **settings)
