"""What reaches a terminal steers nothing; what goes into a pipe is what was written."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion import errors, job
from diffusion.cli import console
from diffusion.errors import UserError

ROOT = Path(__file__).parents[2]
EVIL = "a\x1b]0;title\x07\x9b2Jb\nc"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_what_is_shown_is_cleaned_on_a_terminal_alone(kind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", kind())
    console.put(EVIL)
    shown = sys.stdout.getvalue()
    assert shown == (EVIL if kind is io.StringIO else r"a\x1b]0;title\x07\x9b2Jb" + "\nc") + "\n"
    console.say(EVIL)  # for people, wherever it goes
    assert capsys.readouterr().err == r"a\x1b]0;title\x07\x9b2Jb" + "\nc\n"


def test_a_mistake_is_one_line_however_long_and_odd_the_value(monkeypatch, capsys):
    def main():
        raise UserError(f"--model {EVIL}{'x' * 10**6} is wrong")

    with pytest.raises(SystemExit):
        errors.run(main)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1100 and "\x1b" not in said
    assert "--model a" in said and said.endswith("is wrong\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_of_texts_is_whole_also_where_the_writing_ends_early(tmp_path, as_json):
    script = type("Options", (), {"json": as_json, "output": str(tmp_path / "out.txt")})
    with pytest.raises(KeyboardInterrupt), job.Output(script) as output:
        for text in ("one\n", "two"):
            output.write({"text": text})
            (unfinished,) = tmp_path.iterdir()  # what SIGKILL would leave
            assert text.strip() in unfinished.read_text()
        raise KeyboardInterrupt
    expected = '{"text": "one\\n"}\n{"text": "two"}\n' if as_json else "one\n\n\ntwo\n"
    assert (tmp_path / "out.txt").read_text() == expected


def test_a_full_disk_is_one_sentence():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    code = "from diffusion import errors, cli; from diffusion.cli import console\n"
    code += "errors.run(lambda: console.put('a text'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "-c: the disk is full; free some space\n"


def test_a_pipe_without_a_reader_swallows_what_is_written(monkeypatch):
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    monkeypatch.setattr(console, "_unread", False)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys, "stdout", stream)
    console.outlive_readers()
    print("a", flush=True)
    assert os.read(read, 9) == b"a\n" and not console.unread()
    os.close(read)
    print("b", flush=True)
    assert console.unread()
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)  # under nohup
    assert not console.unread()


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
    console.progress(10, 10, "row 3/3")
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")  # left over from somewhere
    console.say("a line")
    assert capsys.readouterr().err == "a line\n"
    monkeypatch.setenv("WORLD_SIZE", "2")
    console.say("a line")
    assert capsys.readouterr().err == "a line\n"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # of several processes the first one speaks
    console.progress(1, 2, "x")
    console.progress(2, 2, "x")
    console.say("a line")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", [["-OO"], []])
def test_docstrings_are_there_also_where_python_drops_them(how):
    """transformers cannot be imported without its own."""
    environment = {**os.environ, "PYTHONOPTIMIZE": "" if how else "2"}
    command = [sys.executable, *how, ROOT / "inference.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.startswith(
        "Write text with a masked language model"
    )
