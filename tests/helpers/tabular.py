"""A denoiser so small that everything about it can be enumerated."""

import itertools

import torch

from diffusion.canvas import Query
from diffusion.noise import make_noise
from diffusion.samplers.catalog import SAMPLERS, VERIFYING

PLAIN = tuple(name for name in SAMPLERS if name not in VERIFYING)  # need no second stream


class TabularDenoiser:
    """p(clean token | canvas) looked up in a table of random distributions.

    Token ids are 0..V-1 for text and V for the mask. Every partially masked canvas of length L
    has its own distribution at each masked position; they need not agree with any joint law,
    as a trained model's do not. With a ``noise`` of `diffusion.noise`, visible tokens have a
    distribution of their own, too.
    """

    def __init__(
        self,
        length: int = 3,
        vocab: int = 3,
        seed: int = 0,
        scale: float = 1.5,
        noise: str = "absorbing",
        p_u: float = 0.2,
    ):
        self.length, self.vocab, self.mask_id = length, vocab, vocab
        self.noise, self.passes = make_noise(noise, vocab, [], vocab + 1, p_u), 1
        generator = torch.Generator().manual_seed(seed)
        states = (vocab + 1) ** length
        self.table = torch.randn(states, length, vocab, generator=generator) * scale
        self.place = (vocab + 1) ** torch.arange(length)
        self.device = torch.device("cpu")
        self.calls = 0  # forward passes
        self.rows_seen = 0  # canvases in them

    def start(self, canvas):
        return self

    def slots(self, query):
        return torch.full_like(query.ids[:, 0], query.ids.shape[1])

    def __call__(self, query):
        """Logits (N, V + 1), the mask forbidden. A shadow is exact: it looks up the canvas with a
        mask at its one position. A canvas that is too short is taken to end in tokens 0."""
        ids, shadows = query.ids, query.shadows
        self.calls += 1
        self.rows_seen += len(ids)
        place = self.place[: ids.shape[1]]
        state = (ids * place).sum(1, keepdim=True).expand_as(ids)
        if shadows is not None:
            state = state + (self.mask_id - ids) * place * shadows
        row, place = query.query_mask.nonzero(as_tuple=True)
        logits = self.table[state[row, place], place]
        return torch.cat([logits, logits.new_full((len(logits), 1), -torch.inf)], 1)

    def backbone(self, ids, query_mask, *_):
        """The same as the likelihoods call it."""
        return self(Query(ids, query_mask))

    def probabilities(self, canvas: tuple[int, ...]) -> list[list[float]]:
        """p[position][token] of one canvas, in float64."""
        index = sum(c * int(p) for c, p in zip(canvas, self.place, strict=True))
        return self.table[index].double().softmax(-1).tolist()

    def texts(self):
        return itertools.product(range(self.vocab), repeat=self.length)
