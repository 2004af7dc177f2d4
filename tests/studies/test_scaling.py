"""How seconds grow: what the benchmark counts, by hand; and one small run, from flags to picture."""

import json
import sys

import pytest
import torch

from diffusion import rng
from diffusion.denoise import denoise
from diffusion.samplers.make import make_sampler
from studies import loop, machine, redraw, scaling
from studies.scaling import Pair, Size

CPU, PNG = torch.device("cpu"), b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two layers of width 8, one head, 16 tokens."""
    monkeypatch.setitem(machine.SIZES, "small", (2, 8, 1, 16))


def test_the_loop_predicts_as_many_tokens_as_expected():
    pair, size = Pair("small", 65, CPU, torch.float32), Size(65, 64, 4)
    recorder = loop.Recorder(pair.denoiser)
    canvas = loop.canvas_of(64, 65, 16, 1, CPU)
    keys = rng.row_keys(0, 64, CPU)
    list(denoise(canvas, recorder, make_sampler("seed", 4), pair.sampling, keys))
    asked = [float(rows[:, 1:].float().mean()) for _, rows, _ in recorder.calls]
    assert asked == pytest.approx([size.share(n) for n in (1, 2, 3, 4)], abs=0.03)


def test_what_lies_between_the_places_is_interpolated():
    exact = sum(3 + 0.5 * n for n in range(1, 101))
    places = [1, 7.5, 60, 100]
    assert scaling.interpolated(places, [3 + 0.5 * n for n in places], 100) == pytest.approx(exact)


def run_small(monkeypatch, tmp_path, *flags):
    """(the JSON, the picture) of a run."""
    json_file, picture = tmp_path / "scaling.json", tmp_path / "scaling.png"
    own = ["--shape", "small", "--long_shape", "small", "--device", "cpu", "--dtype", "float32"]
    argv = ["scaling.py", *flags, *own, "--output", str(json_file), "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", argv)
    scaling.main()
    return json.loads(json_file.read_text()), picture


def test_from_flags_to_picture(monkeypatch, tmp_path):
    data, picture = run_small(monkeypatch, tmp_path, "--lengths", "150", "8", "--batch_sizes", "1", "2",
                              "--steps", "1", "3", "--length", "8", "--repeats", "2")  # fmt: skip
    found = {
        part["varied"]: [(p["n_steps"], p["batch"], p["length"]) for p in part["points"]]
        for part in data["series"]
    }
    assert found == {"n_steps": [(1, 1, 8), (3, 1, 8)], "batch": [(10, 1, 8), (10, 2, 8)],
                     "length": [(10, 1, 8), (10, 1, 150)]}  # fmt: skip
    for part in data["series"]:
        for point in part["points"]:
            assert point["loop_steps_timed"] == point["n_steps"]
            assert [len(runs) for runs in point["seconds"].values()] == [2, 2]
            assert all(point["median"][n] > 0 for n in ("loop", "gpt2"))
    long = data["series"][2]["points"][1]
    assert long["gpt2_passes_timed"] == scaling.PLACES * scaling.SAMPLE < long["length"] - 1
    assert picture.read_bytes().startswith(PNG)


def test_the_loop_is_timed_in_part_and_the_picture_drawn_again(monkeypatch, tmp_path):
    folder = tmp_path / "scaling"
    folder.mkdir()
    data, picture = run_small(monkeypatch, folder, "--lengths", "8", "--batch_sizes", "--steps",
                              "--most_seconds", "1e-9")  # fmt: skip
    assert data["series"][0]["points"][0]["loop_steps_timed"] == 1
    drawn = picture.read_bytes()
    picture.write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["redraw.py", "--results", str(tmp_path)])
    redraw.main()
    assert picture.read_bytes() == drawn and drawn.startswith(PNG)
