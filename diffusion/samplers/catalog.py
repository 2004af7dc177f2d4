"""Every sampler by name: what it is, what it takes, and which class it has. Imports no torch.

A new sampler is a class in `unmasking` or `remasking` and an entry here; --list_samplers, --help, the
tables in docs/ and the checks of options are made from it.
"""

from typing import NamedTuple

NOISES = ("absorbing", "uniform", "hybrid")  # as in `noise`, which loads torch
RANDOM = NOISES[1:]  # those with random tokens


class Entry(NamedTuple):
    """What --list_samplers and the tables say of a sampler."""

    kind: str  # its class, as module.Class of this package
    line: str  # what it does
    nfe: str  # forward passes for N steps and L tokens to be written
    corrects: bool  # whether it can take back what it wrote
    options: tuple[str, ...]  # its own options, by the names of `options.GenerationOptions`
    source: str
    noises: tuple[str, ...] = ("absorbing", "hybrid")  # what the model may have been trained for


# In the order of --help and the tables. Those that take n_steps are handed it first.
SAMPLERS = {
    "seed": Entry(
        "remasking.Seed",
        "the reference loop: write everything, re-mask a shrinking random part",
        "at most N", True, ("n_steps", "time_power", "clock_delay"), "RoBERTaDiffusion"),
    "ancestral": Entry(
        "unmasking.Ancestral",
        "the reverse process: a mask opens, a random token changes with its probability",
        "at most N + 1", False, ("n_steps", "schedule", "time_power", "clock_delay"),
        "MDLM, arXiv:2406.07524; D3PM, arXiv:2107.03006; GIDD, arXiv:2503.04482", NOISES),
    "ddim": Entry(
        "interpolating.Ddim",
        "keeps what stands there with --sigma, else takes the prediction or fresh noise",
        "at most N + 1", True, ("n_steps", "schedule", "time_power", "clock_delay", "sigma"),
        "arXiv:2010.02502, appendix", NOISES),
    "self-correction": Entry(
        "interpolating.SelfCorrection",
        "ancestral, then swaps the token that the model would most surely write otherwise",
        "N and swaps", True,
        ("n_steps", "schedule", "time_power", "clock_delay", "corrections", "patience",
         "swap_temperature"),
        "GIDD, arXiv:2503.04482", RANDOM),
    "first-hitting": Entry(
        "unmasking.FirstHitting",
        "exact continuous time, one token at a time in random order",
        "L", False, (), "arXiv:2409.02908"),
    "confidence": Entry(
        "unmasking.Confidence",
        "the surest predictions first, an equal share each step",
        "at most N", False, ("n_steps", "certainty", "schedule", "alg_temp"),
        "LLaDA, arXiv:2502.09992; Dream, arXiv:2508.15487"),
    "threshold": Entry(
        "unmasking.Threshold",
        "every prediction surer than --threshold, at least one",
        "1 to L", False, ("certainty", "threshold"), "Fast-dLLM, arXiv:2505.22618"),
    "factor": Entry(
        "unmasking.Factor",
        "the n surest, as many as (n + 1) (1 - probability) < --factor allows",
        "1 to L", False, ("factor",), "Fast-dLLM, arXiv:2505.22618"),
    "entropy-bound": Entry(
        "unmasking.EntropyBound",
        "as many as keep the joint error bound under --entropy_bound",
        "1 to L", False, ("certainty", "entropy_bound"), "arXiv:2505.24857"),
    "klass": Entry(
        "unmasking.Klass",
        "sure predictions that have stopped moving, at least one",
        "1 to L", False, ("threshold", "kl_threshold", "history"), "KLASS, arXiv:2511.05664"),
    "remdm": Entry(
        "remasking.ReMDM",
        "ancestral, and written tokens become masks again with probability sigma",
        "at most N + 1", True,
        ("n_steps", "schedule", "time_power", "clock_delay", "remask", "eta", "kappa"),
        "ReMDM, arXiv:2503.00307; psi: s-sahoo/duo"),
    "p2": Entry(
        "remasking.P2",
        "keeps the best-scored k/N of all tokens, written or drawn, masks the rest",
        "N", True, ("n_steps", "time_power", "eta", "p2_score"), "P2, arXiv:2502.03540"),
    "wino": Entry(
        "remasking.Wino",
        "drafts many, takes back those that shadow copies doubt",
        "1 to L", True, ("threshold", "threshold_back"), "WINO, arXiv:2507.18578"),
    "saber": Entry(
        "remasking.Saber",
        "surer than the average so far; takes back whose probability fell most",
        "1 to L", True, ("min_tokens", "mu"), "Saber, arXiv:2510.18165"),
    "causal": Entry(
        "unmasking.LeftToRight",
        "left to right, a token a pass, each from what is before it (models for blocks)",
        "L", False, (), "the model as its own autoregressive baseline", NOISES[:1]),
}  # fmt: skip

# Those that follow the noise of the model, see `interpolating`.
NOISED = ("ancestral", "ddim", "self-correction")

# Written by a loop of its own, see `speculative`.
DRAFTING = {
    "speculative": Entry(
        "",
        "the law of causal in fewer passes: drafts of the noisy stream are verified",
        "1 to L", False, ("draft_length",),
        "arXiv:2211.17192 with one model as both, as TiDAR, arXiv:2511.08923", NOISES[:1]),
}  # fmt: skip
METHODS = SAMPLERS | DRAFTING
SHADOWED = ("p2", "wino", "saber")  # p2 as long as it does not score what is released
CAUSAL = ("causal", *DRAFTING)  # those that read from left to right

# What goes round any other, see `wrappers`.
AROUND = ("block_length", "early_commit")

STEPPED = tuple(name for name, entry in SAMPLERS.items() if "n_steps" in entry.options)

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


def owners(option: str) -> tuple[str, ...]:
    """The samplers that an option belongs to; those around any sampler belong to all."""
    if option in AROUND:
        return tuple(name for name in SAMPLERS if name not in CAUSAL)
    return tuple(name for name, entry in METHODS.items() if option in entry.options)
