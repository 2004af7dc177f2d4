"""What reaches a terminal steers nothing; what goes into a pipe is what was written."""

import io
import sys

import pytest

from diffusion import errors
from diffusion import job as show
from diffusion.cli import console, prompts
from diffusion.errors import UserError

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


def test_piped_prompts_that_are_no_text(monkeypatch, capsys):
    lines = b"\xef\xbb\xbfone\r\n\xff\xfe\n\ntwo\xe9\nthree"
    stdin = type("Pipe", (), {"buffer": io.BytesIO(lines)})
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UserError, match=r"2 lines .* \(line 2, 4\); .* --skip_bad"):
        prompts.piped_prompts()
    stdin.buffer.seek(0)
    assert prompts.piped_prompts(skip_bad=True) == ["one", "three"]
    assert "2 lines" in capsys.readouterr().err


def test_a_file_of_texts_is_whole_at_the_end_and_written_few_times(tmp_path, monkeypatch):
    """Also where the writing ends early."""
    script = type("Options", (), {"json": False, "output": str(tmp_path / "out.txt")})
    times = []
    write = show.write_text
    monkeypatch.setattr(show, "write_text", lambda *what: times.append(1) or write(*what))
    with pytest.raises(KeyboardInterrupt), show.Output(script) as output:
        for i in range(5000):
            output.write({"text": f"text {i}"}, shown=False)
        raise KeyboardInterrupt
    found = (tmp_path / "out.txt").read_text()
    assert found == "\n\n".join(f"text {i}" for i in range(5000)) + "\n"
    assert len(times) < 500
