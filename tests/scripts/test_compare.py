"""compare.py: two clocks shown truly, a file that shows the same again, and every mistake."""

import dataclasses
import io
import itertools
import json
import os
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.models import save_roberta
from helpers.terminals import fake_terminals, refused
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

import compare
from diffusion import measure as measuring
from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import written_ids
from diffusion.generate import Writer, load_writer
from diffusion.options import GenerationOptions
from diffusion.views import record, terminal
from diffusion.views.animation import GIF_TICK, save_film
from diffusion.views.drawing import Sheet, Stage, strip_moments
from diffusion.views.film import Track, synchronized, ticks
from diffusion.views.frames import KINDS, Frame, State, token_line

GIVEN, MASKED, FRESH, SETTLED, REMASKED, *_ = State
ROOT = Path(compare.__file__).parent
SMALL = ["--max_len", "24", "--repeats", "1", "--n_steps", "4"]


def diffusion_frames(seconds, pieces=(" The", " quick", " brown", " fox", " jumps")):
    """A generation that writes a position a frame, in a random order, at scripted times."""
    order = random.Random(1).sample(range(1, len(pieces)), len(pieces) - 1)
    frames = []
    for k, second in enumerate(seconds):
        done = order[: min(k, len(order))]
        states = [GIVEN] + [
            FRESH if k and i == order[min(k, len(order)) - 1] else SETTLED if i in done else MASKED
            for i in range(1, len(pieces))
        ]
        shown = [p if s is not MASKED else "" for p, s in zip(pieces, states, strict=True)]
        frames.append(Frame(shown, states, k, len(order), k, second))
    return frames


def causal_frames(seconds, pieces=(" The", " lazy", " dog", " sleeps")):
    """A generation that grows by a token a frame at scripted times."""
    frames = []
    for k, second in enumerate(seconds):
        n = 1 + min(k, len(pieces) - 1)
        states = [GIVEN, *[SETTLED] * (n - 2), *[FRESH] * (n > 1)]
        frames.append(Frame(list(pieces[:n]), states, k, None, k, second))
    return frames


def film(slowdown=1.0, **more):
    tracks = [
        Track(diffusion_frames([0.0, 0.31, 0.62, 0.9, 1.27]), "left", token_line),
        Track(causal_frames([0.0, 0.055, 0.1001, 0.155]), "right", token_line),
    ]
    said = {"title": "two clocks", "verdict": "right was 8× faster", **more}
    return synchronized(tracks, slowdown, "a machine", **said)


# ---------------------------------------------------------------- the clock


def last_by(frames, time):
    return [i for i, frame in enumerate(frames) if frame.seconds <= time][-1]


@pytest.mark.parametrize("slowdown", [1.0, 0.25, 7.0])
def test_at_every_time_each_side_shows_its_last_state_by_then(slowdown):
    shown = film(slowdown)
    start = 0.0
    for moment in shown.moments:
        assert start == pytest.approx(moment.time * slowdown)
        for time in (moment.time, moment.time + 0.999 * min(moment.hold, 1e9) / slowdown):
            if moment is shown.moments[-1]:
                time = moment.time
            want = tuple(last_by(track.frames, time) for track in shown.tracks)
            assert moment.shown == want
        start += moment.hold
    assert shown.moments[-1].shown == (4, 3)
    assert shown.ends == (1.27, 0.155)


def test_the_pictures_of_a_gif_keep_to_the_clocks(tmp_path, monkeypatch):
    """At every tick of the file, each side shows its last state by then."""
    drawn = []
    monkeypatch.setattr(
        Stage, "image", lambda self, moment: drawn.append(moment) or Image.new("RGB", (8, 8))
    )
    shown = film()
    save_film(shown, tmp_path / "a.gif")
    tick = 0
    for moment, count in ticks(shown, GIF_TICK):
        assert moment is drawn.pop(0)
        for _ in range(count):
            time = min(tick * GIF_TICK, 1.27)
            assert moment.shown == tuple(last_by(t.frames, time + 1e-9) for t in shown.tracks)
            tick += 1
    assert not drawn


