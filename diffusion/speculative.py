"""The denoiser of self-speculation: one pass verifies a draft and drafts anew.

A pass reads the draft in the clean stream, which gives p(token | all before) at each of its places
and after it. The same pass drafts already, from each place at which the verification can stop: q are
the predictions of the noisy stream for the tokens after the stop, with the token at the stop unknown
(as TiDAR, arXiv:2511.08923). `samplers.verifying.Speculative` decides.
"""

import torch
from torch import Tensor

from diffusion.canvas import Canvas, Query
from diffusion.models.cached import CleanStream
from diffusion.models.guidance import Wrapped


class Drafting(Wrapped):
    """Logits of the next tokens from left to right: the contract of `Denoiser`. A query is of the
    n + 1 first masks of each row, and shows a draft of n tokens, at most ``drafts``, at the first n of
    them. ``keep``: see `CleanStream`."""

    def __init__(self, denoiser, drafts: int, keep: bool = True):
        super().__init__(denoiser)
        self.drafts, self.keep = drafts, keep
        self.shift = int(denoiser.backbone.shift)
        # A group of noisy slots: masks, and the token before them if the model is shifted.
        self.width = drafts + 1 + self.shift

    def start(self, canvas: Canvas) -> "Drafting":
        other = super().start(canvas)
        column = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
        other.stop = torch.where(canvas.frozen | canvas.padding, 0, column + 1).amax(1)
        other.stream = CleanStream(self.denoiser.backbone, *canvas.ids.shape, self.keep)
        return other

    def slots(self, query: Query) -> Tensor:
        n = query.query_mask.sum(1)
        until = query.query_mask.int().argmax(1) + n - 1
        return self.stream.missing(query.rows, until) + n * self.width

    def __call__(self, query: Query) -> Tensor:
        """Logits (N, V) given the tokens before each position, -inf where forbidden."""
        rows, ids, device = query.rows, query.ids, query.ids.device
        here, n = query.query_mask.int().argmax(1), query.query_mask.sum(1) - 1
        stops = int(n.max()) + 1  # groups, one for each place where the verification can stop
        group = torch.arange(stops, device=device).repeat_interleave(self.width)
        within = torch.arange(self.width, device=device).repeat(stops) - self.shift
        first = here[:, None] + group  # of each noisy slot: where its group stops
        place = first + within
        real = (group <= n[:, None]) & (place < self.stop[rows][:, None])
        place = place.clamp(max=ids.shape[1] - 1)
        shown = self.noise.corrupt(ids.gather(1, place), (within >= 0).expand_as(place))
        seen = (group[:, None] == group) & real[:, None]
        seen = seen | torch.eye(len(group), dtype=torch.bool, device=device)
        row, at = query.query_mask.nonzero().unbind(1)
        # q is read at the masks after the first of each group.
        reads = torch.arange(1, self.drafts + 1, device=device)
        reads = (torch.arange(stops, device=device)[:, None] * self.width + reads).flatten()
        noisy = torch.arange(len(rows), device=device).repeat_interleave(len(reads))
        groups = (shown, place, (first - self.shift).clamp(max=ids.shape[1]), seen)
        wanted = (row, at - 1), (noisy, reads.repeat(len(rows)))
        hidden = self.stream.run(rows, ids, here + n, groups, *wanted)
        self.rows, self.here, self.until = rows, here, here + n
        self.after = hidden[len(row) :].view(len(rows), stops, self.drafts, -1)
        return self.logits(hidden[: len(row)])

    def ahead(self, accepted: Tensor) -> Tensor:
        """Logits (R, K, V) of the next draft where the first ``accepted`` (R,) tokens of the last one
        and one more are written. The head sees no other stop."""
        self.stream.done[self.rows] = (self.here + accepted).minimum(self.until)
        after = self.after[torch.arange(len(accepted), device=accepted.device), accepted]
        return self.logits(after.flatten(0, 1)).unflatten(0, after.shape[:2])

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.denoiser.backbone.head(hidden)
        return logits.index_fill_(1, self.denoiser.forbidden, -torch.inf)
