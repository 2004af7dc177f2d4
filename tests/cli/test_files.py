"""Names of files that cannot be written are refused before any work, and nothing replaces what a
command reads."""

import os

import pytest
from helpers.terminals import refused

import compare
from diffusion.cli.files import check_apart, check_file
from diffusion.errors import UserError
from studies import scoreboard

BAD = {
    "": "is a folder",
    "new/": "is a folder",
    "no/file": "does not exist",
    "x" * 300: "names no file",
    "loop/file": "names no file",
    "sealed": "read-only",
}


@pytest.mark.parametrize("name", BAD, ids=lambda name: repr(name[:12]))
def test_a_file_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    (tmp_path / "sealed").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: "sealed" not in str(path))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=BAD[name]) as caught:
        check_file("--output", name)
    assert str(caught.value).startswith("--output") and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_two_names_of_one_file(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    a, link, other = (str(tmp_path / name) for name in ("a", "link", "./b"))
    check_apart({"--output": other, "--page": None}, {"--read": a, "--text": "a text\0"})
    for outputs, inputs in (
        ({"--output": link}, {"--read": a}),
        ({"--output": other, "--page": str(tmp_path / "b")}, {}),
    ):
        with pytest.raises(UserError, match="are both"):
            check_apart(outputs, inputs)


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "deep").mkdir(parents=True)
    for name in ("model/config.json", "model/deep/new", "./model/../model/x"):
        with pytest.raises(UserError, match="lies in the folder of --model"):
            check_apart({"--output": name}, {"--model": "model"})
    check_apart({"--output": "new"}, {"--model": "model", "--dataset_dir": "."})


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (scoreboard, ["--results", "r.gif", "--markdown", "./r.gif"]),
        (scoreboard, ["--settings", "r.gif", "--markdown", "r.gif"]),
        (compare, ["--replay", "r.gif", "--save_animation", "r.gif"]),
    ],
)
def test_no_script_replaces_what_it_reads(run_script, script, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.gif").write_text("mine")
    refused(script.__name__.rpartition(".")[2], run_script(script, *arguments), "are both")
    assert (tmp_path / "r.gif").read_text() == "mine"
