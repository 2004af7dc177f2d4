"""Samplers that verify what they drafted."""

from typing import Annotated

from diffusion.samplers.base import Sampler
from diffusion.samplers.spec import Range


class Speculative(Sampler):
    """Self-speculation, see `diffusion.speculative`."""

    def __init__(
        self, draft_length: Annotated[int, Range(1, 64), "tokens of the longest draft"] = 2
    ):
        self.draft_length = draft_length
