"""What reaches a terminal steers nothing; what goes into a pipe is what was written."""

import io
import sys

import pytest

from diffusion import errors, job
from diffusion.cli import console
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


def test_piped_prompts(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfone\r\n\n  \nthree"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert console.given_prompts(None, False) == ["one", "three"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\xe9\n")))
    with pytest.raises(UserError, match=r"standard input is not UTF-8"):
        console.given_prompts(None, False)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_of_texts_is_whole_also_where_the_writing_ends_early(tmp_path, as_json):
    script = type("Options", (), {"json": as_json, "output": str(tmp_path / "out.txt")})
    with pytest.raises(KeyboardInterrupt), job.Output(script) as output:
        for text in ("one\n", "two"):
            output.write({"text": text}, shown=False)
        raise KeyboardInterrupt
    expected = '{"text": "one\\n"}\n{"text": "two"}\n' if as_json else "one\n\n\ntwo\n"
    assert (tmp_path / "out.txt").read_text() == expected
