"""The options of generation, once, for every script. Imports nothing heavy: `--help` is quick."""

import difflib
from dataclasses import dataclass, field, fields
from typing import ClassVar, NamedTuple

from diffusion.errors import UserError


class Facts(NamedTuple):
    """What --list_samplers and the README say of a sampler."""

    line: str  # what it does
    nfe: str  # forward passes for N steps and L tokens to be written
    corrects: bool  # whether it can take back what it wrote
    source: str


# One line each, in the order of --help and the README. The classes are in samplers.py.
SAMPLERS = {
    "seed": Facts("the reference loop: write everything, re-mask a shrinking random part", "at most N", True, "RoBERTaDiffusion"),
    "ancestral": Facts("each mask opens with the probability of the reverse process", "at most N + 1", False, "MDLM, arXiv:2406.07524"),
    "first-hitting": Facts("exact continuous time, one token at a time in random order", "L", False, "arXiv:2409.02908"),
    "confidence": Facts("the surest predictions first, an equal share each step", "at most N", False, "LLaDA, arXiv:2502.09992; Dream, arXiv:2508.15487"),
    "threshold": Facts("every prediction surer than --threshold, at least one", "1 to L", False, "Fast-dLLM, arXiv:2505.22618"),
    "factor": Facts("the n surest, as many as (n + 1) (1 - probability) < --factor allows", "1 to L", False, "Fast-dLLM, arXiv:2505.22618"),
    "entropy-bound": Facts("as many as keep the joint error bound under --entropy_bound", "1 to L", False, "arXiv:2505.24857"),
    "klass": Facts("sure predictions that have stopped moving, at least one", "1 to L", False, "KLASS, arXiv:2511.05664"),
    "remdm": Facts("ancestral, and written tokens become masks again with probability sigma", "at most N + 1", True, "ReMDM, arXiv:2503.00307; psi: s-sahoo/duo"),
    "p2": Facts("keeps the best-scored k/N of all tokens, written or drawn, masks the rest", "N", True, "P2, arXiv:2502.03540"),
    "wino": Facts("drafts many, takes back those that shadow copies doubt", "1 to L", True, "WINO, arXiv:2507.18578"),
    "saber": Facts("surer than the average so far; takes back whose probability fell most", "1 to L", True, "Saber, arXiv:2510.18165"),
}  # fmt: skip
STEPPED = ("seed", "ancestral", "confidence", "remdm", "p2")  # those that heed --n_steps
REMASK = {
    "cap": "at most --eta",
    "rescale": "--eta times the largest valid one",
    "conf": "more for tokens that were written unsurely",
    "loop": "--eta while a tenth stays masked, in the middle of the time",
    "psi": "--kappa times ancestral, the rest as the seed loop",
}
P2_SCORES = {
    "hidden": "log-probability of the token, unseen by the model",
    "released": "of a fresh draw by a model that sees the token",
}
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
                  f"{DEFAULT_SAMPLER[1]}. --list_samplers tells more. "
                  + _describe({name: facts.line for name, facts in SAMPLERS.items()})},
    )  # fmt: skip
    certainty: str | None = field(
        default=None,
        metadata={"help": "What 'sure' means for confidence and threshold (default probability) and "
                  "entropy-bound (default entropy). " + _describe(SCORES)},
    )  # fmt: skip
    schedule: str | None = field(
        default=None,
        metadata={
            "help": f"Mask schedule of ancestral and remdm (default linear) and confidence "
            f"(default: equal shares): {', '.join(SCHEDULES)}."
        },
    )
    time_power: float | None = field(
        default=None,
        metadata={"help": "seed, ancestral, remdm, p2: step k of N ends at time (1 - k/N) to this "
                  "power; default 1, even steps; above 1 the first are the longest."},
    )  # fmt: skip
    clock_delay: float | None = field(
        default=None,
        metadata={"help": "seed, ancestral, remdm: left positions run on an earlier clock; the "
                  "rightmost starts after this share of the time; default 0, one clock."},
    )  # fmt: skip
    alg_temp: float | None = field(
        default=None, metadata={"help": "confidence: randomness of the order; default 0, none."}
    )
    threshold: float | None = field(
        default=None,
        metadata={"help": "threshold, klass (default 0.9), wino (default 0.6): write predictions "
                  "with at least this score."},
    )  # fmt: skip
    factor: float | None = field(
        default=None, metadata={"help": "factor: the larger, the more at once; default 1."}
    )
    entropy_bound: float | None = field(
        default=None,
        metadata={"help": "entropy-bound: bound on the joint error in nats (gamma); default 0.1."},
    )
    kl_threshold: float | None = field(
        default=None,
        metadata={
            "help": "klass: a prediction is still when it moved by less, nats; default 0.01."
        },
    )
    history: int | None = field(
        default=None, metadata={"help": "klass: steps a prediction must be still; default 2."}
    )
    remask: str | None = field(
        default=None,
        metadata={"help": "remdm: how sigma, the probability of masking a written token again, is "
                  "chosen (default cap). " + _describe(REMASK)},
    )  # fmt: skip
    eta: float | None = field(
        default=None,
        metadata={"help": "remdm: default 0.04 (cap; 0.008 from 1024 steps on), 0.015 (rescale), "
                  "0.02 (loop). p2: weight of doubt in written tokens; default 1, 0: none."},
    )  # fmt: skip
    kappa: float | None = field(
        default=None, metadata={"help": "remdm --remask psi: 1 is ancestral, 0 seed; default 0.9."}
    )
    p2_score: str | None = field(
        default=None,
        metadata={"help": "p2: score of a written token (default hidden). " + _describe(P2_SCORES)},
    )
    threshold_back: float | None = field(
        default=None,
        metadata={"help": "wino: written tokens less probable than this are doubted; default 0.9."},
    )
    min_tokens: int | None = field(
        default=None, metadata={"help": "saber: write at least so many a step; default 2."}
    )
    mu: int | None = field(
        default=None,
        metadata={"help": "saber: take back one token for so many written; default 8."},
    )
    block_length: int | None = field(
        default=None,
        metadata={"help": "Any sampler: fill blocks of so many tokens from left to right, the "
                  "steps divided among them; default 0: the whole canvas at once."},
    )  # fmt: skip
    early_commit: float | None = field(
        default=None,
        metadata={"help": "Any sampler: write all that is left once the mean gap between the two "
                  "best logits reaches this, 2/3 and 1/3 of it in the later thirds of the writing "
                  "(Prophet: 7.5); default 0: never."},
    )  # fmt: skip
    guidance: float = field(
        default=0.0,
        metadata={"help": "Weight of classifier-free guidance towards the prompt; doubles the "
                  "forward passes; 0: none."},
    )  # fmt: skip
    repetition_penalty: float = field(
        default=1.0,
        metadata={"help": "Above 1: tokens that stand anywhere in the text become less likely."},
    )
    no_repeat_ngram_size: int = field(
        default=0,
        metadata={"help": "No n-gram that stands to the left is completed again; 0: off. Strict "
                  "only where one token is written at a time, from left to right."},
    )  # fmt: skip
    window_stride: int | None = field(
        default=None,
        metadata={"help": "For --max_len beyond the positions of the model: write so many new "
                  "tokens at a time, after what still fits of the text before."},
    )  # fmt: skip

    # Which options belong to which sampler.
    _OWN: ClassVar = {
        "n_steps": STEPPED,
        "certainty": ("confidence", "threshold", "entropy-bound"),
        "schedule": ("ancestral", "confidence", "remdm"),
        "time_power": ("seed", "ancestral", "remdm", "p2"),
        "clock_delay": ("seed", "ancestral", "remdm"),
        "alg_temp": ("confidence",),
        "threshold": ("threshold", "klass", "wino"),
        "factor": ("factor",),
        "entropy_bound": ("entropy-bound",),
        "kl_threshold": ("klass",),
        "history": ("klass",),
        "remask": ("remdm",),
        "eta": ("remdm", "p2"),
        "kappa": ("remdm",),
        "p2_score": ("p2",),
        "threshold_back": ("wino",),
        "min_tokens": ("saber",),
        "mu": ("saber",),
        "block_length": tuple(SAMPLERS),
        "early_commit": tuple(SAMPLERS),
    }
    # Least and largest value of each; None: no bound.
    _RANGES: ClassVar = {
        "n_steps": (1, MAX_STEPS),
        "max_len": (3, None),
        "prefix_len": (1, None),
        "length": (1, None),
        "temperature": (0, None),
        "top_k": (0, None),
        "alg_temp": (0, None),
        "time_power": (0.01, 100),
        "clock_delay": (0, 0.999),
        "factor": (0, None),
        "entropy_bound": (0, None),
        "kl_threshold": (0, None),
        "history": (1, None),
        "eta": (0, None),
        "kappa": (0, 1),
        "threshold_back": (0, 1),
        "min_tokens": (2, None),
        "mu": (1, None),
        "block_length": (0, None),
        "early_commit": (0, None),
        "guidance": (0, None),
        "repetition_penalty": (0.01, None),
        "no_repeat_ngram_size": (0, None),
        "window_stride": (1, None),
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
        "repetition_penalty", "no_repeat_ngram_size",
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
        self._check_ranges(name for name in self._RANGES if name not in self.COMMON)
        for name, owners in self._OWN.items():
            if getattr(self, name) is not None and self.sampler not in owners:
                raise UserError(
                    f"--{name} is an option of --sampler {' or '.join(owners)}, not of "
                    f"{self.sampler}; leave it out or change the sampler"
                )
        if self.sampler in STEPPED and self.n_steps is None:
            self.n_steps = N_STEPS
        for name, table in (
            ("certainty", SCORES),
            ("schedule", SCHEDULES),
            ("remask", REMASK),
            ("p2_score", P2_SCORES),
        ):
            if getattr(self, name) is not None:
                setattr(self, name, one_of(f"--{name}", getattr(self, name), table))
        if self.sampler == "threshold" and self.certainty == "entropy":
            if self.threshold is None or not self.threshold <= 0:
                given = (
                    "needs --threshold"
                    if self.threshold is None
                    else f"--threshold {self.threshold}"
                )
                raise UserError(
                    f"--certainty entropy {given}: a number of at most 0, minus the entropy in nats "
                    "up to which a prediction is sure, for example -0.5"
                )
        elif self.threshold is not None:
            at_least("--threshold", self.threshold, 0)
        if self.sampler == "remdm":
            self._check_remask()

    def _check_remask(self) -> None:
        remask = self.remask or "cap"
        if self.eta is not None and remask in ("conf", "psi"):
            raise UserError(f"--remask {remask} has no --eta; leave it out")
        if self.kappa is not None and remask != "psi":
            raise UserError(f"--kappa is an option of --remask psi, not of {remask}; leave it out")
        if self.schedule is not None and remask == "loop":
            raise UserError("--remask loop has its own schedule; leave out --schedule")
        if self.eta is not None:
            # Beyond 1/9 a mask would stay one with a negative probability while 90 % are written.
            within("--eta", self.eta, 0, 0.111 if remask == "loop" else 1)

    def _check_common(self) -> None:
        self._check_ranges(name for name in self._RANGES if name in self.COMMON)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p {self.top_p} must be above 0 and at most 1")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} does not fit 64 bits; use a smaller number")

    def _check_ranges(self, names) -> None:
        for name in names:
            if getattr(self, name) is not None:
                within(f"--{name}", getattr(self, name), *self._RANGES[name])


