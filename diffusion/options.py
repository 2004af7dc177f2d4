"""The options of generation, once, for every script. Imports nothing heavy: `--help` is quick.

What an option may be stands in the metadata of its field: ``range`` (least, most; None: no bound)
and ``choices`` (names, with what they mean if it is a dict); `cli.checks.check_values` reads them.
Options of one sampler are parameters of its constructor, see `samplers.spec`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Self

from diffusion.cli.checks import Conflict, check_conflicts, check_values, conflict, one_of
from diffusion.cli.flags import TEXT, WRITTEN, flag
from diffusion.errors import UserError
from diffusion.samplers import catalog, spec
from diffusion.samplers.catalog import CAUSAL, SAMPLERS, SCHEDULED, SCHEDULES, STEPPED, VERIFYING

N_STEPS, MAX_LEN = 10, 256
# How tokens are drawn where neither the user nor the model's config says it.
DRAWN = {"temperature": 1.0, "top_k": 50, "top_p": 0.95}
NOISED_STEPS = 64  # where random tokens are to turn into text

# What reads best on the full canvas at this size: (sampler, block length).
DEFAULT_SAMPLER = ("first-hitting", 1)
# The same of a model that was trained for blocks, and the blocks of its other samplers.
BLOCK_SAMPLER, BLOCK_LENGTH = "speculative", 4
DRAFTED = 64  # the block of a sampler that drafts it whole
ATTENTION = {
    "auto": "block where the model was trained for it and the task goes from left to right",
    "block": "the block being written sees what is before it, whose keys and values are kept",
    "full": "all positions see each other",
}
APPROXIMATE = {
    "prefix": "what is before the block is kept",
    "dual": "what is after it, too",
}


_option = partial(flag, group=WRITTEN)


def _described(help: str, table: dict[str, str]) -> str:
    return help + " " + "; ".join(f"{name}: {line}" for name, line in table.items()) + "."


@dataclass
class SamplingOptions:
    """The options of generation that a masked and an autoregressive model share."""

    max_len: int = _option(
        MAX_LEN, "Tokens of prompt and new text, with <s>. By default no more than the model can see.",
        range=(3, 10**6), group=TEXT,
    )  # fmt: skip
    length: int | None = _option(
        None, "Write exactly N new tokens and do not stop at </s>.", range=(1, None), group=TEXT
    )
    temperature: float | None = _option(
        None, "0 takes the most probable token; default 1, or the model's.", range=(0, None)
    )
    top_k: int | None = _option(
        None,
        "Sample from the k best tokens, 0: from all; default 50, or the model's.",
        range=(0, None),
    )
    top_p: float | None = _option(
        None, "Then from the fewest tokens with this mass; default 0.95, or the model's.",
        range=(1e-6, 1),
    )  # fmt: skip
    seed: int = _option(0, "Same seed, same text.", group=TEXT, range=(-(2**63), 2**63 - 1))
    repetition_penalty: float = _option(
        1.0, "Above 1: tokens of the text become less likely.", range=(0.01, None), rare=True
    )
    no_repeat_ngram_size: int = _option(
        0, "No n-gram of the text to the left is repeated; 0: off. Strict only where one token is "
        "written at a time, from left to right.", range=(0, None), rare=True,
    )  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """The options of a dictionary, as Python calls and saved files have them.

        Args:
            values: fields by name; None is no value. For `GenerationOptions` other names are
                options of the sampler, also by the names that earlier versions had.

        Raises:
            UserError: a name that is neither, or an option of a sampler without a sampler.
        """
        known = [f.name for f in fields(cls)]
        return cls(**{one_of("option", k, known): v for k, v in values.items() if v is not None})

    def fitted(self, positions: int) -> Self:
        """The same for a model of so many positions, where no ``max_len`` was given."""
        chosen = self.max_len != MAX_LEN or getattr(self, "window_stride", None) is not None
        return self if chosen else replace(self, max_len=min(MAX_LEN, positions))

    def drawn(self, own: Mapping = MappingProxyType({})) -> Self:
        """The same with the three options of `DRAWN` filled in, by the defaults of the model first."""
        values = {name: own.get(name, value) for name, value in DRAWN.items()}
        return replace(self, **{k: v for k, v in values.items() if getattr(self, k) is None})

    @classmethod
    def own_defaults(cls, settings: dict, name: str) -> dict:
        """The options by name that the config of the model ``name`` has in ``generation`` of its
        ``settings`` of diffusion, or a `UserError` where they mean nothing."""
        own = settings.get("generation", {})
        try:
            cls.from_dict(own).check()
            if "sampler" not in own and any(name in own for name in spec.SHARED):
                raise UserError(f"{' and '.join(spec.SHARED)} need a sampler beside them")
        except (UserError, TypeError) as error:
            raise UserError(
                f"the config of {name} has invalid defaults of generation ({error}); correct them in "
                "its config.json, under diffusion"
            ) from None
        return own

    def check(self) -> None:
        """Refuse values outside their range."""
        check_values(self)

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
        None, "Which positions are written in each step, such as confidence or "
        f"remdm:eta=0.02,remask=cap. Default: {BLOCK_SAMPLER} in block attention, ancestral for "
        f"models trained for random tokens, else {DEFAULT_SAMPLER[0]} with --block_length 1.",
    )  # fmt: skip
    n_steps: int | None = _option(
        None, f"Denoising steps; default {N_STEPS}, or {NOISED_STEPS} for models trained for random "
        f"tokens. Only {', '.join(STEPPED)} have it.", range=(1, 100_000),
    )  # fmt: skip
    schedule: str | None = _option(
        None, f"Noise schedule of {', '.join(SCHEDULED)}: {', '.join(SCHEDULES)}.",
        choices=SCHEDULES, rare=True,
    )  # fmt: skip
    block_length: int | None = _option(
        None, "Fill blocks of N tokens from left to right. Default 0: the whole canvas at once; in "
        f"block attention {BLOCK_LENGTH}, with arpc {DRAFTED}. Steps are divided among the blocks.",
        range=(0, None),
    )  # fmt: skip
    early_commit: float | None = _option(
        None, "Write all that is left once the mean gap between the two best logits reaches this, 2/3 "
        "and 1/3 of it in the later thirds of the writing (Prophet: 7.5); default 0: never.",
        range=(0, None), rare=True,
    )  # fmt: skip
    clamp: float | None = _option(
        None, "Models trained for gaussian noise: after this share of the steps a predicted embedding "
        "becomes that of the nearest token; default 1: never.", range=(0, 1), rare=True,
    )  # fmt: skip
    attention: str = _option(
        "auto", _described("What a position sees.", ATTENTION), choices=ATTENTION
    )
    cache: bool = _option(
        True, "Whether block attention keeps keys and values.", rare=True,
        off="Block attention keeps no keys and values: the same text in more time.",
    )  # fmt: skip
    approximate_cache: str | None = _option(
        None, _described("With --attention full and --block_length: keep keys and values although "
        "they change, for fewer slots and other texts.", APPROXIMATE),
        choices=APPROXIMATE, rare=True,
    )  # fmt: skip
    cache_refresh: int | None = _option(
        None, "With --approximate_cache: compute the whole canvas in every so-many-th pass over a "
        "block; default: in the first one alone.", range=(1, None), rare=True,
    )  # fmt: skip
    guidance: float = _option(
        0.0, "Weight of classifier-free guidance. It doubles the forward passes.", range=(0, 1000)
    )
    soft_masking: bool = _option(
        True, "Whether masks carry earlier predictions, where the model was trained for soft-masking.",
        off="Masks carry no earlier predictions, in models trained for soft-masking.", rare=True,
    )  # fmt: skip
    window_stride: int | None = _option(
        None, "For --max_len beyond the positions of the model: write N new tokens at a time, after as "
        "much of the text before as fits.", range=(1, None), rare=True,
    )  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        names = [f.name for f in fields(cls)]
        values = {name: value for name, value in values.items() if value is not None}
        others = [name for name in values if name not in names]
        today = {name: catalog.OLD_FLAGS.get(name, name).rpartition(":")[2] for name in others}
        own = {today[name]: values.pop(name) for name in others}
        if own and "sampler" not in values:
            raise UserError(
                f"{next(iter(own))} is an option of a sampler, and none is named; add "
                f"sampler=..., one of {', '.join(SAMPLERS)}"
            )
        if own:
            name, written = spec.split(values["sampler"])
            values["sampler"] = spec.join(name, written | own)
        return cls(**values)

    @property
    def sampler_name(self) -> str | None:
        """The sampler without its options."""
        return self.sampler and spec.split(self.sampler)[0]

    def own_options(self) -> dict:
        """The options in the string of the sampler, by name.

        Raises:
            UserError: an unknown sampler or option, or a value that the option does not allow.
        """
        name, written = spec.split(self.sampler) if self.sampler else ("", {})
        if not written:  # what needs no class needs no torch
            return {}
        from diffusion.samplers.make import sampler_class

        return spec.read_options(name, sampler_class(name), written)

    def resolved(
        self,
        blocks: bool = False,
        noise: str = "absorbing",
        own: Mapping = MappingProxyType({}),
    ) -> "GenerationOptions":
        """The same with all defaults filled in.

        Args:
            blocks: the model was trained for blocks, and the canvas is written from left to right.
            noise: what it was trained for, one of `catalog.NOISES`.
            own: the defaults of the model, for those who name no sampler.
        """
        if self.sampler is not None:
            own = {}
        o = self.drawn(own)
        if blocks:
            theirs = replace(o, **{k: v for k, v in own.items() if getattr(o, k) is None})
            try:
                theirs.check()
            except (
                UserError
            ):  # flags that the sampler of the model does not go with ask for another
                theirs = o
            o = theirs
        return o._with_sampler(blocks, noise)

    def _with_sampler(self, blocks: bool, noise: str) -> "GenerationOptions":
        block_length, n_steps, attention = self.block_length, self.n_steps, self.attention
        name, own = (None, {}) if self.sampler is None else spec.split(self.sampler)
        if attention == "auto":
            attention = "block" if blocks or name in (*CAUSAL, *VERIFYING) else "full"
        if name is None and attention == "block":
            # A block length asks for a sampler that fills blocks.
            drafts = block_length is None and not self.plain_needed
            name = BLOCK_SAMPLER if drafts else DEFAULT_SAMPLER[0]
        elif name is None and noise in catalog.RANDOM:
            name = "ancestral"
        elif name is None:
            name = DEFAULT_SAMPLER[0]
            block_length = DEFAULT_SAMPLER[1] if block_length is None else block_length
        if attention == "block" and block_length is None and name not in CAUSAL:
            block_length = DRAFTED if name in VERIFYING else BLOCK_LENGTH
        if name in STEPPED and n_steps is None:
            noised = noise in catalog.RANDOM and name in catalog.NOISED
            n_steps = NOISED_STEPS if noised else N_STEPS
        filled = {"attention": attention, "block_length": block_length, "n_steps": n_steps}
        return replace(self, sampler=spec.join(name, own), **filled)

    @property
    def plain_needed(self) -> bool:
        """Whether options are given that a draft cannot follow."""
        processed = self.repetition_penalty != 1 or self.no_repeat_ngram_size
        others = (self.early_commit, self.window_stride)
        return bool(self.guidance or processed) or any(value is not None for value in others)

    def describe(self) -> str:
        """The sampler with its options, for people."""
        shared = {name: getattr(self, name) for name in SAMPLER_FLAGS}
        given = ", ".join(f"{name} {v}" for name, v in shared.items() if v is not None)
        return f"sampler {self.sampler}" + (f" ({given})" if given else "")

    def shared(self) -> SamplingOptions:
        """The options that an autoregressive model has, too."""
        return SamplingOptions(**{f.name: getattr(self, f.name) for f in fields(SamplingOptions)})

    def check(self) -> None:
        """Refuse values outside their range, and options that do not go together. Where no sampler is
        named, only `resolved` options, which have that of the model, are checked against it."""
        super().check()
        check_conflicts(CONFLICTS, self, name=self.sampler_name, own=self.own_options())


# Flags that are handed to the samplers that take them.
SAMPLER_FLAGS = ("n_steps", "schedule", "block_length", "early_commit", "clamp")


def sampler_table() -> str:
    """What `--list_samplers` prints: every sampler and its options."""
    from diffusion.samplers.make import sampler_class

    lines = [
        "forward passes are those of N steps (--n_steps) and L tokens (--length, --max_len)\n",
        f"{'sampler':16}{'forward passes':16}{'corrects':10}what it does; source; options",
    ]
    for name, entry in SAMPLERS.items():
        corrects = "yes" if entry.corrects else "no"
        lines += [f"{name:16}{entry.nfe:16}{corrects:10}{entry.line}", f"{'':42}{entry.source}"]
        for option in spec.options_of(sampler_class(name)).values():
            shared = option.name in spec.SHARED
            lines.append(f"{'':16}" + (f"--{option.name}" if shared else option.describe()))
            choices = {} if shared else option.choices
            lines += [f"{'':20}{value}: {said}" for value, said in choices.items()]
    return "\n".join([
        *lines,
        "",
        "an option is written after the name: --sampler remdm:eta=0.02,remask=cap",
        "with all but causal and speculative: --block_length; and arpc: --early_commit, --guidance",
        "with all but speculative and arpc: --repetition_penalty, --no_repeat_ngram_size",
    ])  # fmt: skip


# ---------------------------------------------------------------- what does not go together
#
# Besides the options by their names: ``name`` is the sampler that will write, or None where that is up
# to the model, ``own`` its options.

_CACHE = "--approximate_cache {approximate_cache}"
_NOT_CAUSAL = ("attention", "block_length", "early_commit", "guidance", "approximate_cache")


def _with_causal(flag: str) -> Conflict:
    return Conflict(
        f"--{flag} with --sampler causal or speculative",
        lambda o: o.name in CAUSAL and getattr(o, flag) not in (None, 0, "auto", "block"),
        f"--{flag} {{{flag}}} does not go with --sampler {{name}}, which writes from left to right, "
        "token by token; leave one of them out",
    )


CONFLICTS = [
    conflict("--cache_refresh {cache_refresh} without --approximate_cache", "needs a cache"),
    *map(_with_causal, _NOT_CAUSAL),
    Conflict(
        "--sampler speculative or arpc with --repetition_penalty, --no_repeat_ngram_size, "
        "--window_stride, --early_commit or --guidance",
        lambda o: o.name in VERIFYING and GenerationOptions.plain_needed.fget(o),
        "--sampler {name} verifies drafts by the model alone; use --sampler causal with "
        "--repetition_penalty, --no_repeat_ngram_size and --window_stride, and confidence with "
        "--early_commit and --guidance",
    ),
    Conflict(
        "--sampler arpc with --attention full or --approximate_cache",
        lambda o: o.name == "arpc" and (o.attention == "full" or o.approximate_cache),
        "--sampler arpc reads its drafts by block attention; leave --attention and "
        "--approximate_cache out",
    ),
    conflict(f"{_CACHE} without --attention full", "needs full attention"),
    Conflict(
        "--approximate_cache without --block_length of 2 or more",
        lambda o: o.approximate_cache is not None and (o.block_length or 0) < 2,
        f"{_CACHE} keeps what is around a block; add --block_length of 2 or more, such as 16",
    ),
    Conflict(
        "--approximate_cache with --sampler wino, saber or p2:score=hidden",
        lambda o: (
            o.approximate_cache
            and (
                o.name in ("wino", "saber") or (o.name == "p2" and o.own.get("score") != "released")
            )
        ),
        f"{_CACHE} does not go with --sampler {{sampler}}, which needs shadow copies; leave one out",
    ),
    *(
        conflict(f"{_CACHE} with --{flag} {{{flag}}}", "is for plain passes over one canvas")
        for flag in ("guidance", "early_commit", "window_stride")
    ),
    Conflict(
        "--n_steps with a sampler that has no fixed number of steps",
        lambda o: o.name and o.n_steps is not None and o.name not in STEPPED,
        "--n_steps {n_steps}: --sampler {name} takes as many steps as it needs; leave it out, or use "
        f"one of {', '.join(STEPPED)}",
    ),
    Conflict(
        "--schedule with a sampler that has none",
        lambda o: (
            o.name and o.schedule and (o.name not in SCHEDULED or o.own.get("remask") == "loop")
        ),
        "--schedule {schedule}: --sampler {sampler} has no noise schedule to choose; leave it out, or "
        f"use one of {', '.join(SCHEDULED)}",
    ),
    Conflict(
        "--sampler remdm with an option that its remask does not have",
        lambda o: (
            ("eta" in o.own and o.own.get("remask") in ("conf", "psi"))
            or ("kappa" in o.own and o.own.get("remask") != "psi")
        ),
        "--sampler {sampler}: eta is an option of remask=cap, rescale and loop, and kappa of psi; leave "
        "it out",
    ),
]
