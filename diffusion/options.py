"""The options of generation, once, for every script. Imports nothing heavy: `--help` is quick.

What an option may be stands in the metadata of its field: ``range`` (least, most; None: no bound)
and ``choices`` (names, with what they mean if it is a dict); `cli.values.check_values` reads them.
Options of one sampler are parameters of its constructor, see `samplers.spec`.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

from diffusion.cli.conflicts import Conflict, check_conflicts
from diffusion.cli.flags import TEXT, WRITTEN, flag
from diffusion.cli.values import check_values, one_of
from diffusion.errors import UserError
from diffusion.samplers import spec
from diffusion.samplers.catalog import (
    CAUSAL,
    NOISED,
    OLD_FLAGS,
    RANDOM,
    SAMPLERS,
    SCHEDULES,
    STEPPED,
)

N_STEPS = 10
MAX_LEN = 256
NOISED_STEPS = 64  # where random tokens are to turn into text
MAX_STEPS = 100_000

# What reads best on the full canvas at this size: (sampler, block length).
DEFAULT_SAMPLER = ("first-hitting", 1)
# The same of a model that was trained for blocks, and the blocks of its other samplers.
BLOCK_SAMPLER, BLOCK_LENGTH = "speculative", 4
# A comparison is about many tokens a pass: for a model without blocks, the reference loop.
COMPARED_SAMPLER = "random-remask"
ATTENTION = {
    "auto": "block where the model was trained for it and the task goes from left to right",
    "block": "the block being written sees what is before it, whose keys and values are kept",
    "full": "all positions see each other",
}
APPROXIMATE = {
    "prefix": "what is before the block is kept",
    "dual": "what is after it, too",
}


def _option(default, help: str, group: str = WRITTEN, **metadata):
    return flag(default, help, group=group, **metadata)


def _describe(table: dict[str, str]) -> str:
    return "; ".join(f"{name}: {line}" for name, line in table.items())


@dataclass
class SamplingOptions:
    """The options of generation that a masked and an autoregressive model share."""

    max_len: int = _option(
        MAX_LEN,
        "Tokens of prompt and new text, with <s>. By default no more than the model can see.",
        range=(3, 10**6),
        group=TEXT,
    )
    prefix_len: int = _option(
        16,
        "Prompt tokens the reference model was trained to see; longer and shorter prompts are kept "
        "whole too.",
        range=(1, None),
        group=TEXT,
        rare=True,
    )
    length: int | None = _option(
        None, "Write exactly N new tokens and do not stop at </s>.", range=(1, None), group=TEXT
    )
    temperature: float = _option(1.0, "0 takes the most probable token.", range=(0, None))
    top_k: int = _option(50, "Sample from the k best tokens; 0: from all.", range=(0, None))
    top_p: float = _option(0.95, "Then from the fewest tokens with this probability mass.")
    seed: int = _option(0, "Same seed, same text.", group=TEXT)
    repetition_penalty: float = _option(
        1.0,
        "Above 1: tokens that occur anywhere in the text become less likely.",
        range=(0.01, None),
        rare=True,
    )
    no_repeat_ngram_size: int = _option(
        0,
        "No n-gram of the text to the left is repeated; 0: off. Strict only where one token is "
        "written at a time, from left to right.",
        range=(0, None),
        rare=True,
    )

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """The options of a dictionary, as Python calls and saved files have them.

        Args:
            values: fields by name. Other names are options of the sampler, also by the names that
                fields of earlier versions had; None is no value.

        Raises:
            UserError: a name that is neither, or an option of a sampler without a sampler.
        """
        names = [f.name for f in fields(cls)]
        known = {name: value for name, value in values.items() if name in names}
        own = {name: v for name, v in values.items() if name not in known and v is not None}
        if own and "sampler" not in names:
            one_of("option", next(iter(own)), names)
        if not own:
            return cls(**known)
        own = {OLD_FLAGS[k][1] if k in OLD_FLAGS else k: value for k, value in own.items()}
        if known.get("sampler") is None and list(own) == ["draft_length"]:
            known["sampler"] = BLOCK_SAMPLER
        if known.get("sampler") is None:
            raise UserError(
                f"{next(iter(own))} is an option of a sampler, and none is named; add sampler=..., "
                f"one of {', '.join(SAMPLERS)}"
            )
        name, written = spec.split(known["sampler"])
        return cls(**known | {"sampler": spec.join(name, written | own)})

    def fitted(self, positions: int) -> Self:
        """The same for a model of so many positions, where no ``max_len`` was given."""
        chosen = self.max_len != MAX_LEN or getattr(self, "window_stride", None) is not None
        return self if chosen else replace(self, max_len=min(MAX_LEN, positions))

    def check(self) -> None:
        """Refuse values outside their range."""
        check_values(self)
        check_conflicts(BOUNDS, self)

    def check_room(self, positions: int, model: str, advice: str = " or less") -> None:
        """Refuse a canvas that is longer than the ``positions`` that a model can see."""
        if self.max_len > positions:
            raise UserError(
                f"--max_len {self.max_len} exceeds the {positions} positions of {model}; use "
                f"--max_len {positions}{advice}"
            )


@dataclass
class GenerationOptions(SamplingOptions):
    """How text is generated. A value of None means: the default of the sampler or the model."""

    sampler: str | None = _option(
        None,
        "Which positions are written in each step, such as confidence or "
        f"remdm:eta=0.02,remask=cap. Default: {BLOCK_SAMPLER} in "
        f"block attention, else {DEFAULT_SAMPLER[0]} with --block_length {DEFAULT_SAMPLER[1]}; "
        "ancestral for models trained for random tokens.",
    )
    n_steps: int | None = _option(
        None,
        f"Denoising steps; default {N_STEPS}, or {NOISED_STEPS} for models trained for random tokens "
        f"with {', '.join(NOISED)}. Only {', '.join(STEPPED)} have it; other samplers take as many "
        "steps as they need.",
        range=(1, MAX_STEPS),
    )
    schedule: str | None = _option(
        None,
        f"Noise schedule of {', '.join(NOISED)} and remdm (default linear) and confidence "
        f"(default: equal shares): {', '.join(SCHEDULES)}.",
        choices=SCHEDULES,
        rare=True,
    )
    block_length: int | None = _option(
        None,
        f"Fill blocks of N tokens from left to right. Default 0: the whole canvas at once; in block "
        f"attention {BLOCK_LENGTH}. The steps are divided among the blocks.",
        range=(0, None),
    )
    early_commit: float | None = _option(
        None,
        "Write all that is left once the mean gap between the two best logits reaches this, 2/3 and "
        "1/3 of it in the later thirds of the writing (Prophet: 7.5); default 0: never.",
        range=(0, None),
        rare=True,
    )
    attention: str = _option(
        "auto", "What a position sees. " + _describe(ATTENTION) + ".", choices=ATTENTION
    )
    cache: bool = _option(
        True,
        "Whether block attention keeps keys and values.",
        off="Block attention keeps no keys and values: the same text in more time.",
        rare=True,
    )
    approximate_cache: str | None = _option(
        None,
        "With --attention full and --block_length: keep keys and values although they change, for "
        "fewer slots and other texts. " + _describe(APPROXIMATE) + ".",
        choices=APPROXIMATE,
        rare=True,
    )
    cache_refresh: int | None = _option(
        None,
        "With --approximate_cache: compute the whole canvas in every so-many-th pass over a block; "
        "default: in the first one alone.",
        range=(1, None),
        rare=True,
    )
    guidance: float = _option(
        0.0,
        "Weight of classifier-free guidance. It doubles the forward passes.",
        range=(0, None),
    )
    soft_masking: bool = _option(
        True,
        "Whether masks carry earlier predictions, where the model was trained for soft-masking.",
        off="Masks carry no earlier predictions, in models trained for soft-masking.",
        rare=True,
    )
    skip_soft_masking: str | None = _option(
        None,
        "first: no soft-masking while more than 4/5 of the new tokens are masks; last: while fewer "
        "than 1/5 are.",
        choices=("first", "last"),
        rare=True,
    )
    forget_remasked: bool = _option(
        False,
        "With soft-masking: a mask that was a token before carries no earlier predictions.",
        rare=True,
    )
    window_stride: int | None = _option(
        None,
        "For --max_len beyond the positions of the model: write N new tokens at a time, after as much "
        "of the text before as fits.",
        range=(1, None),
        rare=True,
    )

    @property
    def sampler_name(self) -> str | None:
        """The sampler without its options."""
        return self.sampler and spec.split(self.sampler)[0]

    def own_options(self) -> dict:
        """The options in the string of the sampler, by name.

        Raises:
            UserError: an unknown sampler or option, or a value that the option does not allow.
        """
        if self.sampler is None:
            return {}
        name, written = spec.split(self.sampler)
        if not written:  # what needs no class needs no torch
            return {}
        from diffusion.samplers.make import sampler_class

        return spec.read_options(name, sampler_class(name), written)

    def resolved(self, blocks: bool = False, noise: str = "absorbing") -> "GenerationOptions":
        """The same with the default sampler and its steps filled in where none were given.

        Args:
            blocks: the model was trained for blocks, and the canvas is written from left to right.
            noise: what it was trained for, one of `catalog.NOISES`.
        """
        block_length, n_steps, attention = self.block_length, self.n_steps, self.attention
        name, own = (None, {}) if self.sampler is None else spec.split(self.sampler)
        if attention == "auto":
            attention = "block" if blocks or name in CAUSAL else "full"
        if name is None:
            # A block length asks for a sampler that fills blocks.
            drafts = attention == "block" and block_length is None and not self.plain_needed
            name = BLOCK_SAMPLER if drafts else DEFAULT_SAMPLER[0]
            if noise in RANDOM and attention == "full":
                name = "ancestral"
            elif attention == "full" and block_length is None:
                block_length = DEFAULT_SAMPLER[1]
        if attention == "block" and block_length is None and name not in CAUSAL:
            block_length = BLOCK_LENGTH
        if name in STEPPED and n_steps is None:
            n_steps = NOISED_STEPS if noise in RANDOM and name in NOISED else N_STEPS
        return replace(
            self,
            sampler=spec.join(name, own),
            attention=attention,
            block_length=block_length,
            n_steps=n_steps,
        )

    @property
    def plain_needed(self) -> bool:
        """Whether options are given that a draft cannot follow."""
        return bool(
            self.guidance
            or self.repetition_penalty != 1
            or self.no_repeat_ngram_size
            or self.early_commit is not None
            or self.window_stride is not None
        )

    def describe(self) -> str:
        """The sampler with its options, for people."""
        shared = {name: getattr(self, name) for name in SAMPLER_FLAGS}
        given = ", ".join(f"{name} {v}" for name, v in shared.items() if v is not None)
        return f"sampler {self.sampler}" + (f" ({given})" if given else "")

    def shared(self) -> SamplingOptions:
        """The options that an autoregressive model has, too."""
        return SamplingOptions(**{f.name: getattr(self, f.name) for f in fields(SamplingOptions)})

    def check(self) -> None:
        """Refuse values outside their range, and options that do not go together."""
        super().check()
        scheduled = [] if self.schedule is None else _takers("schedule")
        check_conflicts(
            CONFLICTS,
            self,
            name=self.resolved().sampler_name,
            own=self.own_options(),
            scheduled=", ".join(scheduled),
        )


def _takers(option: str) -> list[str]:
    """The samplers whose constructors take an option."""
    from diffusion.samplers.make import sampler_class

    return [name for name in SAMPLERS if option in spec.options_of(sampler_class(name))]


# Flags that are handed to the samplers that take them.
SAMPLER_FLAGS = ("n_steps", "schedule", "block_length", "early_commit")


def sampler_table(options: GenerationOptions) -> str:
    """What `--list_samplers` prints: every sampler, for the length and the steps in ``options``."""
    from diffusion.samplers.make import sampler_class

    tokens, steps = options.length or options.max_len, options.n_steps or N_STEPS
    rest = "" if options.length else " less the prompt"
    lines = [
        f"for {tokens} tokens{rest} (--length, --max_len) and {steps} steps (--n_steps)\n",
        f"{'sampler':14} {'forward passes':15} {'corrects':9} what it does; source; options",
    ]
    for name, entry in SAMPLERS.items():
        nfe = entry.nfe.replace("N + 1", str(steps + 1)).replace("N", str(steps))
        nfe, corrects = nfe.replace("L", str(tokens)), "yes" if entry.corrects else "no"
        lines += [f"{name:14} {nfe:15} {corrects:9} {entry.line}", f"{'':41}{entry.source}"]
        takes = spec.options_of(sampler_class(name))
        for option in takes.values():
            if option.name not in spec.SHARED:
                lines.append(f"{'':15}{option.describe()}")
                lines += [f"{'':19}{value}: {said}" for value, said in option.choices.items()]
        if flags := [f"--{flag}" for flag in spec.SHARED if flag in takes]:
            lines.append(f"{'':15}{', '.join(flags)}")
    return "\n".join([
        *lines,
        "",
        "an option is written after the name: --sampler remdm:eta=0.02,remask=cap",
        "with all but causal and speculative: --block_length, --early_commit",
        "with all but speculative: --guidance (twice the passes), --repetition_penalty, "
        "--no_repeat_ngram_size",
    ])  # fmt: skip


# ---------------------------------------------------------------- what does not go together
#
# Besides the options by their names: ``name`` is the sampler that will write, ``own`` its options.

BOUNDS = [
    Conflict(
        "--top_p outside (0, 1]",
        lambda o: not 0 < o.top_p <= 1,
        "--top_p {top_p} must be above 0 and at most 1",
    ),
    Conflict(
        "--seed beyond 64 bits",
        lambda o: not -(2**63) <= o.seed < 2**63,
        "--seed {seed} does not fit 64 bits; use a smaller number",
    ),
]

_CACHE = "--approximate_cache {approximate_cache}"
_LEAVE_OUT = "leave one of them out"


def _cached_with(flags: str, applies, what: str) -> Conflict:
    return Conflict(
        f"--approximate_cache with {flags}",
        lambda o: o.approximate_cache is not None and applies(o),
        f"{_CACHE} does not go with {what}; {_LEAVE_OUT}",
    )


CONFLICTS = [
    Conflict(
        "--no_cache with --attention full",
        lambda o: not o.cache and o.attention == "full",
        "--no_cache is for block attention, which keeps keys and values exactly; leave it out",
    ),
    Conflict(
        "--cache_refresh without --approximate_cache",
        lambda o: o.cache_refresh is not None and o.approximate_cache is None,
        "--cache_refresh {cache_refresh} needs --approximate_cache prefix or dual; add it or leave "
        "it out",
    ),
    Conflict(
        "--approximate_cache with --sampler causal or speculative",
        lambda o: o.approximate_cache is not None and o.name in CAUSAL,
        f"{_CACHE} needs full attention, and --sampler {{sampler}} writes by block attention; "
        f"{_LEAVE_OUT}",
    ),
    Conflict(
        "--approximate_cache without --attention full",
        lambda o: o.approximate_cache is not None and o.attention != "full",
        f"{_CACHE} needs full attention; add --attention full",
    ),
    Conflict(
        "--approximate_cache without --block_length",
        lambda o: o.approximate_cache is not None and not o.block_length,
        f"{_CACHE} keeps what is around a block; add --block_length, such as 16",
    ),
    Conflict(
        "--approximate_cache with --block_length 1",
        lambda o: o.approximate_cache is not None and o.block_length == 1,
        f"{_CACHE} saves nothing with --block_length 1, where each pass begins a block; use 2 or more",
    ),
    _cached_with(
        "--sampler wino, saber or p2:score=hidden",
        lambda o: (
            o.name in ("wino", "saber") or (o.name == "p2" and o.own.get("score") != "released")
        ),
        "--sampler {sampler}, which needs shadow copies",
    ),
    _cached_with("--guidance", lambda o: o.guidance, "--guidance {guidance}"),
    _cached_with("--early_commit", lambda o: o.early_commit, "--early_commit {early_commit}"),
    _cached_with(
        "--window_stride",
        lambda o: o.window_stride is not None,
        "--window_stride {window_stride}",
    ),
    Conflict(
        "--n_steps with a sampler that has no fixed number of steps",
        lambda o: o.n_steps is not None and o.name not in STEPPED,
        "--n_steps {n_steps}: --sampler {name} takes as many steps as it needs; leave it out, or use one of "
        f"{', '.join(STEPPED)}",
    ),
    Conflict(
        "--block_length with --sampler causal or speculative",
        lambda o: o.block_length is not None and o.name in CAUSAL,
        "--block_length {block_length}: --sampler {name} writes token by token, without blocks; leave "
        "it out or use another sampler",
    ),
    Conflict(
        "--early_commit with --sampler causal or speculative",
        lambda o: o.early_commit is not None and o.name in CAUSAL,
        "--early_commit {early_commit}: --sampler {name} writes from left to right, without masks to "
        "commit; leave it out or use another sampler",
    ),
    Conflict(
        "--attention full with --sampler causal or speculative",
        lambda o: o.attention == "full" and o.name in CAUSAL,
        "--sampler {name} reads from left to right; leave out --attention full",
    ),
    Conflict(
        "--guidance with --sampler causal or speculative",
        lambda o: o.guidance and o.name in CAUSAL,
        f"--guidance {{guidance}} does not go with --sampler {{name}}; {_LEAVE_OUT}",
    ),
    Conflict(
        "--sampler speculative with --repetition_penalty, --no_repeat_ngram_size or --window_stride",
        lambda o: o.name == "speculative" and GenerationOptions.plain_needed.fget(o),
        "--sampler speculative verifies drafts by the model alone; use --sampler causal with "
        "--repetition_penalty, --no_repeat_ngram_size and --window_stride",
    ),
    Conflict(
        "--schedule with a sampler that has none",
        lambda o: o.schedule is not None and o.name not in o.scheduled.split(", "),
        "--schedule {schedule}: --sampler {name} has no noise schedule; leave it out, or use one of "
        "{scheduled}",
    ),
    Conflict(
        "--sampler threshold:score=entropy without a threshold of at most 0",
        lambda o: (
            o.own.get("score") == "entropy"
            and o.name == "threshold"
            and not o.own.get("threshold", 1) <= 0
        ),
        "--sampler {sampler} needs a threshold of at most 0, minus the entropy in nats up to which a "
        "prediction is written, for example --sampler threshold:score=entropy,threshold=-0.5",
    ),
    Conflict(
        "--sampler threshold:threshold below 0",
        lambda o: (
            o.name == "threshold"
            and o.own.get("score") != "entropy"
            and not o.own.get("threshold", 0) >= 0
        ),
        "--sampler threshold:threshold {own[threshold]} must be a number of at least 0",
    ),
    Conflict(
        "--sampler remdm:eta with remask=conf or psi",
        lambda o: o.own.get("remask") in ("conf", "psi") and "eta" in o.own,
        "--sampler {sampler}: remask={own[remask]} has no eta; leave it out",
    ),
    Conflict(
        "--sampler remdm:kappa without remask=psi",
        lambda o: "kappa" in o.own and o.own.get("remask") != "psi",
        "--sampler {sampler}: kappa is an option of remask=psi; add that, or leave kappa out",
    ),
    # Beyond 1/9 a mask would stay one with a negative probability while 90 % are written.
    Conflict(
        "--sampler remdm:remask=loop,eta above 1/9",
        lambda o: o.own.get("remask") == "loop" and o.own.get("eta", 0) > 0.111,
        "--sampler {sampler}: with remask=loop eta must be a number from 0 to 0.111",
    ),
    Conflict(
        "--schedule with --sampler remdm:remask=loop",
        lambda o: o.own.get("remask") == "loop" and o.schedule is not None,
        "--sampler {sampler}: remask=loop has its own schedule; leave out --schedule",
    ),
]
