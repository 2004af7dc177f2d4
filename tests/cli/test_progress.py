"""The progress bar of long runs."""

import sys

from diffusion.cli import console


def test_progress_shows_the_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    console.progress(1, 10, "row")
    assert capsys.readouterr().err == ""  # a pipe
    console.progress(10, 10, "row")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console.progress(0, 10, "row 1/3")
    now[0] += 60
    console.progress(2, 10, "row 1/3")
    said = capsys.readouterr().err
    assert "row 1/3:  20%" in said and "01:00<04:00" in said
    console.say("a line")  # instead of the bar, which is drawn again below it
    assert capsys.readouterr().err.endswith("\ra line\n")
    now[0] += 1
    console.progress(3, 10, "row 2/3")
    assert "row 2/3:  30%" in capsys.readouterr().err
    console.progress(10, 10, "row 3/3")
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")
    console.progress(1, 2, "x")
    console.progress(2, 2, "x")
    assert capsys.readouterr().err == ""