def test_every_form_shows_the_states_of_the_film(tmp_path, monkeypatch):
    """HTML, filmstrip, picture and terminal take their frames from the same moments."""
    shown = film()
    save_film(shown, tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    for moment, (indices, time) in zip(shown.moments, data["moments"], strict=True):
        assert (tuple(indices), time) == (moment.shown, moment.time)
    assert data["starts"] == shown.starts
    for track, entry in zip(shown.tracks, data["tracks"], strict=True):
        cells = {}
        for frame, changes, status in zip(
            track.frames, entry["changes"], entry["status"], strict=True
        ):
            cells |= {i: (code, text) for i, code, text in changes}
            assert status == token_line(frame)
            for i, state in enumerate(frame.states):
                code, text = cells[i]
                assert KINDS[code] == state
                assert text == ("" if state.open else frame.pieces[i].strip())
            assert len(cells) == len(frame.states)
    assert data["verdict"] == "right was 8× faster"

    strip = strip_moments(shown)
    assert 6 <= len(strip) <= 8
    assert strip[0] is shown.moments[0] and strip[-1] is shown.moments[-1]
    for moment in strip:
        assert moment.shown == tuple(last_by(t.frames, moment.time) for t in shown.tracks)
    gaps = [b.time - a.time for a, b in itertools.pairwise(strip)]
    assert max(gaps) < 2 * 1.27 / 7 + 0.1  # even in time, not in moments

    stage, written = Stage(shown), []
    write = "diffusion.views.drawing.Sheet.write"
    monkeypatch.setattr(write, lambda self, x, y, text, *_, **__: written.append(text))
    for moment in shown.moments:
        for panel, frame in zip(stage.panels, shown.frames(moment), strict=True):
            written.clear()
            panel.draw(Sheet(10, 10), frame, 0, 0)
            assert [text for text in written if text] == [p.strip() for p in frame.pieces if p]
        filled = [shown.filled(i, moment.time) for i in (0, 1)]
        assert filled == [pytest.approx(min(moment.time, end) / 1.27) for end in (1.27, 0.155)]


# ---------------------------------------------------------------- measuring


class FakeWriter:
    def __init__(self, name, log, seconds):
        self.name, self.log, self.seconds = name, log, iter(seconds)

    def generate(self, prompts, options, samples):
        self.log.append(self.name)
        end = next(self.seconds)
        for second in (0.0, end / 2, end):
            yield SimpleNamespace(seconds=second)


def test_runs_alternate_after_one_to_warm_up(monkeypatch):
    log, count = [], []
    monkeypatch.setattr(measuring.gc, "collect", lambda: None)
    monkeypatch.setattr(measuring, "progress", lambda *state: count.append(state))
    writers = [FakeWriter("a", log, [9, 3, 1, 2]), FakeWriter("b", log, [9, 5, 6, 4])]
    runs = measuring.measure([(writer, None) for writer in writers], "x", 3, keep=list)
    assert log == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert len(count) == 8
    assert [[steps[-1].seconds for steps in side] for side in runs] == [[3, 1, 2], [5, 6, 4]]
    # The run that is shown took place: its times belong together.
    assert [step.seconds for step in measuring.median_run(runs[0])] == [0.0, 1.0, 2]
    assert measuring.median_run(runs[1])[-1].seconds == 5
    assert measuring.median_run(runs[1][:2])[-1].seconds == 5  # the lower of two


def side(model, seconds, frames):
    return {"model": model, "method": "m", "text": "t", "ids": [1], "nfe": 3,
            "seconds": seconds, "frames": frames}  # fmt: skip


def test_the_verdict():
    a = side("a", [1.0, 2.0, 4.0], diffusion_frames([0.0, 0.5, 1.0, 1.5, 2.0]))
    b = side("b", [0.5], causal_frames([0.0, 0.1, 0.2, 0.5]))
    data = {"unit": "token", "options": {"length": 4}}
    assert record.verdict({**data, "sides": [a, b]}) == "b was 4.00× faster"
    assert record.verdict({**data, "sides": [b, a]}) == "b was 4.00× faster"
    # Of an even number of runs the lower one in the middle is shown, and so it is what counts.
    sides = [a, side("c", [9.0, 1.0], b["frames"])]
    assert record.verdict({**data, "sides": sides}) == "c was 2.00× faster"
    letters = len(" quick brown fox jumps"), len(" lazy dog sleeps")
    ratio = (2.0 / letters[0]) / (0.5 / letters[1])
    data |= {"unit": "character", "sides": [a, b]}
    assert record.verdict(data) == f"b was {ratio:.2f}× faster per character"


# ---------------------------------------------------------------- the script


@pytest.fixture
def call(run_script, monkeypatch, tmp_path, tiny_model, tiny_gpt2):
    """Runs the script in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def call(*arguments, model=tiny_model, baseline=tiny_gpt2, **stdin):
        models = ["--model", model, "--baseline", baseline]
        words = models if "--replay" not in arguments else []
        return run_script(compare, *words, *arguments, **stdin)

    return call


@pytest.mark.slow
def test_one_prompt_is_compared_kept_and_replayed(call, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    code, out, err = call("The river", *SMALL, "--output_dir", kept)
    assert code == 0, err
    assert out.count("The river") == 2 and "faster" in out and "tokens/s" in out
    assert sorted(os.listdir(kept)) == ["compare.gif", "compare.json"] and os.listdir() == []
    with Image.open(kept / "compare.gif") as image:
        assert image.width == 1280 and image.height < 720 and image.n_frames >= 2
    load = measuring.load_pair
    monkeypatch.setattr(measuring, "load_pair", None)
    code, again, err = call("--replay", kept / "compare.json", "--save_animation", "b.html")
    assert code == 0 and again == out, err
    films = []
    monkeypatch.setattr(
        "diffusion.views.animation.save_film", lambda film, *a, **k: films.append(film)
    )
    for slowdown in ("1", "3"):
        replay = ("--replay", kept / "compare.json", "--slowdown", slowdown)
        assert call(*replay, "--save_animation", "c.png")[0] == 0
    assert films[0].moments[-1].time == films[1].moments[-1].time
    assert "slowed 3×" in films[1].note
    assert os.listdir() == ["b.html"]
    # Several prompts of a pipe, and no file is replaced.
    monkeypatch.setattr(measuring, "load_pair", load)
    more = ("--no_animate", "--output_dir", kept)
    code, out, err = call(*SMALL, *more, stdin=b"The river\nHe said\n")
    assert code == 0 and out.count("faster") == 2, err
    names = ["compare-2.json", "compare-3.json", "compare.gif", "compare.json"]
    assert sorted(os.listdir(kept)) == names


def test_without_a_prompt_the_beginning_of_a_text_is_asked_for(call, monkeypatch):
    questions = []
    monkeypatch.setattr(compare.console, "ask", lambda answer, question: questions.append(question))
    code, _, err = call(*SMALL, typed=[])
    assert code == 0, err
    assert questions[0].startswith("Beginning of a text (two empty lines")
    named = compare.console.question("Once upon a time")
    assert named.startswith("Beginning of a text, such as 'Once upon a time' (two")


def test_both_write_as_many_tokens_and_what_the_scripts_would(call, tiny_model, tiny_gpt2):
    code, out, _ = call("The river", *SMALL, "--json", "--seed", "5", "--temperature", "0.8")
    data = json.loads(out)
    assert code == 0 and os.listdir() == []
    length = data["options"]["length"]
    writers = load_writer(str(tiny_model)), load_causal_writer(str(tiny_gpt2))
    for part, writer in zip(data["sides"], writers, strict=True):
        assert len(part["ids"]) == 24 and 2 not in part["ids"]
        options = GenerationOptions(length=length, max_len=24, seed=5, temperature=0.8)
        if part is data["sides"][0]:
            options = dataclasses.replace(options, sampler="random-remask", n_steps=4)
        *_, last = writer.generate(["The river"], options, [0])
        assert written_ids(last, 0) == part["ids"]
        assert len(part["seconds"]) == 1 and part["seconds"][0] > 0
    assert data["sides"][1]["nfe"] == length
    assert data["hardware"] and data["versions"]["torch"] == torch.__version__


def test_steps_go_to_the_default_sampler_of_a_model_for_random_tokens(call, tmp_path):
    model = save_roberta(tmp_path / "uniform", noise="uniform")
    code, out, err = call("The river", *SMALL, "--json", model=model)
    assert code == 0, err
    options = json.loads(out)["options"]
    assert (options["sampler"], options["n_steps"]) == ("ancestral", 4)


def test_gpt2_draws_at_the_temperature_that_the_other_model_names(tiny_model, tiny_gpt2):
    writers = [load_writer(str(tiny_model)), load_causal_writer(str(tiny_gpt2))]
    own = {"sampler": "confidence", "temperature": 0.5, "top_k": 7, "top_p": 0.8}
    writers[0] = dataclasses.replace(writers[0], own=own, blocks=True)
    for asked, expected in ({}, (0.5, 7, 0.8)), ({"temperature": 0.9}, (0.9, 7, 0.8)):
        options = measuring.options_for(writers, GenerationOptions(length=4, **asked), "The river")
        assert all((o.temperature, o.top_k, o.top_p) == expected for o in options)


def test_the_measurement_is_kept_before_it_is_shown(tmp_path, kept, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    data = record.load(kept)
    monkeypatch.setattr(record, "table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare.show(data, compare.CompareOptions(output_dir=str(tmp_path / "k")))
    assert os.listdir(tmp_path / "k") == ["compare.json"]
    assert (tmp_path / "k" / "compare.json").read_text().strip() == kept.read_text()


def test_both_models_compute_in_one_number_format(monkeypatch):
    def loader(own):
        def load(name, tokenizer, device, dtype, access):
            return SimpleNamespace(dtype=own if dtype == "auto" else dtype, tokenizer=None, name="")

        return load

    monkeypatch.setattr(measuring, "load_writer", loader("float32"))
    monkeypatch.setattr(measuring, "load_causal_writer", loader("bfloat16"))
    for dtype, expected in (("auto", "float32"), ("bfloat16", "bfloat16")):
        pair = measuring.load_pair("a", "b", "cpu", dtype, None)
        assert [writer.dtype for writer in pair] == [expected] * 2


@pytest.mark.slow
def test_models_with_different_tokenizers(call, tiny_gpt2, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_gpt2, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[: len(merges) // 3]
    vocab = tokenizer["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    vocab["\u0120zz"] = vocab.pop(last)
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, out, err = call("The river runs", *SMALL, "--json", baseline=other)
    assert code == 0, err
    data = json.loads(out)
    assert data["unit"] == "character"
    data["sides"] = [{**s, "frames": record.unpack(s["frames"])} for s in data["sides"]]
    shown = record.film_of_record(data, 1.0)
    assert "tokenizers differ" in shown.note and "per character" in shown.verdict
    assert "characters" in shown.tracks[0].status(shown.tracks[0].frames[-1])
    assert "characters/s" in record.table(data)


# Ranges of every option are in tests/attack.
BAD = {
    "empty prompt": ([""], "empty"),
    "beyond either model": (["He", "--max_len", "65"], "64 positions"),
    "no room": (["He said", "--length", "60", "--max_len", "62"], "62 positions"),
    "prompt and replay": (["He", "--replay", "x.json"], "leave out the prompt"),
    "replay with a seed": (["--replay", "x.json", "--seed", "5"], "leave out --seed 5"),
    "an endless film": (["--replay", "KEPT", "--slowdown", "999"], "or less"),
    "sweep": (["--sweep", "--output_dir", "x"], "python studies/sweep.py"),
    "a film of nothing in particular": (["--save_animation", "a.gif"], "--output_dir"),
    "a masked baseline": (["He", "--baseline", "MASKED"], "does not write from left to right"),
    "a causal model": (["He", "--model", "CAUSAL"], "was not trained to fill masks"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_sentence_and_exit_code_2(call, case, kept, tiny_model, tiny_gpt2):
    arguments, named = BAD[case]
    names = {"MASKED": str(tiny_model), "CAUSAL": str(tiny_gpt2), "KEPT": str(kept)}
    arguments = [names.get(a, a) for a in arguments]
    if "--max_len" not in arguments and "--replay" not in arguments:
        arguments = [*arguments, "--max_len", "24"]
    refused("compare", call(*arguments, stdin=b"He\nShe\n"), named)
    assert os.listdir() == []


# More damage is done to replays in tests/attack.
DAMAGE = {
    "truncated": (lambda text: text[: len(text) // 2], "damaged"),
    "another kind": (lambda text: '{"a": 1}', "not a comparison"),
    "another version": (lambda text: text.replace('"version": 3,', '"version": 4,'), "version 4"),
    "an unknown state": (lambda text: text.replace('"masked"', '"msked"'), "damaged"),
    "frames missing": (lambda text: re.sub(r'"frames": \[.*?\}\]', '"frames": []', text), "damaged"),
    "no seconds": (lambda text: text.replace('"seconds": 0.31,', '"seconds": NaN,'), "damaged"),
    "a frame of a billion": (lambda text: text.replace('"length": 4,', '"length": 1000000000,'), "damaged"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    data = {
        "format": record.FORMAT, "version": record.VERSION, "prompt": "The", "unit": "token",
        "options": {"length": 4}, "hardware": "x", "processor": "y",
        "sides": [
            side("a", [1.27], diffusion_frames([0.0, 0.31, 0.62, 0.9, 1.27])),
            side("b", [0.155], causal_frames([0.0, 0.055, 0.1, 0.155])),
        ],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("kept") / "compare.json"
    path.write_text(record.dump(data))
    return path


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_replay_gets_one_sentence(call, kept, case):
    change, named = DAMAGE[case]
    text = kept.read_text()
    assert change(text) != text
    Path("broken.json").write_text(change(text))
    code, out, err = call("--replay", "broken.json", "--save_animation", "a.gif")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and named in err and "broken.json" in err
    assert os.listdir() == ["broken.json"]


def test_out_of_memory_says_what_to_change(call, monkeypatch):
    def full(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Writer, "generate", full)
    code, _, err = call("He", *SMALL)
    assert code == 2 and "ran out of memory" in err and "--length" in err
    assert "Traceback" not in err


# ---------------------------------------------------------------- the terminal


tty = pytest.fixture(fake_terminals)


def long_film():
    words = [f" word{i}" for i in range(60)]
    left = diffusion_frames([k * 0.01 for k in range(61)], [" The", *words])
    right = causal_frames([k * 0.02 for k in range(61)], [" The", *words])
    return synchronized([Track(left, "left", token_line), Track(right, "right", token_line)])


@pytest.mark.parametrize("columns, lines", [(60, 40), (200, 50), (20, 12), (8, 5)])
def test_rows_fit_the_window_and_do_not_jump(columns, lines):
    shown, heights = long_film(), set()
    panes = [terminal.Pane(track) for track in shown.tracks]
    console = Console(file=io.StringIO(), width=columns)
    for moment in shown.moments[::20] + shown.moments[-1:]:
        view = terminal.film_window(shown, panes, moment, columns, lines)
        rows = console.render_lines(view, pad=False)
        heights.add(len(rows))
        assert len(rows) <= lines or lines < 12
        assert all(cell_len("".join(part.text for part in row)) <= columns for row in rows)
    assert len(heights) == 1


@pytest.mark.slow
def test_the_whole_texts_are_left_on_the_terminal(tty, monkeypatch):
    stream, shown = tty(60, 30), long_film()
    now = [0.0]

    def sleep(seconds):
        now[0] += 10 * seconds  # and most moments are over before they could be shown

    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    terminal.play(shown, stream)
    assert not stream.is_on("1049") and stream.is_on("25")
    text = "\n".join(stream.lines())
    for i in range(60):
        assert len(re.findall(rf"\bword{i}\b", text)) == 2, i
    sides = [line for line in stream.lines() if "word0" in line and line.count("The") == 2]
    assert sides  # both texts side by side


def test_playing_is_never_late(tty, monkeypatch):
    """Whatever a terminal costs, what it shows is the moment of that time."""
    shown, drawn, now = film(), [], [0.0]
    real = terminal.film_window

    def window(film, panes, moment, columns, lines):
        if lines is not None:
            drawn.append((now[0], moment))
            now[0] += 0.07  # drawing is slow
        return real(film, panes, moment, columns, lines)

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(terminal, "film_window", window)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    terminal.play(shown, tty(100, 30))
    for time, moment in drawn:
        assert moment.shown == tuple(
            last_by(track.frames, min(time, 1.27) + 1e-9) for track in shown.tracks
        )
    assert drawn[-1][1] is shown.moments[-1]
    assert len(drawn) < len(shown.moments)
