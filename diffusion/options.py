"""The options of generation, once, for every script. Imports nothing heavy: `--help` is quick."""

import difflib
from dataclasses import dataclass, field, fields
from typing import ClassVar

from .errors import UserError

# One line each, shown by --help and in the README. The classes are in samplers.py.
SAMPLERS = {
    "seed": "the reference loop: write everything, re-mask a shrinking random part (NFE: steps)",
    "ancestral": "each mask opens with the probability of the reverse process (NFE: at most steps + 1)",
    "first-hitting": "exact continuous time, one token at a time in random order (NFE: tokens)",
    "confidence": "the surest predictions first, an equal share each step (NFE: steps)",
    "threshold": "every prediction surer than --threshold, at least one (NFE: as needed)",
    "entropy-bound": "as many as keep the joint error bound under --entropy_bound (NFE: as needed)",
}
STEPPED = ("seed", "ancestral", "confidence")  # those that heed --n_steps
SCORES = {
    "probability": "probability of the drawn token (LLaDA)",
    "sharpened": "the same after temperature, top-k and top-p (Dream)",
    "margin": "probability of the best minus the second best token",
    "entropy": "minus the entropy of the prediction",
}
SCHEDULES = ("linear", "log-linear", "cosine-a", "cosine-b")


N_STEPS = 10
MAX_STEPS = 100_000

# What reads best with the embedded model: (sampler, block length). The README says why.
DEFAULT_SAMPLER = ("first-hitting", 1)


# A comparison is about many tokens a pass: the reference loop.
COMPARED_SAMPLER = "seed"


def _describe(table: dict[str, str]) -> str:
    return "; ".join(f"{name}: {line}" for name, line in table.items())


