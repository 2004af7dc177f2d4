"""Every combination of options that means nothing is refused in its own sentence."""

import re
from dataclasses import fields

import pytest

import gpt2_inference
import inference
from diffusion.cli.checks import Conflict, check_conflicts, clash
from diffusion.cli.flags import kinds_of
from diffusion.cli.options import WRITING, Access, WritingOptions
from diffusion.editing.options import EDITING, EditingOptions
from diffusion.errors import UserError
from diffusion.options import GenerationOptions

TABLES = {inference: (*EDITING, *WRITING), gpt2_inference: WRITING}
VALUES = {"interpolate": ["The", "She"], "strength": ["0.5"], "sampler": ["confidence"]}
for options in (GenerationOptions, EditingOptions, WritingOptions, Access):
    for option in fields(options):
        number = {int, float} & kinds_of(option.type)
        value = [] if bool in kinds_of(option.type) else ["2" if number else "x"]
        VALUES.setdefault(option.name, value)
        VALUES.setdefault(f"no_{option.name}", [])
VALUES["list_samplers"] = []


def command_line(flags: str) -> list[str]:
    """ "--guidance with PROMPT" as it would be typed."""
    words = flags.split(" without ")[0].replace(" with ", " ").split()
    typed = []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        bare = word.startswith("--") and following.startswith(("--", "PROMPT", "{"))
        typed += ["The river"] if word == "PROMPT" else [word] * (word[0] != "{")
        typed += VALUES[word[2:]] if bare else []
    return typed


@pytest.mark.parametrize(
    ("script", "conflict"),
    [(script, conflict) for script, table in TABLES.items() for conflict in table],
    ids=lambda value: getattr(value, "flags", getattr(value, "__name__", None)),
)
def test_each_is_refused_in_its_sentence(run_script, script, conflict):
    typed = [] if "without PROMPT" in conflict.flags else None  # or a pipe
    code, out, err = run_script(script, *command_line(conflict.flags), typed=typed)
    sentence = re.sub(r"\\{\w+\\}", ".+", re.escape(conflict.sentence))
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"{script.__name__}\.py: {sentence}\n", err), err
    assert len(err) < 200 and "{" not in err


def test_each_combination_is_listed_once():
    for table in TABLES.values():
        assert len({conflict.flags for conflict in table}) == len(table)


def test_what_is_given():
    options = WritingOptions(num_samples=2, live=False)
    seen = []
    table = [Conflict("", lambda o: seen.append(o.given) or o.num_samples == 2, "{prompt} {json}")]
    with pytest.raises(UserError, match=r"^a False$"):
        check_conflicts(table, options, prompt="a", mode=None)
    assert seen == [{"num_samples", "no_live", "prompt"}]
    check_conflicts([clash("prompt", "json", "never")], options, prompt="a")
