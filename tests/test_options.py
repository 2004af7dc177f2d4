"""The names that --help shows, kept apart from the code so that it is quick, are those of the code."""

from diffusion import options, samplers, schedules


def test_every_sampler_has_a_line_and_every_line_a_sampler():
    assert list(options.SAMPLERS) == list(samplers._CLASSES)


def test_the_stepped_samplers_are_those_with_a_planned_number_of_steps():
    planned = [n for n in options.SAMPLERS if samplers.make_sampler(n, 3).total is not None]
    assert list(options.STEPPED) == planned


def test_the_schedules_are_those_of_the_code():
    assert list(options.SCHEDULES) == list(schedules.SCHEDULES)


def test_what_sure_means_reaches_the_sampler():
    given = options.GenerationOptions(sampler="confidence", certainty="margin")
    given.check()
    assert samplers.make_sampler("confidence", **given.sampler_options()).score == "margin"
    assert "certainty margin" in given.describe()
