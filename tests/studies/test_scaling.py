"""How seconds grow: what the benchmark counts, by hand; and one small run, from flags to picture."""

import json
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2LMHeadModel, ModernBertConfig

from diffusion import rng
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.samplers.make import make_sampler
from studies import loop, machine, redraw, scaling
from studies.machine import Limits, Shape, cached_steps, causal_config, mean_pairs
from studies.scaling import Pair, Size

CPU, PNG = torch.device("cpu"), b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two layers of width 8, one head, 16 tokens."""
    monkeypatch.setitem(machine.SIZES, "small", (2, 8, 1, 16))


def test_the_least_times_are_those_by_hand():
    pair, size = Pair("small", 5, CPU, torch.float32), Size(length=5, batch=2, n_steps=2)
    # Of 4 tokens to write each of 2 steps predicts 2. A first layer of 5 slots: queries, keys, values
    # and outputs, the two inner maps, attention; a last one that gives keys and values of 5 and reads 2.
    first = 4 * 64 * 5 + 2 * 8 * 32 * 5 + 2 * 8 * 5 * 5
    last = 2 * 64 * 5 + 2 * 64 * 2 + 2 * 8 * 32 * 2 + 2 * 8 * 2 * 5
    head = 64 * 2 + 8 * 16 * 2
    flops = 2 * 2 * (first + last + head)  # two for a product and its sum, two texts
    assert flops == 26816
    weights = 2 * (4 * 64 + 2 * 8 * 32) + 64 + 8 * 16
    fast = pair.least(size, Limits({"square": 1000}, bandwidth=1e9))
    slow = pair.least(size, Limits({"square": 1000}, bandwidth=100))
    assert fast["loop"] == pytest.approx(2 * 26.816)
    assert slow["loop"] == pytest.approx(2 * 4 * weights / 100)
    # GPT-2: four passes, each reads all weights and the keys and values of 2 texts, 2 layers, width 8.
    read = [2 * (4 * 64 + 2 * 8 * 32) + 8 * 16 + 2 * 2 * 2 * 8 * n for n in (1, 2, 3, 4)]
    assert slow["gpt2"] == pytest.approx(4 * sum(read) / 100)


def test_pairs_of_layers_with_windows():
    config = ModernBertConfig(num_hidden_layers=3, local_attention=8, hidden_size=8)
    for length in (3, 10):
        near = sum(abs(i - j) <= 4 for i in range(length) for j in range(length))
        assert mean_pairs(config, length) == (length**2 + 2 * near) // 3


def test_the_loop_predicts_as_many_tokens_as_expected():
    pair, size = Pair("small", 65, CPU, torch.float32), Size(65, 64, 4)
    recorder = loop.Recorder(pair.denoiser)
    canvas = loop.canvas_of(64, 65, 16, 1, CPU)
    keys = rng.row_keys(0, 64, CPU)
    list(denoise(canvas, recorder, make_sampler("seed", 4), pair.sampling, keys))
    asked = [float(rows[:, 1:].float().mean()) for _, rows, _ in recorder.calls]
    assert asked == pytest.approx([size.share(n) for n in (1, 2, 3, 4)], abs=0.03)


def test_a_pass_behind_a_full_cache_is_that_pass():
    config = causal_config("small", 20)
    model = GPT2LMHeadModel(config).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        cached_steps(model, 2, 2, kept=13)
    shape = Shape.of(config)
    assert counter.get_total_flops() == sum(shape.cached_step(2, n, 4)[0] for n in (14, 15))


def test_what_lies_between_the_places_is_interpolated():
    exact = sum(3 + 0.5 * n for n in range(1, 101))
    places = [1, 7.5, 60, 100]
    assert scaling.interpolated(places, [3 + 0.5 * n for n in places], 100) == pytest.approx(exact)


def run_small(monkeypatch, tmp_path, *flags):
    """(the JSON, the picture) of a run."""
    monkeypatch.setattr(scaling, "limits", lambda *_: Limits({"square": 1e11}, 1e10))
    json_file, picture = tmp_path / "scaling.json", tmp_path / "scaling.png"
    own = ["--shape", "small", "--long_shape", "small", "--device", "cpu", "--dtype", "float32"]
    argv = ["scaling.py", *flags, *own, "--output", str(json_file), "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", argv)
    scaling.main()
    return json.loads(json_file.read_text()), picture


def test_from_flags_to_picture(monkeypatch, tmp_path):
    data, picture = run_small(monkeypatch, tmp_path, "--lengths", "150", "8", "--batch_sizes", "1", "2",
                              "--steps", "1", "3", "--length", "8", "--repeats", "2")  # fmt: skip
    found = [
        (part["varied"], [(p["n_steps"], p["batch"], p["length"]) for p in part["points"]])
        for part in data["series"]
    ]
    assert found == [
        ("n_steps", [(1, 1, 8), (3, 1, 8)]),
        ("batch", [(10, 1, 8), (10, 2, 8)]),
        ("length", [(10, 1, 8), (10, 1, 150)]),
    ]
    for part in data["series"]:
        for point in part["points"]:
            assert point["loop_steps_timed"] == point["n_steps"]
            assert [len(runs) for runs in point["seconds"].values()] == [2, 2]
            assert all(0 < point["least"][n] < point["median"][n] for n in ("loop", "gpt2"))
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


@pytest.mark.parametrize(
    "flags, said",
    [(["--lengths", "1"], "--lengths 1"), (["--lengths", "--steps", "--batch_sizes"], "all empty")],
)
def test_mistakes_are_told(monkeypatch, tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        run_small(monkeypatch, tmp_path, *flags)
