"""Self-speculation: the law of reading from left to right, in fewer passes.

One set of weights drafts and verifies (Leviathan et al., arXiv:2211.17192, with the noisy stream as
the draft, as in TiDAR, arXiv:2511.08923). A pass reads the draft in the clean stream, which gives
p(token | all before) at each of its places and behind it; draft y is accepted with probability
min(1, p(y) / q(y)), the first that is not is drawn anew from (p - q)+, and behind a draft that was
accepted whole stands one more token from p. So the text has exactly the law of the ``causal``
sampler, whatever the draft. The same pass has drafted already, from each place at which the
verification can have stopped: q are the predictions of the noisy stream for the tokens behind it,
with the one at the stop unknown.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion import hardware, rng
from diffusion.canvas import Canvas, Step
from diffusion.models.cached import CleanStream
from diffusion.proposal import Sampling

# Random streams of a step: whether a draft is accepted, the token at the stop, the next draft.
ACCEPT, TOKEN, DRAFT = range(3)


def dense(sampling: Sampling, logits: Tensor) -> Tensor:
    """What is drawn from: probabilities (N, V) in float64 after temperature, top-k and top-p."""
    p, ids = sampling.distribution(logits.float())
    return p if ids is None else torch.zeros_like(logits, dtype=p.dtype).scatter_(1, ids, p)


def draw(p: Tensor, u: Tensor) -> Tensor:
    """Tokens (...) from weights (..., V) by the uniforms (...)."""
    cdf = p.cumsum(-1)
    pick = torch.searchsorted(cdf, (u.to(cdf.dtype) * cdf[..., -1])[..., None], right=True)
    return pick[..., 0].clamp(max=p.shape[-1] - 1)


def verify(p: Tensor, q: Tensor, draft: Tensor, count: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(how many of each draft are accepted (R,), the weights (R, V) of the token behind them).

    Args:
        p: (R, K + 1, V) at the places of the draft and behind it.
        q: (R, K, V) what the draft (R, K) was drawn from; its first ``count`` (R,) tokens are there.
        u: (R, K) uniforms.
    """
    place = torch.arange(draft.shape[1], device=draft.device)
    ratio = [x.gather(2, draft[..., None])[..., 0] for x in (p[:, :-1], q)]
    sure = (u.to(q.dtype) * ratio[1] < ratio[0]) & (place < count[:, None])
    accepted = sure.long().cumprod(1).sum(1)
    row = torch.arange(len(p), device=p.device)
    weights = p[row, accepted]
    stopped = accepted < count
    left = (weights - q[row, accepted.clamp(max=draft.shape[1] - 1)]).clamp(min=0)
    # Where p and q differ by rounding alone, nothing is left.
    stopped = stopped & (left.sum(1) > 0)
    return accepted, torch.where(stopped[:, None], left, weights)