@dataclass
class PairOptions:
    """Two models to hold against each other, and where they compute."""

    model: str = field(
        default="roberta-small-wikitext",
        metadata={"help": "The masked LM: folder, name in weights/, or hub name."},
    )
    baseline: str = field(
        default="gpt2-small-wikitext",
        metadata={"help": "The causal LM: folder, name in weights/, or hub name such as gpt2."},
    )
    device: str = field(default="auto", metadata={"help": "auto: CUDA, then MPS, then CPU."})
    dtype: str = field(
        default="auto", metadata={"help": "float32, bfloat16, float16 or auto, as in inference.py."}
    )


def at_least(flag: str, value: float, least: float) -> None:
    if not value >= least or value == float("inf"):  # "not >=" catches nan
        raise UserError(f"{flag} {value} must be a number of at least {least}")


def within(flag: str, value: float, least: float, most: float | None) -> None:
    if most is None:
        at_least(flag, value, least)
    elif not least <= value <= most:
        raise UserError(f"{flag} {value} must be a number from {least} to {most}")


def sampler_table(options: GenerationOptions) -> str:
    """What `--list_samplers` prints: every sampler, for the length and the steps asked for."""
    tokens, steps = options.length or options.max_len, options.n_steps or N_STEPS
    rest = "" if options.length else " less the prompt"
    any_sampler = tuple(SAMPLERS)
    lines = [
        f"for {tokens} tokens{rest} (--length, --max_len) and {steps} steps (--n_steps)\n",
        f"{'sampler':14} {'forward passes':15} {'corrects':9} what it does; its options; source",
    ]
    for name, facts in SAMPLERS.items():
        own = [f"--{o}" for o, owners in options._OWN.items() if name in owners != any_sampler]
        nfe = facts.nfe.replace("N + 1", str(steps + 1)).replace("N", str(steps))
        nfe, corrects = nfe.replace("L", str(tokens)), "yes" if facts.corrects else "no"
        lines.append(f"{name:14} {nfe:15} {corrects:9} {facts.line}")
        lines += [f"{'':41}{' '.join(own)}"] if own else []
        lines.append(f"{'':41}{facts.source}")
    shared = [f"--{o}" for o, owners in options._OWN.items() if owners == any_sampler]
    shared += ["--guidance (twice the passes)", "--repetition_penalty", "--no_repeat_ngram_size"]
    return "\n".join([*lines, "", "with any of them: " + ", ".join(shared)])


def one_of(flag: str, value: str, names) -> str:
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{flag} {value!r} is unknown; {hint}use one of {', '.join(names)}")
