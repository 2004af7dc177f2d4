"""Every sampler by name: its class and what it is, and what goes with which noise. Imports no torch.

A new sampler is a class in this package and an entry here. Its options are the parameters of the
constructor of the class, see `spec`. The table of docs/noise.md is made from `FEATURES` and the
entries; a test tries every line of it.
"""

from typing import NamedTuple

from diffusion.errors import UserError

NOISES = ("absorbing", "uniform", "hybrid", "gaussian")  # as in `noise`, which loads torch
RANDOM = NOISES[1:]  # those whose noise looks like text


class Entry(NamedTuple):
    """What --list_samplers and the tables say of a sampler."""

    kind: str  # its class, as module.Class of this package
    line: str  # what it does
    nfe: str  # forward passes for N steps and L tokens to be written
    corrects: bool  # whether it can re-mask or replace what it wrote
    source: str
    noises: tuple[str, ...] = ("absorbing", "hybrid")  # what the model may have been trained for


# In the order of --list_samplers and the tables.
SAMPLERS = {
    "random-remask": Entry(
        "remasking.RandomRemask",
        "the reference loop: write everything, re-mask a shrinking random part",
        "at most N", True, "RoBERTaDiffusion"),
    "ancestral": Entry(
        "unmasking.Ancestral",
        "the reverse process: a mask opens, a random token changes with its probability",
        "at most N + 1", False,
        "MDLM, arXiv:2406.07524; D3PM, arXiv:2107.03006; GIDD, arXiv:2503.04482", NOISES),
    "ddim": Entry(
        "interpolating.Ddim",
        "keeps the current token with probability sigma, else takes the prediction or fresh noise",
        "at most N + 1", True, "arXiv:2010.02502, appendix", NOISES),
    "self-correction": Entry(
        "interpolating.SelfCorrection",
        "ancestral, then replaces the token for which the model is most confident of another",
        "N and swaps", True, "GIDD, arXiv:2503.04482", ("uniform", "hybrid")),
    "gibbs": Entry(
        "interpolating.Gibbs",
        "ancestral, and after each step draws some positions again, given all others",
        "at most N (1 + corrections)", True, "arXiv:2605.22765", ("uniform", "hybrid")),
    "first-hitting": Entry(
        "unmasking.FirstHitting",
        "exact continuous time, one token at a time in random order",
        "L", False, "arXiv:2409.02908"),
    "confidence": Entry(
        "unmasking.Confidence",
        "the highest confidence first, an equal share each step",
        "at most N", False, "LLaDA, arXiv:2502.09992; Dream, arXiv:2508.15487"),
    "threshold": Entry(
        "unmasking.Threshold",
        "every prediction whose confidence reaches a threshold, at least one",
        "1 to L", False, "Fast-dLLM, arXiv:2505.22618"),
    "factor": Entry(
        "unmasking.Factor",
        "the n most confident, as many as (n + 1) (1 - probability) < factor allows",
        "1 to L", False, "Fast-dLLM, arXiv:2505.22618"),
    "entropy-bound": Entry(
        "unmasking.EntropyBound",
        "as many as keep a bound on the joint error, in nats",
        "1 to L", False, "arXiv:2505.24857"),
    "klass": Entry(
        "unmasking.Klass",
        "confident predictions that no longer change, at least one",
        "1 to L", False, "KLASS, arXiv:2511.05664"),
    "remdm": Entry(
        "remasking.ReMDM",
        "ancestral, and written tokens become masks again with probability sigma",
        "at most N + 1", True, "ReMDM, arXiv:2503.00307; psi: s-sahoo/duo"),
    "p2": Entry(
        "remasking.P2",
        "keeps the best-scored k/N of all tokens, written or drawn, masks the rest",
        "at most N", True, "P2, arXiv:2502.03540"),
    "wino": Entry(
        "remasking.Wino",
        "drafts many, re-masks those to which shadow copies give a low probability",
        "1 to L", True, "WINO, arXiv:2507.18578"),
    "saber": Entry(
        "remasking.Saber",
        "more confident than the average so far; re-masks whose probability fell most",
        "1 to L", True, "Saber, arXiv:2510.18165"),
    "causal": Entry(
        "unmasking.LeftToRight",
        "left to right, one token a forward pass, each from what is before it (models for blocks)",
        "L", False, "the model as its own autoregressive baseline", NOISES[:1]),
    "speculative": Entry(
        "verifying.Speculative",
        "the distribution of causal in fewer passes: drafts of the noisy stream are verified",
        "1 to L", False,
        "arXiv:2211.17192 with one model as both, as TiDAR, arXiv:2511.08923", NOISES[:1]),
    "arpc": Entry(
        "verifying.DraftVerifyRemask",
        "drafts a whole block, re-masks the tokens that causal reading finds least likely, repeats",
        "about L / 3", True, "ARPC, arXiv:2606.02241", NOISES[:1]),
}  # fmt: skip

