"""The clock of studies/startup.py, on small programs in place of inference.py."""

import json
import sys
import time

import pytest

from diffusion.errors import UserError
from studies import startup

# The live view of this project with a first frame; half a second before it, and a minute after it.
SHOWS = """
import sys, time
time.sleep(0.5)
from diffusion.views.frames import Frame, State
from diffusion.views.terminal import LiveView
pieces = ["The", " city", " was", " founded", " in", "", ""]
states = [State.GIVEN] * 5 + [State.MASKED] * 2
with LiveView(sys.stdout) as view:
    view.show(Frame(pieces, states, 0, total=10, nfe=0, seconds=0.0))
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_clock_stops_at_the_first_frame():
    started = time.perf_counter()
    seconds = startup.until_shown(["-c", SHOWS], startup.PROMPT)
    assert 0.5 < seconds <= time.perf_counter() - started < 40


@pytest.mark.slow
def test_a_program_that_shows_nothing_is_told_of():
    with pytest.raises(UserError, match=r"without showing 'x': .*no weights"):
        startup.until_shown(["-c", "import sys; print('y'); sys.exit('no weights')"], "x")


@pytest.mark.slow
def test_phases_are_timed_in_one_process_one_after_the_other():
    found = startup.phases({"one": "x = 0.3", "two": "time.sleep(x)", "three": ""})
    assert list(found) == ["one", "two", "three"]
    assert found["two"] >= 0.3 > found["three"] >= 0 and found["one"] > 0


def test_the_phases_load_the_model_of_the_command_and_make_a_pass():
    space = {}
    exec("\n".join(startup.PHASES.values()), space)
    step = next(space["steps"])
    assert step.index == 2 and int(step.nfe[0]) >= 1
    assert space["writer"].tokenizer.decode(step.ids[0, 1:6]).strip() == startup.PROMPT


def test_ratios_are_of_the_same_round_and_the_first_round_does_not_count(monkeypatch, tmp_path):
    started = []

    def until_shown(command, text):
        own = command == startup.COMMAND
        assert text == (startup.PROMPT if own else "imported")
        started.append(own)
        number = (len(started) - 1) // 4  # of the round
        return [1000.0, 6.0, 9.0][number] if own else [1.0, 2.0, 6.0][number]

    monkeypatch.setattr(startup, "until_shown", until_shown)
    monkeypatch.setattr(startup, "phases", lambda codes: dict.fromkeys(codes, 0.5))
    out = tmp_path / "startup.json"
    monkeypatch.setattr(sys, "argv", ["startup.py", "--repeats", "2", "--output", str(out)])
    startup.main()
    found = json.loads(out.read_text())
    assert len(found["results"]) == 4 and found["phases"] == dict.fromkeys(startup.PHASES, 0.5)
    assert found["results"][0]["seconds"] == [6, 9]
    assert [one["ratios"] for one in found["results"]] == [[1, 1], *[[3, 1.5]] * 3]
    assert [started[i] for i in (0, 3, 4, 7)] == [False, True, True, False]  # in turns
