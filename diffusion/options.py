"""The options of generation, once, for every script. Imports nothing heavy: `--help` is quick.

What an option may be stands in the metadata of its field: ``range`` (least, most; None: no bound),
``below`` (a bound that is not reached), ``choices`` (names, with what they mean if it is a dict),
``owners`` (the samplers it belongs to), and ``shared`` where an autoregressive model understands
it, too. `cli.values.check_values` reads them, for any dataclass of options.
"""

from dataclasses import dataclass, field, fields, replace

from diffusion.cli.values import at_least, check_values, within
from diffusion.errors import UserError
from diffusion.samplers.catalog import (
    AROUND,
    CAUSAL,
    METHODS,
    NOISED,
    P2_SCORES,
    RANDOM,
    REMASK,
    SCHEDULES,
    SCORES,
    SHADOWED,
    STEPPED,
    owners,
)

N_STEPS = 10
MAX_LEN = 256
NOISED_STEPS = 64  # where random tokens are to turn into text
MAX_STEPS = 100_000

# What reads best on the full canvas at this size: (sampler, block length).
DEFAULT_SAMPLER = ("first-hitting", 1)
# The same of a model that was trained for blocks, and the blocks of its other samplers.
BLOCK_SAMPLER, BLOCK_LENGTH = "speculative", 4
DRAFT_LENGTH = 2
ATTENTION = {
    "auto": "block where the model was trained for it and the task goes from left to right",
    "block": "the block being written sees what is before it, whose keys and values are kept",
    "full": "all positions see each other",
}
APPROXIMATE = {
    "prefix": "what stands before the block is kept",
    "dual": "what stands behind it, too",
}

# A comparison is about many tokens a pass: of a model without blocks, the reference loop.
COMPARED_SAMPLER = "seed"