@dataclass
class GenerationOptions:
    """How text is generated. A value of None means: the sampler's own default."""

    max_len: int = field(
        default=256, metadata={"help": "Tokens on the canvas: prompt, new text and <s>."}
    )
    prefix_len: int = field(
        default=16,
        metadata={"help": "Prompt tokens the reference model was trained to see; longer and "
                  "shorter prompts are kept whole too."},
    )  # fmt: skip
    length: int | None = field(
        default=None, metadata={"help": "Write exactly so many new tokens and do not stop at </s>."}
    )
    n_steps: int | None = field(
        default=None,
        metadata={"help": f"Denoising steps of {', '.join(STEPPED)}; default {N_STEPS}. The other "
                  "samplers take as many as they need."},
    )  # fmt: skip
    temperature: float = field(default=1.0, metadata={"help": "0 takes the most probable token."})
    top_k: int = field(default=50, metadata={"help": "Sample from the k best tokens; 0: from all."})
    top_p: float = field(
        default=0.95, metadata={"help": "Then from the fewest tokens with this probability mass."}
    )
    seed: int = field(default=0, metadata={"help": "Same seed, same text."})
    sampler: str | None = field(
        default=None,
        metadata={"help": f"Default: {DEFAULT_SAMPLER[0]} with --block_length "
                  f"{DEFAULT_SAMPLER[1]}. " + _describe(SAMPLERS)},
    )  # fmt: skip
    certainty: str | None = field(
        default=None,
        metadata={"help": "What 'sure' means for confidence and threshold (default probability) and "
                  "entropy-bound (default entropy). " + _describe(SCORES)},
    )  # fmt: skip
    schedule: str | None = field(
        default=None,
        metadata={
            "help": f"Mask schedule of ancestral (default linear) and confidence "
            f"(default: equal shares): {', '.join(SCHEDULES)}."
        },
    )
    alg_temp: float | None = field(
        default=None, metadata={"help": "confidence: randomness of the order; default 0, none."}
    )
    threshold: float | None = field(
        default=None,
        metadata={"help": "threshold: write predictions at least so sure; default 0.9."},
    )
    entropy_bound: float | None = field(
        default=None,
        metadata={"help": "entropy-bound: bound on the joint error in nats; default 0.1."},
    )
    block_length: int | None = field(
        default=None,
        metadata={"help": "first-hitting, threshold, entropy-bound: fill blocks of so many tokens "
                  "from left to right; default 0: the whole canvas at once."},
    )  # fmt: skip

    # Which options belong to which sampler.
    _OWN: ClassVar = {
        "n_steps": STEPPED,
        "certainty": ("confidence", "threshold", "entropy-bound"),
        "schedule": ("ancestral", "confidence"),
        "alg_temp": ("confidence",),
        "threshold": ("threshold",),
        "entropy_bound": ("entropy-bound",),
        "block_length": ("first-hitting", "threshold", "entropy-bound"),
    }

    def sampler_options(self) -> dict:
        """The same by the names that `samplers` has for them."""
        # The flag is not called --score: that one scores texts.
        return {
            "score" if k == "certainty" else k: value for k, value in self.own_options().items()
        }

    def own_options(self) -> dict:
        """The sampler's own options that were given, by the names of their flags."""
        given = {name: getattr(self, name) for name in self._OWN}
        return {name: value for name, value in given.items() if value is not None}

    def describe(self) -> str:
        """The sampler with its options, for people."""
        own = ", ".join(f"{name} {value}" for name, value in self.own_options().items())
        return f"sampler {self.sampler}" + (f" ({own})" if own else "")

    # What an autoregressive model understands, too.
    COMMON: ClassVar = (
        "max_len", "prefix_len", "length", "temperature", "top_k", "top_p", "seed",
    )  # fmt: skip

    def check_autoregressive(self) -> None:
        """Refuse values outside their range, and options that only diffusion has."""
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in self.COMMON and value != option.default:
                raise UserError(
                    f"--{option.name} {value} steers diffusion; GPT-2 writes one token a forward "
                    "pass, from left to right: leave it out, or use inference.py"
                )
        self._check_common()

    def check(self) -> None:
        """Refuse values outside their range, and options the chosen sampler does not have."""
        self._check_common()
        if self.sampler is None:
            self.sampler, block_length = DEFAULT_SAMPLER
            self.block_length = block_length if self.block_length is None else self.block_length
        self.sampler = one_of("--sampler", self.sampler, SAMPLERS)
        if self.n_steps is not None:
            at_least("--n_steps", self.n_steps, 1)
            if self.n_steps > MAX_STEPS:
                raise UserError(f"--n_steps {self.n_steps} is beyond {MAX_STEPS}; use fewer")
        for name, owners in self._OWN.items():
            if getattr(self, name) is not None and self.sampler not in owners:
                raise UserError(
                    f"--{name} is an option of --sampler {' or '.join(owners)}, not of "
                    f"{self.sampler}; leave it out or change the sampler"
                )
        if self.sampler in STEPPED and self.n_steps is None:
            self.n_steps = N_STEPS
        if self.certainty is not None:
            self.certainty = one_of("--certainty", self.certainty, SCORES)
        if self.schedule is not None:
            self.schedule = one_of("--schedule", self.schedule, SCHEDULES)
        if self.alg_temp is not None:
            at_least("--alg_temp", self.alg_temp, 0)
        if self.threshold is not None and self.certainty != "entropy":  # that score is negative
            at_least("--threshold", self.threshold, 0)
        if self.block_length is not None:
            at_least("--block_length", self.block_length, 0)
        if self.entropy_bound is not None:
            at_least("--entropy_bound", self.entropy_bound, 0)

    def _check_common(self) -> None:
        at_least("--max_len", self.max_len, 3)
        at_least("--prefix_len", self.prefix_len, 1)
        at_least("--top_k", self.top_k, 0)
        at_least("--temperature", self.temperature, 0)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p {self.top_p} must be above 0 and at most 1")
        if self.length is not None:
            at_least("--length", self.length, 1)
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} does not fit 64 bits; use a smaller number")


def at_least(flag: str, value: float, least: float) -> None:
    if not value >= least or value == float("inf"):  # "not >=" catches nan
        raise UserError(f"{flag} {value} must be a number of at least {least}")


def one_of(flag: str, value: str, names) -> str:
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{flag} {value!r} is unknown; {hint}use one of {', '.join(names)}")
