"""The options of generation: their names are those of the code, and what is wrong is said."""

import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from diffusion import noise, options
from diffusion.errors import UserError
from diffusion.options import GenerationOptions, sampler_table
from diffusion.samplers import interpolating, make, remasking, unmasking
from diffusion.samplers.catalog import SAMPLERS, SCHEDULES, STEPPED

OWNED = {f.name: f.metadata["owners"] for f in fields(GenerationOptions) if "owners" in f.metadata}
UNIFORM = noise.make_noise("uniform", 3, [], 4)


def test_every_sampler_has_a_class_and_every_class_an_entry():
    named = [make.sampler_class(name) for name in SAMPLERS]
    here = [
        kind
        for module in (unmasking, remasking, interpolating)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    # The reverse process has one class for masks and one for random tokens, which share a base.
    named += [make.make_sampler("ancestral", 3, noise=UNIFORM).__class__, interpolating.Renewing]
    assert sorted(named, key=str) == sorted(here, key=str)


def test_the_stepped_samplers_are_those_with_a_planned_number_of_steps():
    planned = [n for n in SAMPLERS if make.make_sampler(n, 3).total is not None]
    assert list(STEPPED) == planned


def test_the_schedules_are_those_of_the_code():
    assert list(SCHEDULES) == list(noise.SCHEDULES)


def test_those_that_correct_themselves_are_not_in_unmasking():
    for name, entry in SAMPLERS.items():
        homes = (remasking, interpolating) if entry.corrects else (unmasking,)
        assert make.sampler_class(name).__module__ in [home.__name__ for home in homes]


SOME = {
    "certainty": "margin",
    "schedule": "cosine-a",
    "remask": "rescale",
    "p2_score": "released",
    "n_steps": 3,
    "history": 3,
    "min_tokens": 3,
    "mu": 2,
    "block_length": 3,
    "corrections": 4,
    "patience": 5,
}


NEAR = {"approximate_cache": "prefix", "attention": "full", "block_length": 4}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_takes_its_own_options_and_no_other(name):
    """Every option reaches the class it belongs to, and is refused elsewhere."""
    for option, owners in OWNED.items():
        value = SOME.get(option, 0.5)
        if option == "kappa":
            asked = GenerationOptions(sampler=name, remask="psi", kappa=value)
        else:
            asked = GenerationOptions(sampler=name, **{option: value})
        if name in owners:
            asked.check()
            make.make_sampler(name, **({"n_steps": 3} | asked.sampler_options()))
        else:
            with pytest.raises(UserError, match=f"--{'remask' if option == 'kappa' else option} "):
                asked.check()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"sampler": "remdm", "eta": -0.1}, "--eta -0.1 must be a number of at least 0"),
        ({"sampler": "remdm", "eta": 1.5}, "--eta 1.5 must be a number from 0 to 1"),
        ({"sampler": "remdm", "remask": "loop", "eta": 0.2}, "from 0 to 0.111"),
        ({"sampler": "remdm", "remask": "conf", "eta": 0.2}, "has no --eta"),
        (
            {"sampler": "remdm", "remask": "psi", "kappa": 1.2},
            "--kappa 1.2 must be a number from 0",
        ),
        ({"sampler": "remdm", "kappa": 0.5}, "--kappa is an option of --remask psi"),
        ({"sampler": "remdm", "remask": "loop", "schedule": "linear"}, "leave out --schedule"),
        ({"sampler": "remdm", "remask": "lop"}, "did you mean 'loop'"),
        ({"sampler": "p2", "eta": float("nan")}, "--eta nan"),
        ({"sampler": "p2", "p2_score": "seen"}, "use one of hidden, released"),
        ({"sampler": "threshold", "threshold": -1.0}, "--threshold -1.0"),
        (
            {"sampler": "wino", "threshold_back": 1.1},
            "--threshold_back 1.1 must be a number from 0",
        ),
        ({"sampler": "wino", "tau": 1.1}, None),
        ({"sampler": "entropy-bound", "entropy_bound": -1.0}, "--entropy_bound -1.0"),
        ({"sampler": "klass", "history": 0}, "--history 0 must be a number of at least 1"),
        ({"sampler": "klass", "kl_threshold": -1.0}, "--kl_threshold"),
        ({"sampler": "saber", "min_tokens": 1}, "--min_tokens 1 must be a number of at least 2"),
        ({"sampler": "saber", "mu": 0}, "--mu 0"),
        ({"sampler": "factor", "factor": -2.0}, "--factor -2.0"),
        (
            {"sampler": "threshold", "certainty": "entropy"},
            "needs --threshold: a number of at most",
        ),
        (
            {"sampler": "threshold", "certainty": "entropy", "threshold": 0.9},
            "--threshold 0.9: a number of at most 0",
        ),
        ({"attention": "sideways"}, "use one of auto, block, full"),
        ({"sampler": "causal", "attention": "full"}, "leave out --attention full"),
        ({"sampler": "causal", "block_length": 4}, "--block_length is an option of --sampler seed"),
        ({"sampler": "speculative", "early_commit": 7.5}, "--early_commit is an option of"),
        ({"sampler": "speculative", "guidance": 2.0}, "has no --guidance 2.0"),
        ({"sampler": "speculative", "repetition_penalty": 1.2}, "use --sampler causal"),
        ({"sampler": "speculative", "draft_length": 0}, "--draft_length 0 must be a number from 1"),
        ({"sampler": "causal", "draft_length": 2}, "is an option of --sampler speculative"),
        ({"attention": "full", "cache": False}, "--no_cache is for block attention"),
        ({"cache_refresh": 4}, "--cache_refresh 4 needs --approximate_cache"),
        ({"approximate_cache": "dual"}, "add --attention full"),
        ({"approximate_cache": "dual", "attention": "full"}, "add --block_length"),
        (NEAR | {"block_length": 1}, "saves nothing with --block_length 1"),
        (NEAR | {"sampler": "speculative"}, "and --sampler speculative writes by block attention"),
        (NEAR | {"cache_refresh": 0}, "--cache_refresh 0 must be a number of at least 1"),
        (NEAR | {"guidance": 1.0}, "does not go with --guidance 1.0"),
        (NEAR | {"early_commit": 7.5}, "does not go with --early_commit 7.5"),
        (NEAR | {"window_stride": 4}, "does not go with --window_stride 4"),
        (NEAR | {"sampler": "wino"}, "does not go with --sampler wino"),
        (
            NEAR | {"sampler": "causal", "block_length": None},
            "--sampler causal writes by block attention",
        ),
        ({"block_length": -1}, "--block_length -1 must be a number of at least 0"),
        ({"early_commit": -1.0}, "--early_commit"),
        ({"guidance": -0.5}, "--guidance -0.5 must be a number of at least 0"),
        ({"guidance": float("inf")}, "--guidance inf"),
        ({"repetition_penalty": 0.0}, "--repetition_penalty 0.0"),
        ({"no_repeat_ngram_size": -1}, "--no_repeat_ngram_size -1"),
        ({"window_stride": 0}, "--window_stride 0 must be a number of at least 1"),
        ({"sampler": "seed", "clock_delay": 1.0}, "--clock_delay 1.0 must be a number from 0 to"),
        ({"sampler": "seed", "time_power": 0.0}, "--time_power 0.0 must be a number from 0.01"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_range(own, said):
    if said is None:  # there is no such option
        with pytest.raises(TypeError):
            GenerationOptions(**own)
        return
    with pytest.raises(UserError) as caught:
        GenerationOptions(**own).check()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_has_every_sampler_and_counts_for_the_length():
    table = sampler_table(GenerationOptions(length=77, n_steps=21))
    for name, facts in SAMPLERS.items():
        assert name in table and facts.line in table and facts.source in table
    assert "at most 22" in table and "1 to 77" in table
    for option in OWNED:
        assert f"--{option}" in table
    assert max(map(len, table.splitlines())) < 140


def test_the_printed_table_says_the_same():
    readme = (Path(options.__file__).parents[1] / "docs" / "samplers.md").read_text()
    for name, facts in SAMPLERS.items():
        assert f"| `{name}` | {facts.line} | {facts.nfe} |" in readme


def test_listing_the_samplers_imports_no_torch():
    code = (
        "import sys, inference; sys.argv = ['inference.py', '--list_samplers']; inference.main();"
        "assert 'torch' not in sys.modules"
    )
    root = Path(options.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "first-hitting" in done.stdout


def test_checking_changes_nothing():
    for own in (
        {},
        {"sampler": "confidence"},
        {"block_length": 4},
        {"sampler": "seed", "n_steps": 3},
    ):
        asked = GenerationOptions(**own)
        before = asdict(asked)
        asked.check()
        assert asdict(asked) == before
    asked = GenerationOptions()
    assert (asked.resolved().sampler, asked.resolved().block_length) == options.DEFAULT_SAMPLER
    assert GenerationOptions(sampler="confidence").resolved().n_steps == options.N_STEPS
    assert asked.resolved().resolved() == asked.resolved()


def test_what_sure_means_reaches_the_sampler():
    given = options.GenerationOptions(sampler="confidence", certainty="margin")
    given.check()
    assert make.make_sampler("confidence", **given.sampler_options()).score == "margin"
    assert "certainty margin" in given.describe()
