"""The options of generation: samplers and their options in one string, and what is refused."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from diffusion import noise, options
from diffusion.errors import UserError
from diffusion.options import GenerationOptions, SamplingOptions, sampler_table
from diffusion.samplers import interpolating, make, remasking, spec, unmasking, verifying
from diffusion.samplers.catalog import (
    ALIASES,
    OLD_FLAGS,
    RANDOM,
    SAMPLERS,
    SCHEDULED,
    SCHEDULES,
    STEPPED,
)

UNIFORM = noise.make_noise("uniform", 3, [], 4)
OWN = {name: spec.options_of(make.sampler_class(name)) for name in SAMPLERS}


def test_every_sampler_has_a_class_and_every_class_an_entry():
    named = [make.sampler_class(name) for name in SAMPLERS]
    here = [
        kind
        for module in (unmasking, remasking, interpolating, verifying)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    # The reverse process has one class for masks and one for random tokens, which share a base.
    named += [make.make_sampler("ancestral", 3, noise=UNIFORM).__class__, interpolating.Renewing]
    assert sorted(named, key=str) == sorted(here, key=str)


def test_the_catalog_agrees_with_the_constructors():
    assert list(STEPPED) == [name for name, own in OWN.items() if "n_steps" in own]
    assert list(STEPPED) == [n for n in SAMPLERS if make.make_sampler(n, 3).total is not None]
    assert list(SCHEDULES) == list(noise.SCHEDULES)
    assert set(SCHEDULED) == {name for name, own in OWN.items() if "schedule" in own}
    for name, key in (new.split(":") for new in OLD_FLAGS.values()):
        assert key in OWN[name]
    for name, entry in SAMPLERS.items():
        homes = (remasking, interpolating) if entry.corrects else (unmasking,)
        homes = (*homes, verifying)
        assert make.sampler_class(name).__module__ in [home.__name__ for home in homes]


def some(option: spec.Option):
    """A value that is not the default."""
    if option.choices:
        return list(option.choices)[-1]
    return 3 if option.kind is int else 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_option_reaches_its_sampler_by_either_spelling(name):
    for key, option in OWN[name].items():
        if key in spec.SHARED:
            continue
        assert option.help, f"{name}:{key} is not described"
        value = some(option)
        texts = [
            GenerationOptions(sampler=f"{name}:{key}={value}"),
            GenerationOptions.from_dict({"sampler": name, key: value}),
        ]
        assert texts[0] == texts[1]
        assert texts[0].own_options() == {key: value}
        assert getattr(make.make_sampler(texts[0].sampler, 3), key) == value


@pytest.mark.parametrize("name", SAMPLERS)
def test_numbers_out_of_their_range_are_refused(name):
    for key, option in OWN[name].items():
        least, most = option.range or (None, None)
        over = ["inf"] if most is None else [most + 1]
        for value in [least - 1, "nan", *over] if option.range and key not in spec.SHARED else ():
            with pytest.raises(
                UserError, match=f"^--sampler {name}:{key} .*(must be|whole number)"
            ):
                GenerationOptions(sampler=f"{name}:{key}={value}").check()


@pytest.mark.parametrize("old", OLD_FLAGS)
def test_saved_settings_and_flags_of_earlier_versions_are_read(old):
    name, key = OLD_FLAGS[old].split(":")
    value = some(OWN[name][key])
    saved = {"sampler": name, "n_steps": 5 if name in STEPPED else None, old: value}
    assert GenerationOptions.from_dict(saved).own_options() == {key: value}
    assert f"write --sampler {name}:{key}=" in spec.GONE[f"--{old}"]


def test_names_of_earlier_versions_are_read():
    for old, name in ALIASES.items():
        asked = GenerationOptions(sampler=old)
        asked.check()
        assert asked.resolved().sampler == name
        assert type(make.make_sampler(old, 3)) is make.sampler_class(name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"eta": 0.1}, "eta is an option of a sampler, and none is named"),
        ({"sampler": "remdm", "etta": 0.1, "n_steps": 3}, "did you mean 'eta'"),
    ],
)
def test_a_dictionary_with_unknown_names_is_refused(values, said):
    with pytest.raises(UserError, match=said):
        GenerationOptions.from_dict(values).check()
    with pytest.raises(UserError, match="is unknown; "):
        SamplingOptions.from_dict(values)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("remdm:eta=-0.1", "--sampler remdm:eta -0.1 must be a number from 0 to 1"),
        ("remdm:remask=lop", "did you mean 'loop'"),
        ("remdm:kapa=1", "did you mean 'kappa'"),
        ("remdm:eta", "'eta' is not of the form option=value"),
        ("remdm:", "'' is not of the form option=value"),
        ("remdm:n_steps=4", "n_steps is a flag of its own; write --n_steps 4"),
        ("remdmm:eta=0.1", "did you mean 'remdm'"),
        ("first-hitting:eta=0.1", "first-hitting has no options"),
        ("ancestral:sigma=0.5", "--sampler ancestral option 'sigma' is unknown"),
        ("p2:score=seen", "use one of hidden, released"),
        ("klass:history=1.5", "history '1.5' is not a whole number"),
        ("saber:min_tokens=1", "min_tokens 1 must be a number of at least 2"),
        ("factor:factor=x", "factor 'x' is not a number"),
        ("causal:draft_length=2", "causal has no options"),
        ("gibbs:positions=0", "positions 0 must be a number from 1 to 100000"),
        ("gibbs:corrections=0", "corrections 0 must be a number from 1 to 100"),
        ("gibbs:choice=best", "use one of margin, random"),
        ("gibbs:choice_temperature=-1", "choice_temperature -1.0 must be a number from 0 to"),
        ("remdm:kappa=0.5", "and kappa of psi"),
    ],
)
def test_a_bad_option_of_a_sampler_is_refused(sampler, said):
    with pytest.raises(UserError) as caught:
        GenerationOptions(sampler=sampler).check()
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"attention": "sideways"}, "use one of auto, block, full"),
        ({"cache_refresh": 0, "approximate_cache": "dual"}, "--cache_refresh 0 must be"),
        ({"block_length": -1}, "--block_length -1 must be a number of at least 0"),
        ({"early_commit": -1.0}, "--early_commit"),
        ({"guidance": -0.5}, "--guidance -0.5 must be a number from 0 to 1000"),
        ({"guidance": float("inf")}, "--guidance inf"),
        ({"repetition_penalty": 0.0}, "--repetition_penalty 0.0"),
        ({"no_repeat_ngram_size": -1}, "--no_repeat_ngram_size -1"),
        ({"window_stride": 0}, "--window_stride 0 must be a number of at least 1"),
        ({"top_p": 0.0}, "--top_p 0.0 must be a number from"),
        ({"sampler": "remdm:remask=loop", "schedule": "linear"}, "no noise schedule to choose"),
        ({"seed": 2**70}, "must be a number from -9223372036854775808 to"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_range(own, said):
    with pytest.raises(UserError) as caught:
        GenerationOptions(**own).check()
    assert said in str(caught.value) and "\n" not in str(caught.value)


NEAR = {"approximate_cache": "prefix", "attention": "full", "block_length": 4}
# An example of each conflict, in the order of the table, and words of the sentence.
EXAMPLES = [
    ({"cache_refresh": 4}, "--cache_refresh 4 needs a cache; add --approximate_cache"),
    ({"sampler": "causal", "attention": "full"}, "full does not go with --sampler causal"),
    ({"sampler": "causal", "block_length": 4}, "causal, which writes from left to right"),
    ({"sampler": "speculative", "early_commit": 7.5}, "--early_commit 7.5"),
    ({"sampler": "speculative", "guidance": 2.0}, "--guidance 2.0 does not go with"),
    ({"sampler": "causal", "approximate_cache": "dual"}, "dual does not go with --sampler causal"),
    ({"sampler": "speculative", "repetition_penalty": 1.2}, "use --sampler causal"),
    ({"sampler": "arpc", "attention": "full"}, "reads its drafts by block attention"),
    ({"approximate_cache": "dual"}, "add --attention full"),
    (NEAR | {"block_length": 1}, "add --block_length of 2 or more"),
    (NEAR | {"sampler": "p2:eta=2"}, "--sampler p2:eta=2, which needs shadow copies"),
    (NEAR | {"guidance": 1.0}, "leave out --guidance 1.0"),
    (NEAR | {"early_commit": 7.5}, "--early_commit 7.5"),
    (NEAR | {"window_stride": 4}, "--window_stride 4"),
    (
        {"sampler": "first-hitting", "n_steps": 3},
        "--n_steps 3: --sampler first-hitting takes as many steps as it needs",
    ),
    ({"sampler": "wino", "schedule": "linear"}, "use one of ancestral, ddim, self-correction"),
    ({"sampler": "remdm:remask=conf,eta=0.2"}, "eta is an option of remask=cap, rescale and loop"),
]


@pytest.mark.parametrize(
    ("conflict", "example"),
    list(zip(options.CONFLICTS, EXAMPLES, strict=True)),
    ids=[conflict.flags for conflict in options.CONFLICTS],
)
def test_every_conflict_is_refused_in_one_sentence(conflict, example):
    own, said = example
    with pytest.raises(UserError) as caught:
        GenerationOptions(**own).check()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(conflict.sentence.partition("{")[0])
    assert "{" not in str(caught.value) and "None" not in str(caught.value)


@pytest.mark.parametrize("given", [{"n_steps": 20}, {"n_steps": 9, "schedule": "cosine-a"}])
def test_steps_without_a_sampler_are_those_of_the_default_of_the_model(given):
    asked = GenerationOptions(**given)
    asked.check()  # the model is not known yet
    for kind in RANDOM:
        ready = asked.resolved(noise=kind)
        ready.check()
        assert (ready.sampler, ready.n_steps) == ("ancestral", given["n_steps"])
    for blocks in (False, True):  # these take none
        with pytest.raises(UserError, match="takes as many steps as it needs"):
            asked.resolved(blocks).check()
    own = asked.resolved(True, own={"sampler": "confidence:score=margin"})
    own.check()
    assert (own.sampler, own.n_steps) == ("confidence:score=margin", given["n_steps"])


def test_the_table_has_every_sampler():
    table = sampler_table()
    for name, entry in SAMPLERS.items():
        assert name in table and entry.line in table and entry.source in table
        for option in OWN[name].values():
            listed = () if option.name in spec.SHARED else option.choices
            assert option.name in table and all(value in table for value in listed)
    assert max(map(len, table.splitlines())) < 140


def test_the_printed_table_says_the_same():
    page = (Path(options.__file__).parents[1] / "docs" / "samplers.md").read_text()
    for name, entry in SAMPLERS.items():
        assert f"| `{name}` | {entry.line} | {entry.nfe} |" in page


def test_checking_changes_nothing():
    for own in ({}, {"block_length": 4}, {"sampler": "random-remask", "n_steps": 3}):
        asked = GenerationOptions(**own)
        before = asdict(asked)
        asked.check()
        assert asdict(asked) == before
    asked = GenerationOptions()
    assert (asked.resolved().sampler, asked.resolved().block_length) == options.DEFAULT_SAMPLER
    assert GenerationOptions(sampler="confidence").resolved().n_steps == options.N_STEPS
    assert asked.resolved().resolved() == asked.resolved()


def test_a_sampler_is_described_with_its_options():
    asked = GenerationOptions(sampler="confidence:score=margin", n_steps=3)
    assert asked.describe() == "sampler confidence:score=margin (n_steps 3)"
    assert {f.name for f in fields(SamplingOptions)} == set(vars(asked.shared()))


@pytest.mark.parametrize(
    "given",
    [{"repetition_penalty": 1.2}, {"guidance": 1.0}, {"window_stride": 9}, {"attention": "full"},
     {"n_steps": 4}, {"early_commit": 7.5}],
)  # fmt: skip
def test_flags_that_the_sampler_of_the_model_does_not_go_with_ask_for_another(given):
    own = {"sampler": "arpc", "temperature": 0.8}
    asked = GenerationOptions(**given)
    assert asked.resolved(True, own=own).sampler_name != "arpc"
    assert asked.resolved(True, own=own).temperature == 0.8
    assert GenerationOptions(block_length=9).resolved(True, own=own).sampler_name == "arpc"


OF_MODEL = {"sampler": "threshold:threshold=0.6", "block_length": 32, "temperature": 0.6}


@pytest.mark.parametrize(
    ("given", "blocks", "expected"),
    [
        ({}, True, ("threshold:threshold=0.6", 32, 0.6)),
        ({"temperature": 0.0, "block_length": 8}, True, ("threshold:threshold=0.6", 8, 0.0)),
        ({"sampler": "speculative"}, True, ("speculative", None, 1.0)),  # chosen: as everywhere
        ({}, False, ("first-hitting", 1, 0.6)),  # spans are not written in blocks
    ],
)
def test_the_defaults_of_a_model_hold_where_nothing_else_is_said(given, blocks, expected):
    o = GenerationOptions(**given).resolved(blocks, own=OF_MODEL)
    assert (o.sampler, o.block_length, o.temperature) == expected
    assert (o.top_k, o.top_p) == (50, 0.95)


@pytest.mark.parametrize(
    "own", [{"sampler": "x"}, {"temperature": -1}, {"temperature": "1"}, {"eta": 1}, {"n_steps": 3}]
)
def test_defaults_of_a_model_that_mean_nothing_are_refused(own):
    with pytest.raises(UserError, match="the config of mine has invalid defaults of generation"):
        GenerationOptions.own_defaults({"generation": own}, "mine")