ALIASES = {"seed": "random-remask"}  # names of earlier versions
NOISED = ("ancestral", "ddim", "self-correction", "gibbs")  # follow the noise of the model
CAUSAL = ("causal", "speculative")  # read from left to right
VERIFYING = ("speculative", "arpc")  # read a draft from left to right
STEPPED = tuple(name for name, entry in SAMPLERS.items() if "N" in entry.nfe)  # take n_steps
SCHEDULED = (*NOISED, "confidence", "remdm")  # take a schedule
SCHEDULES = ("linear", "log-linear", "cosine-a", "cosine-b")

# Options of samplers that were flags, and fields of saved settings, in earlier versions.
OLD_FLAGS = {
    "certainty": "confidence:score", "alg_temp": "confidence:alg_temp",
    "time_power": "random-remask:time_power", "clock_delay": "random-remask:clock_delay",
    "threshold": "threshold:threshold", "factor": "factor:factor",
    "entropy_bound": "entropy-bound:entropy_bound", "kl_threshold": "klass:kl_threshold",
    "history": "klass:history", "remask": "remdm:remask", "eta": "remdm:eta",
    "kappa": "remdm:kappa", "sigma": "ddim:sigma",
    "corrections": "self-correction:corrections", "patience": "self-correction:patience",
    "swap_temperature": "self-correction:swap_temperature", "p2_score": "p2:score",
    "threshold_back": "wino:threshold_back", "min_tokens": "saber:min_tokens", "mu": "saber:mu",
    "draft_length": "speculative:draft_length",
}  # fmt: skip

_NO_BLOCKS = "is trained on the full canvas only"
_FIRST = "starts from random tokens"
_AT_ONCE = "changes all tokens in every step"
# Flags -> noise that they do not go with -> what that does or lacks.
FEATURES: dict[str, dict[str, str]] = {
    "--attention block": dict.fromkeys(RANDOM, _NO_BLOCKS),
    "--block_length": {
        "uniform": f"{_FIRST}, and later blocks must be masks", "gaussian": _AT_ONCE},
    "--early_commit": {
        "uniform": f"{_FIRST}, so no masks are left to write at once", "gaussian": _AT_ONCE},
    "--schedule": {"gaussian": "has a schedule of its own"},
    "--clamp": dict.fromkeys(NOISES[:3], "has tokens, no embeddings, to predict"),
    "--guidance": {"uniform": "has no masks to hide the prompt with"},
    "--infill with a range of lengths": dict.fromkeys(
        ("uniform", "gaussian"), "has no masks, by which lengths are compared"),
    "--infill with one length, --rewrite, --interpolate, --score": {},
    "--window_stride, --repetition_penalty, --no_repeat_ngram_size, --temperature, --top_k, --top_p": {},
    "finetune.py with --loss mean, --mask_schedule batch, --layouts, --soft_masking or "
    "--objective causal": dict.fromkeys(RANDOM, "is trained on the full canvas with its own loss"),
    "finetune.py with --loss clipped": dict.fromkeys(
        ("absorbing", "gaussian"), "has no clipped weights"),
}  # fmt: skip


def sampler_lacks(sampler: str, noise: str) -> str | None:
    """Why a sampler does not go with a noise; None where it does."""
    if noise in SAMPLERS[sampler].noises:
        return None
    if noise == "absorbing":
        return "never changes visible tokens, so that the model copies them"
    if noise == "gaussian" and sampler in NOISED:
        return _AT_ONCE
    return _NO_BLOCKS if noise == "hybrid" else "has no masks to write"


def check_noise(options, noise: str, model: str) -> None:
    """Refuse resolved `GenerationOptions` that do not go with the noise a model was trained for.

    Raises:
        UserError: the first of them.
    """
    if lack := sampler_lacks(options.sampler_name, noise):
        fitting = ", ".join(name for name, entry in SAMPLERS.items() if noise in entry.noises)
        _refuse(f"--sampler {options.sampler}", model, noise, lack, f"use one of {fitting}")
    if options.attention == "block":
        check_feature("--attention block", noise, model)
    for name in ("block_length", "early_commit", "guidance", "schedule", "clamp"):
        value = getattr(options, name)
        if value or (name == "clamp" and value is not None):
            check_feature(f"--{name}", noise, model, f" {value}")


def check_feature(flag: str, noise: str, model: str, value: str = "") -> None:
    """Refuse one of `FEATURES` that does not go with the noise, by a `UserError`."""
    if lack := FEATURES[flag].get(noise):
        _refuse(flag + value, model, noise, lack, "leave it out")


def _refuse(what: str, model: str, noise: str, lack: str, advice: str) -> None:
    raise UserError(f"{what}: {model} was trained for {noise} noise, which {lack}; {advice}")