def _option(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


def _describe(table: dict[str, str]) -> str:
    return "; ".join(f"{name}: {line}" for name, line in table.items())


@dataclass
class GenerationOptions:
    """How text is generated. A value of None means: the sampler's own default."""

    max_len: int = _option(
        MAX_LEN,
        "Tokens on the canvas: prompt, new text and <s>; by default no more than the model can see.",
        range=(3, 10**6),
        shared=True,
    )
    prefix_len: int = _option(
        16,
        "Prompt tokens the reference model was trained to see; longer and "
        "shorter prompts are kept whole too.",
        range=(1, None),
        shared=True,
    )
    length: int | None = _option(
        None,
        "Write exactly so many new tokens and do not stop at </s>.",
        range=(1, None),
        shared=True,
    )
    n_steps: int | None = _option(
        None,
        f"Denoising steps of {', '.join(STEPPED)}; default {N_STEPS}, or {NOISED_STEPS} where a model "
        f"trained for random tokens writes by {', '.join(NOISED)}. The other samplers take as many as "
        "they need.",
        range=(1, MAX_STEPS),
        owners=owners("n_steps"),
    )
    temperature: float = _option(
        1.0, "0 takes the most probable token.", range=(0, None), shared=True
    )
    top_k: int = _option(
        50, "Sample from the k best tokens; 0: from all.", range=(0, None), shared=True
    )
    top_p: float = _option(
        0.95, "Then from the fewest tokens with this probability mass.", shared=True
    )
    seed: int = _option(0, "Same seed, same text.", shared=True)
    sampler: str | None = _option(
        None,
        f"Default: {BLOCK_SAMPLER} in block attention, else {DEFAULT_SAMPLER[0]} with "
        f"--block_length {DEFAULT_SAMPLER[1]}; ancestral for models trained for random tokens. --list_samplers tells more. "
        + _describe({name: facts.line for name, facts in METHODS.items()}),
        choices=METHODS,
    )
    attention: str = _option(
        "auto", "What a position sees. " + _describe(ATTENTION) + ".", choices=ATTENTION
    )
    cache: bool = _option(
        True, "Whether block attention keeps keys and values. Without, the same text in more time."
    )
    approximate_cache: str | None = _option(
        None,
        "With --attention full and --block_length: keep keys and values although they change, for "
        "fewer slots and other texts. " + _describe(APPROXIMATE) + ".",
        choices=APPROXIMATE,
    )
    cache_refresh: int | None = _option(
        None,
        "With --approximate_cache: compute the whole canvas in every so-many-th pass over a block; "
        "default: in the first one alone.",
        range=(1, None),
    )
    certainty: str | None = _option(
        None,
        "What 'sure' means for confidence and threshold (default probability) and "
        "entropy-bound (default entropy). " + _describe(SCORES),
        choices=SCORES,
        owners=owners("certainty"),
    )
    schedule: str | None = _option(
        None,
        f"Noise schedule of {', '.join(NOISED)} and remdm (default linear) and confidence "
        f"(default: equal shares): {', '.join(SCHEDULES)}.",
        choices=SCHEDULES,
        owners=owners("schedule"),
    )
    time_power: float | None = _option(
        None,
        "Samplers with steps but confidence: step k of N ends at time (1 - k/N) to this "
        "power; default 1, even steps; above 1 the first are the longest.",
        range=(0.01, 100),
        owners=owners("time_power"),
    )
    clock_delay: float | None = _option(
        None,
        "The same but p2: left positions run on an earlier clock; the "
        "rightmost starts after this share of the time; default 0, one clock.",
        range=(0, 0.999),
        owners=owners("clock_delay"),
    )
    alg_temp: float | None = _option(
        None,
        "confidence: randomness of the order; default 0, none.",
        range=(0, 1e6),
        owners=owners("alg_temp"),
    )
    threshold: float | None = _option(
        None,
        "threshold, klass (default 0.9), wino (default 0.6): write predictions "
        "with at least this score.",
        owners=owners("threshold"),
    )
    factor: float | None = _option(
        None,
        "factor: the larger, the more at once; default 1.",
        range=(0, None),
        owners=owners("factor"),
    )
    entropy_bound: float | None = _option(
        None,
        "entropy-bound: bound on the joint error in nats (gamma); default 0.1.",
        range=(0, None),
        owners=owners("entropy_bound"),
    )
    kl_threshold: float | None = _option(
        None,
        "klass: a prediction is still when it moved by less, nats; default 0.01.",
        range=(0, None),
        owners=owners("kl_threshold"),
    )
    history: int | None = _option(
        None,
        "klass: steps a prediction must be still; default 2.",
        range=(1, None),
        owners=owners("history"),
    )
    remask: str | None = _option(
        None,
        "remdm: how sigma, the probability of masking a written token again, is "
        "chosen (default cap). " + _describe(REMASK),
        choices=REMASK,
        owners=owners("remask"),
    )
    eta: float | None = _option(
        None,
        "remdm: default 0.04 (cap; 0.008 from 1024 steps on), 0.015 (rescale), "
        "0.02 (loop). p2: weight of doubt in written tokens; default 1, 0: none.",
        range=(0, None),
        owners=owners("eta"),
    )
    kappa: float | None = _option(
        None,
        "remdm --remask psi: 1 is ancestral, 0 seed; default 0.9.",
        range=(0, 1),
        owners=owners("kappa"),
    )
    sigma: float | None = _option(
        None,
        "ddim: how firmly what stands there stays; default 1, no fresh noise; 0: all is noised anew.",
        range=(0, 1),
        owners=owners("sigma"),
    )
    corrections: int | None = _option(
        None,
        "self-correction: at most so many swaps; default 128.",
        range=(1, MAX_STEPS),
        owners=owners("corrections"),
    )
    patience: int | None = _option(
        None,
        "self-correction: ends after so many swaps that did not bring the text nearer to the most "
        "probable one; default 32.",
        range=(0, None),
        owners=owners("patience"),
    )
    swap_temperature: float | None = _option(
        None,
        "self-correction: temperature of the tokens that are swapped in; default 0.1.",
        range=(0, None),
        owners=owners("swap_temperature"),
    )
    p2_score: str | None = _option(
        None,
        "p2: score of a written token (default hidden). " + _describe(P2_SCORES),
        choices=P2_SCORES,
        owners=owners("p2_score"),
    )
    threshold_back: float | None = _option(
        None,
        "wino: written tokens less probable than this are doubted; default 0.9.",
        range=(0, 1),
        owners=owners("threshold_back"),
    )
    min_tokens: int | None = _option(
        None,
        "saber: write at least so many a step; default 2.",
        range=(2, None),
        owners=owners("min_tokens"),
    )
    mu: int | None = _option(
        None,
        "saber: take back one token for so many written; default 8.",
        range=(1, None),
        owners=owners("mu"),
    )
    block_length: int | None = _option(
        None,
        "Any sampler: fill blocks of so many tokens from left to right, the "
        "steps divided among them; default 0: the whole canvas at once; in block "
        f"attention {BLOCK_LENGTH}.",
        range=(0, None),
        owners=owners("block_length"),
    )
    draft_length: int | None = _option(
        None,
        f"speculative: the longest draft, tokens; default {DRAFT_LENGTH}.",
        range=(1, 64),
        owners=owners("draft_length"),
    )
    early_commit: float | None = _option(
        None,
        "Any sampler: write all that is left once the mean gap between the two "
        "best logits reaches this, 2/3 and 1/3 of it in the later thirds of the writing "
        "(Prophet: 7.5); default 0: never.",
        range=(0, None),
        owners=owners("early_commit"),
    )
    guidance: float = _option(
        0.0,
        "Weight of classifier-free guidance towards the prompt; doubles the "
        "forward passes; 0: none.",
        range=(0, None),
    )
    soft_masking: bool = _option(
        True, "Let masks remember what was predicted for them, where the model was trained so."
    )
    skip_soft_masking: str | None = _option(
        None,
        "first: masks remember nothing while more than 4/5 of the new tokens are masks; last: while "
        "fewer than 1/5 are.",
        choices=("first", "last"),
    )
    forget_remasked: bool = _option(
        False, "With soft-masking: a mask that was a token before remembers nothing."
    )
    repetition_penalty: float = _option(
        1.0,
        "Above 1: tokens that stand anywhere in the text become less likely.",
        range=(0.01, None),
        shared=True,
    )
    no_repeat_ngram_size: int = _option(
        0,
        "No n-gram that stands to the left is completed again; 0: off. Strict "
        "only where one token is written at a time, from left to right.",
        range=(0, None),
        shared=True,
    )
    window_stride: int | None = _option(
        None,
        "For --max_len beyond the positions of the model: write so many new "
        "tokens at a time, after what still fits of the text before.",
        range=(1, None),
    )

    def resolved(self, blocks: bool = False, noise: str = "absorbing") -> "GenerationOptions":
        """The same with the default sampler and its steps filled in where none were asked for.

        Args:
            blocks: the model was trained for blocks, and the canvas is written from left to right.
            noise: what it was trained for, one of `catalog.NOISES`.
        """
        sampler, block_length, n_steps = self.sampler, self.block_length, self.n_steps
        attention = self.attention
        if sampler is None and self.draft_length is not None:
            sampler = "speculative"
        if attention == "auto":
            attention = "block" if blocks or sampler in CAUSAL else "full"
        if sampler is None:
            # Whoever asks for blocks of a certain length asks for something to fill them with.
            drafts = attention == "block" and block_length is None and not self.plain_needed
            sampler = BLOCK_SAMPLER if drafts else DEFAULT_SAMPLER[0]
            if noise in RANDOM and attention == "full":
                sampler = "ancestral"
            elif attention == "full" and block_length is None:
                block_length = DEFAULT_SAMPLER[1]
        if attention == "block" and block_length is None and sampler not in CAUSAL:
            block_length = BLOCK_LENGTH
        if sampler in STEPPED and n_steps is None:
            n_steps = NOISED_STEPS if noise in RANDOM and sampler in NOISED else N_STEPS
        return replace(
            self, sampler=sampler, attention=attention, block_length=block_length, n_steps=n_steps
        )

    def fitted(self, positions: int) -> "GenerationOptions":
        """The same for a model of so many positions, where no canvas was asked for."""
        asked = self.max_len != MAX_LEN or self.window_stride is not None
        return self if asked else replace(self, max_len=min(MAX_LEN, positions))

    @property
    def plain_needed(self) -> bool:
        """Whether options were given that a draft cannot follow."""
        return bool(
            self.guidance
            or self.repetition_penalty != 1
            or self.no_repeat_ngram_size
            or self.early_commit is not None
            or self.window_stride is not None
        )

    def own_options(self) -> dict:
        """The sampler's own options that were given, by the names of their flags."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if "owners" in f.metadata}
        return {name: value for name, value in given.items() if value is not None}

    def sampler_options(self) -> dict:
        """The same by the names that `samplers` has for them."""
        # The flag is not called --score: that one scores texts.
        return {
            "score" if k == "certainty" else k: value for k, value in self.own_options().items()
        }

    def describe(self) -> str:
        """The sampler with its options, for people."""
        own = ", ".join(f"{name} {value}" for name, value in self.own_options().items())
        return f"sampler {self.sampler}" + (f" ({own})" if own else "")

    def shared(self) -> dict:
        """The options that an autoregressive model understands, too."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("shared")}

    def check_autoregressive(self) -> None:
        """Refuse values outside their range, and options that only diffusion has."""
        for option in fields(self):
            value = getattr(self, option.name)
            if not option.metadata.get("shared") and value != option.default:
                flag = f"no_{option.name}" if value is False else f"{option.name} {value}"
                raise UserError(
                    f"--{flag} steers diffusion; GPT-2 writes one token a forward "
                    "pass, from left to right: leave it out, or use inference.py"
                )
        self._check_values()

    def check(self) -> None:
        """Refuse values outside their range, and options the chosen sampler does not have."""
        self._check_values()
        if not self.cache and self.attention == "full":
            raise UserError(
                "--no_cache is for block attention, which keeps keys and values exactly; leave it out"
            )
        self._check_approximate()
        self.resolved()._check_sampler()

    def _check_approximate(self) -> None:
        if self.approximate_cache is None:
            if self.cache_refresh is not None:
                raise UserError(
                    f"--cache_refresh {self.cache_refresh} needs --approximate_cache prefix or dual; "
                    "add it or leave it out"
                )
            return
        flag = f"--approximate_cache {self.approximate_cache}"
        if self.sampler in CAUSAL:
            raise UserError(f"{flag} is for a canvas that sees itself, and --sampler {self.sampler} "
                            "writes by block attention; leave one of them out")  # fmt: skip
        if self.attention != "full":
            raise UserError(f"{flag} is for a canvas that sees itself; add --attention full")
        if not self.block_length:
            raise UserError(f"{flag} keeps what is around a block; add --block_length, such as 16")
        if self.block_length == 1:
            raise UserError(f"{flag} saves nothing with --block_length 1, where each pass begins a "
                            "block; use 2 or more")  # fmt: skip
        shadows = self.sampler in SHADOWED and self.p2_score != "released"
        for other, given in (
            (f"--sampler {self.sampler}, which needs shadow copies", shadows),
            (f"--guidance {self.guidance}", self.guidance),
            (f"--early_commit {self.early_commit}", self.early_commit),
            (f"--window_stride {self.window_stride}", self.window_stride is not None),
        ):
            if given:
                raise UserError(f"{flag} does not go with {other}; leave one of them out")

    def check_room(self, positions: int, model: str, advice: str = " or less") -> None:
        """Refuse a canvas that is longer than the ``positions`` that a model can see."""
        if self.max_len > positions:
            raise UserError(
                f"--max_len {self.max_len} exceeds the {positions} positions of {model}; use "
                f"--max_len {positions}{advice}"
            )

    def _check_values(self) -> None:
        check_values(self)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p {self.top_p} must be above 0 and at most 1")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} does not fit 64 bits; use a smaller number")

    def _check_sampler(self) -> None:
        for option in fields(self):
            owners = option.metadata.get("owners", METHODS)
            if getattr(self, option.name) is not None and self.sampler not in owners:
                raise UserError(
                    f"--{option.name} is an option of --sampler {' or '.join(owners)}, not of "
                    f"{self.sampler}; leave it out or change the sampler"
                )
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
        if self.sampler in CAUSAL:
            self._check_causal()

    def _check_causal(self) -> None:
        if self.attention == "full":
            raise UserError(
                f"--sampler {self.sampler} reads from left to right; leave out --attention full"
            )
        if self.guidance:
            raise UserError(
                f"--sampler {self.sampler} has no --guidance {self.guidance}; leave one of them out"
            )
        if self.sampler == "speculative" and self.plain_needed:
            raise UserError(
                "--sampler speculative verifies what it has drafted by the model alone; use "
                "--sampler causal with --repetition_penalty, --no_repeat_ngram_size and "
                "--window_stride"
            )

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


def sampler_table(options: GenerationOptions) -> str:
    """What `--list_samplers` prints: every sampler, for the length and the steps asked for."""
    tokens, steps = options.length or options.max_len, options.n_steps or N_STEPS
    rest = "" if options.length else " less the prompt"
    lines = [
        f"for {tokens} tokens{rest} (--length, --max_len) and {steps} steps (--n_steps)\n",
        f"{'sampler':14} {'forward passes':15} {'corrects':9} what it does; its options; source",
    ]
    for name, entry in METHODS.items():
        nfe = entry.nfe.replace("N + 1", str(steps + 1)).replace("N", str(steps))
        nfe, corrects = nfe.replace("L", str(tokens)), "yes" if entry.corrects else "no"
        lines.append(f"{name:14} {nfe:15} {corrects:9} {entry.line}")
        if entry.options:
            lines.append(f"{'':41}{' '.join(f'--{option}' for option in entry.options)}")
        lines.append(f"{'':41}{entry.source}")
    shared = [f"--{option}" for option in AROUND]
    shared += ["--guidance (twice the passes)", "--repetition_penalty", "--no_repeat_ngram_size"]
    return "\n".join([*lines, "", "with any of them: " + ", ".join(shared)])