def speculate(
    canvas: Canvas,
    denoiser,
    sampling: Sampling,
    keys: Tensor,
    drafts: int,
    end_id: int | None = None,
    keep: bool = True,
) -> Iterator[Step]:
    """Write a canvas from left to right; the Steps are passes, as those of `denoise.denoise`.

    Args:
        canvas: (B, L), each row given text, then masks.
        denoiser: a `models.denoiser.Denoiser`.
        drafts: K, the longest draft.
        end_id: the token that ends a text.
        keep: see `CleanStream`.
    """
    ids, device, shift = canvas.ids.clone(), canvas.ids.device, int(denoiser.backbone.shift)
    batch, length = ids.shape
    editable = ~canvas.frozen & ~canvas.padding
    column = torch.arange(length, device=device)
    at = torch.where(editable, column, length).amin(1)  # (B,) the next token to be written
    stop = torch.where(editable, column + 1, 0).amax(1)
    stream = CleanStream(denoiser.backbone, batch, length, keep)
    masked, given = editable.clone(), (canvas.frozen, canvas.padding)
    nothing = torch.zeros_like(masked)
    confidence = torch.full(ids.shape, torch.nan, device=device)
    nfe = torch.zeros(batch, dtype=torch.int64, device=device)
    slots = torch.zeros_like(nfe)
    draft = torch.zeros(batch, drafts, dtype=torch.int64, device=device)
    count = torch.zeros(batch, dtype=torch.int64, device=device)  # tokens of each draft
    q: Tensor | None = None  # (B, K, V) what they were drawn from
    width = drafts + 1 + shift  # of a group of noisy slots: masks, the token before them if shifted

    def logits(hidden: Tensor) -> Tensor:
        return denoiser.backbone.head(hidden).index_fill_(1, denoiser.forbidden, -torch.inf)

    streams = torch.tensor([ACCEPT, TOKEN, DRAFT], device=device)
    step, seconds = 0, 0.0
    yield Step(
        0, None, nfe, ids, *given, masked, nothing, nothing, confidence, 0.0, slots,
        typed=canvas.typed,
    )  # fmt: skip

    while masked.any():
        started = hardware.now(device)
        with torch.inference_mode():
            step += 1
            rows = masked.any(1).nonzero()[:, 0]
            here, n = at[rows], count[rows]
            stops = int(n.max()) + 1  # groups, one for each place where the verification can stop
            group = torch.arange(stops, device=device).repeat_interleave(width)
            within = torch.arange(width, device=device).repeat(stops) - shift
            behind = here[:, None] + torch.arange(drafts, device=device)
            text = ids[rows].scatter(1, behind.clamp(max=length - 1), draft[rows]) if step > 1 else (
                ids[rows]
            )  # fmt: skip
            until = here + n
            first = here[:, None] + group  # of each noisy slot: where its group stops
            place = first + within
            real = (group <= n[:, None]) & (place < stop[rows][:, None])
            place = place.clamp(max=length - 1)
            shown = denoiser.noise.corrupt(text.gather(1, place), (within >= 0).expand_as(place))
            seen = (group[:, None] == group) & real[:, None]
            seen = seen | torch.eye(len(group), dtype=torch.bool, device=device)
            row = torch.arange(len(rows), device=device)
            # p behind each token of the draft; q at the masks behind the first of each group.
            clean = (
                row.repeat_interleave(drafts + 1),
                (here[:, None] - 1 + torch.arange(drafts + 1, device=device))
                .minimum(until[:, None] - 1)
                .flatten(),
            )
            reads = ((within + shift >= 1) & (within + shift <= drafts)).nonzero()[:, 0]
            noisy = row.repeat_interleave(len(reads)), reads.repeat(len(rows))
            cost = stream.missing(rows, until) + (n + 1) * width
            hidden = stream.run(
                rows,
                text,
                until,
                (shown, place, (first - shift).clamp(max=length), seen),
                clean,
                noisy,
            )
            # (R, K + 1, d) and (R, stops, K, d): the head sees what is used of them.
            known, ahead = hidden[: len(clean[0])], hidden[len(clean[0]) :]
            ahead = ahead.view(len(rows), stops, drafts, -1)
            known = logits(known)
            done = torch.arange(drafts + 1, device=device)
            if canvas.allowed is not None:  # a draft that is not allowed is not accepted
                places = (here[:, None] + done).clamp(max=length - 1)
                known = canvas.allowed(known, (rows[:, None], places))
            p = dense(sampling, known).view(len(rows), drafts + 1, -1)

            keyed = rng.fold_in(keys[rows], step)
            u = rng.uniform(rng.fold_in(keyed[:, None], streams), drafts).unbind(1)
            old = torch.zeros_like(p[:, :-1]) if q is None else q[rows]
            accepted, weights = verify(p, old, draft[rows], n, u[ACCEPT])
            token = draw(weights, u[TOKEN][:, 0])
            new = torch.cat([draft[rows], token[:, None]], 1)
            new = new.scatter(1, accepted[:, None], token[:, None])  # accepted, then the token
            fresh = done <= accepted[:, None]
            if end_id is not None:  # what would stand behind the end does not exist
                over = (new == end_id) & fresh
                fresh = fresh & (over.cumsum(1) - over.long() == 0)
            spot = here[:, None] + done
            revealed = torch.zeros_like(masked)
            r, k = fresh.nonzero().unbind(1)
            revealed[rows[r], spot[r, k]] = True
            ids = ids.clone()
            ids[rows[r], spot[r, k]] = new[r, k]
            sure = known.float().log_softmax(-1).view_as(p).gather(2, new[..., None])[..., 0].exp()
            confidence = confidence.clone()
            confidence[rows[r], spot[r, k]] = sure[r, k]
            masked = masked & ~revealed
            if end_id is not None:
                ended = masked & (revealed & (ids == end_id)).any(1, keepdim=True)
                masked, given = masked & ~ended, tuple(part | ended for part in given)

            at = at.index_copy(0, rows, here + accepted + 1)
            stream.done[rows] = (here + accepted).minimum(until)  # what was refused is not kept
            # Behind a draft there is always a place for one more token.
            room = (stop[rows] - at[rows] - 1).clamp(0, drafts)
            count = count.index_copy(0, rows, room)
            nexts = dense(sampling, logits(ahead[row, accepted].flatten(0, 1)))
            nexts = nexts.view(len(rows), drafts, -1)
            draft = draft.index_copy(0, rows, draw(nexts, u[DRAFT]))
            q = nexts.new_zeros(batch, *nexts.shape[1:]) if q is None else q
            q = q.index_copy(0, rows, nexts)
            nfe, slots = (
                nfe.index_add(0, rows, torch.ones_like(rows)),
                slots.index_add(0, rows, cost),
            )
        seconds += hardware.now(device) - started
        yield Step(
            step, None, nfe, ids, *given, masked, revealed, nothing, confidence, seconds, slots,
            typed=canvas.typed,
        )  # fmt: skip
