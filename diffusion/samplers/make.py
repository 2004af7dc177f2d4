"""A sampler by its name, and what goes around any of them: blocks from left to right, and stopping
early."""

from dataclasses import dataclass, replace
from importlib import import_module

import torch

from diffusion.noise import Noise
from diffusion.samplers import spec
from diffusion.samplers.base import Decision, Sampler, State
from diffusion.samplers.catalog import SAMPLERS


def sampler_class(name: str) -> type[Sampler]:
    """The class of the sampler ``name`` of the `catalog`."""
    module, kind = SAMPLERS[name].kind.split(".")
    return getattr(import_module(f"diffusion.samplers.{module}"), kind)


def make_sampler(
    name: str,
    n_steps: int | None = None,
    schedule: str | None = None,
    block_length: int | None = None,
    early_commit: float | None = None,
    clamp: float | None = None,
    apart: bool = False,
    noise: Noise | None = None,
    **own,
) -> Sampler:
    """A sampler, in blocks and with early commit if given.

    Args:
        name: of the `catalog`, or with options, ``remdm:eta=0.02``.
        n_steps, schedule: for samplers that take them; others ignore them.
        clamp: of Gaussian noise, see `gaussian.Vectors`.
        apart: no block sees those after it, so that early commit is about one block.
        noise: that of the denoiser; None: masks.
        own: options of the sampler.
    """
    name, written = spec.split(name)
    kind = sampler_class(name)
    own = spec.read_options(name, kind, written) | own
    shared = {"n_steps": n_steps, "schedule": schedule}
    takes = spec.options_of(kind)
    own |= {key: v for key, v in shared.items() if key in takes and v is not None}
    if noise is not None and noise.name == "gaussian":
        own |= {} if clamp is None else {"clamp": clamp}
        kind = getattr(import_module("diffusion.samplers.gaussian"), kind.__name__)
    elif name == "ancestral" and noise is not None and noise.has_random_tokens:
        kind = import_module("diffusion.samplers.interpolating").Posterior
    sampler = kind(**own)
    if early_commit and apart:
        sampler, early_commit = EarlyCommit(sampler, early_commit), 0
    sampler = Blocks(sampler, block_length) if block_length else sampler
    return EarlyCommit(sampler, early_commit) if early_commit else sampler


@dataclass
class Blocks(Sampler):
    """Semi-autoregressive order (LLaDA's generate.py): another sampler works on one block of
    editable positions at a time, left to right, while the model sees the masks further right. A fixed
    number of steps is divided among the blocks of a row, equally and rounded up.
    """

    inner: Sampler
    block_length: int
    hides = property(lambda self: self.inner.hides)

    def _block(self, state: State) -> State:
        """The state as the inner sampler sees it: nothing but each row's block is editable."""
        number = (state.editable.cumsum(1) - 1) // self.block_length
        here = number == state.memory["block"]
        return replace(
            state,
            editable=state.editable & here,
            masked=state.masked & here,
            since=state.memory["since"],
            parts=state.parts * state.memory["blocks"],
        )

    def start(self, state):
        blocks = (state.editable.sum(1, keepdim=True) + self.block_length - 1) // self.block_length
        state.memory["blocks"] = blocks.clamp(min=1)  # how many each row has
        state.memory["block"] = torch.zeros_like(state.since)  # the current one
        state.memory["since"] = state.since  # the step before it began
        self.inner.start(self._block(state))

    def select(self, state):
        return self.inner.select(self._block(state))

    def greedy(self, state):
        return self.inner.greedy(self._block(state))

    def decide(self, state, proposal):
        return self.inner.decide(self._block(state), proposal)

    def settled(self, state):
        return self.inner.settled(self._block(state))

    def finished(self, state):
        """Rows whose last block is done. The others turn to the next block here."""
        memory = state.memory
        more = state.editable.any(1, keepdim=True)  # no text that has ended
        while True:  # once, or once for each block that has nothing to write
            done = self.inner.finished(self._block(state))[:, None]
            turning = done & more & (memory["block"] + 1 < memory["blocks"])
            if not turning.any():
                return done[:, 0]
            memory["block"] = memory["block"] + turning
            memory["since"] = torch.where(turning, state.step, memory["since"])
            fresh = replace(self._block(state), memory={})
            self.inner.start(fresh)
            for name, new in fresh.memory.items():
                rows = turning.view(-1, *[1] * (new.dim() - 1))
                memory[name] = torch.where(rows, new, memory[name])


@dataclass
class EarlyCommit(Sampler):
    """Write everything that is left when the gap between the two largest logits, averaged over a
    row's masks, reaches ``gap`` in the first third of the writing, 2/3 of it in the second, 1/3 in the
    last (Prophet, arXiv:2508.19982: 7.5, 5, 2.5). Thirds are counted in written positions, so that any
    sampler has them. The published rule takes the best tokens; here they are drawn as all others.
    """

    inner: Sampler
    gap: float = 7.5
    hides = property(lambda self: self.inner.hides)
    total = property(lambda self: self.inner.total)

    def start(self, state):
        state.memory["committed"] = torch.zeros_like(state.since, dtype=torch.bool)
        self.inner.start(state)

    def select(self, state):
        wish = self.inner.select(state) & ~state.memory["committed"]
        state.memory["wish"] = wish
        # The rule looks at all masks; a row that costs no forward pass is not looked at.
        return wish | (state.masked & wish.any(1, keepdim=True))

    def greedy(self, state):
        return self.inner.greedy(state)

    def decide(self, state, proposal):
        wish = proposal.only(state.memory["wish"])
        write, remask, tokens, random = self.inner.decide(state, wish)
        looked = state.masked & proposal.query_mask
        gap = proposal.gap().masked_fill(~looked, 0).sum(1, keepdim=True)
        left = state.masked.sum(1, keepdim=True)
        editable = state.editable.sum(1, keepdim=True)
        third = (3 * (editable - left) // editable.clamp(min=1)).clamp(max=2)
        commit = looked.any(1, keepdim=True) & (gap >= left * self.gap * (3 - third) / 3)
        state.memory["committed"] = state.memory["committed"] | commit
        going = ~state.memory["committed"]
        return Decision(
            torch.where(commit, state.masked, write & going),
            None if remask is None else remask & going,
            None if tokens is None else torch.where(going, tokens, proposal.tokens),
            None if random is None else random & going,
        )

    def settled(self, state):
        return state.memory["committed"] | self.inner.settled(state)

    def finished(self, state):
        return state.memory["committed"][:, 0] | self.inner.finished(state)
