import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from helpers.terminals import NASTY, frame
from matplotlib.colors import to_rgb
from PIL import Image

from diffusion.cli.files import check_animation_path
from diffusion.errors import UserError
from diffusion.views import drawing, layout
from diffusion.views.animation import save_film
from diffusion.views.drawing import STRIP_WIDTH, Stage, filmstrip, strip_moments
from diffusion.views.film import LAST_HOLD, Moment, film_of
from diffusion.views.frames import KINDS, State, legend
from diffusion.views.webpage import page

GIVEN, MASKED, FRESH, SETTLED, REMASKED, REPLACED, NOISE = State


def generation(pieces=(" The", " quick", " fox", "es", " jump")):
    """Four frames: all masks, half written, one re-masked, the whole text."""
    first, *rest = pieces
    half = [None if i % 2 else (piece, FRESH) for i, piece in enumerate(rest)]
    third = [("", REMASKED), *(None if i % 2 else rest[i] for i in range(1, len(rest)))]
    last = [(piece, FRESH if i % 2 else SETTLED) for i, piece in enumerate(rest)]
    rows = [[None] * len(rest), half, third, last]
    return [frame((first, GIVEN), *row, index=k, seconds=k * 0.1) for k, row in enumerate(rows)]


def grey(image):
    return np.asarray(image.convert("L")).astype(int)


class Notes(drawing.Sheet):
    """Keeps what is written on it: (text, its size, (x, y))."""

    def __init__(self, stage, frame):
        super().__init__(1280, 720)
        self.written = []
        stage.panels[0].draw(self, frame, 40, stage.top)

    def write(self, x, y, text, size, *_, **__):
        self.written.append((text, size, (x, y)))


def block_of(stage, position):
    """The pixels (top, bottom, left, right) of a position's block."""
    panel = stage.panels[0]
    line, x, width = panel.places[position]
    y = stage.top + (line * drawing.LINE + 0.15) * panel.size
    left, right = (stage.sheet.left(0) + edge * panel.size for edge in (x, x + width))
    return round(y), round(y + 1.2 * panel.size), round(left), round(right - 1.5)


# Where it is written


@pytest.mark.parametrize("name", ["out", "out.avi", "out.", "missing/out.gif", "folder.gif"])
def test_a_bad_name_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError) as error:
        check_animation_path(tmp_path / name)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError):
        save_film(film_of(generation()), tmp_path / name)
    assert os.listdir(tmp_path) == ["folder.gif"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "out.gif"
    path.write_text("old")

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_film(film_of(generation()), path, on_progress=fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.gif"]


# When what is shown


@pytest.mark.parametrize("count, hold", [(4, 0.5), (80, 0.1), (400, 0.05)])
def test_even_pacing_holds_the_last_frame(count, hold):
    film = film_of([frame("a")] * count)
    assert [m.shown for m in film.moments] == [(k,) for k in range(count)]
    assert [m.hold for m in film.moments] == [hold] * (count - 1) + [LAST_HOLD]


# Where it stands


def measured(position, text):
    return drawing.width_of(text)


def test_lines_break_between_words_and_nothing_overlaps():
    pieces = ["", "The", "quick", "brown", "foxes,", "unbeliev", "ably", "jump"]
    pieces = [" " + p for p in pieces[1:]] + ["ing", "ly", ",", " over"]
    laid = layout.lay_out(pieces, measured, 12, [0] * len(pieces))
    by_line = {}
    for i, place in enumerate(laid):
        assert place.x + place.width <= 12 + 1e-9
        by_line.setdefault(place.line, []).append(i)
    for on_line in by_line.values():
        for a, b in pairwise(on_line):
            assert laid[a].x + laid[a].width <= laid[b].x + 1e-9
        if on_line[0]:
            assert pieces[on_line[0]].startswith(" ")  # never inside a word
            assert laid[on_line[0]].x == 0
    assert len(by_line) == laid[-1].line + 1 > 2


def test_the_font_is_as_large_as_fits():
    panel = drawing.Panel([frame(*[" word"] * 256)], 1200, 560)
    size = panel.size
    assert 16 <= size <= 30  # legible
    assert (panel.places[-1].line + 1) * drawing.LINE * size == panel.height <= 560
    larger = layout.lay_out([" word"] * 256, measured, 1200 / (size + 0.5), [0] * 256)
    assert size == 30 or (larger[-1].line + 1) * drawing.LINE * (size + 0.5) > 560


def test_places_are_reserved_for_the_final_text():
    frames = [frame(None, " old", None, None), frame(" a", " b", " after", None, ends=[1])]
    assert layout.reserved(frames)[0] == [" a", "∎", " after", layout.UNKNOWN]


# What it looks like


def test_each_state_has_its_own_look_in_grey():
    first = frame(*(("" if state.open else " word", state) for state in State))
    film = film_of([first, frame((" word", GIVEN), *[" word"] * 6)])
    stage = Stage(film)
    image, patches = grey(stage.image(film.moments[0])), []
    for i in range(7):
        top, bottom, left, right = block_of(stage, i)
        patches.append(image[top + 3 : bottom - 3, left + 3 : right - 3])
    given, masked, fresh, settled, remasked, replaced, noise = patches
    assert masked.min() == masked.max() and 190 < masked.mean() < 230  # flat and light
    assert fresh.mean() < 150 and fresh.max() > 240  # light on dark
    assert np.median(settled) == 255 and settled.min() < 60  # dark on light
    assert given.mean() < settled.mean() - 5  # heavier
    assert remasked.min() == 255  # an empty outline
    assert np.median(replaced) == 255 and replaced.min() < 60  # an outlined token
    assert noise.min() > 120  # faint
    for place, outlined in ((3, False), (4, True), (5, True)):
        top, bottom, left, _ = block_of(stage, place)
        assert (image[(top + bottom) // 2, left - 2 : left + 3].min() < 160) == outlined
    names = ["prompt", "written before", "written now", "replaced now", "mask", "re-masked"]
    assert [label for _, label in legend(film.kinds)] == [*names, "random token"]
    html, other = page(film), page(film_of([frame(" word")]))
    assert all(f"{name}</span>" in html for name in names)
    assert "re-masked" not in other and "random token" not in other


def test_special_characters_are_drawn_as_they_are_and_quietly(recwarn, caplog):
    pieces = ["$x_1^2$", " \\frac{", " 100%", " _a_", " {", " 東", " \U000f0000"]
    film = film_of([frame(*pieces)], title="$\\alpha")
    stage = Stage(film)
    stage.image(film.moments[0])
    shown = [text for text, *_ in Notes(stage, film.tracks[0].frames[0]).written]
    assert shown == [piece.strip() for piece in pieces]
    assert not recwarn.list and not caplog.records


def test_what_is_too_long_for_its_room_is_cut():
    sheet = drawing.Sheet(600, 40)
    sheet.write(0, 30, "word " * 50, 20, room=300)
    columns = np.nonzero(grey(sheet.image).min(0) < 200)[0]
    assert 280 < columns.max() <= 300


def test_a_token_that_is_replaced_is_drawn_whole_and_large_enough():
    frames = [frame(" ab", " extraordinarily", " high", " z"), frame(" ab", " it", " an", "d")]
    stage = Stage(film_of(frames))
    first, last = (Notes(stage, frame).written for frame in frames)
    for (text, size, _), expected in zip(first[1:3], ("extraordinarily", "high"), strict=True):
        assert (text, size) == (expected, pytest.approx(30 * layout.SMALLEST, abs=0.5))
    assert [size for _, size, _ in last] == [30] * 4
    assert [place for *_, place in first] == [place for *_, place in last]  # nothing moves


def test_settled_tokens_are_tinted_by_doubt_and_the_legend_says_so():
    known = frame(*[" word"] * 4, (" word", FRESH))
    known = replace(known, confidence=[0.9, 0.2, 0.05, 0.01, 0.01])
    film = film_of([known])
    stage = Stage(film)
    image = np.asarray(stage.image(Moment((0,), 1)))
    for i, tint in enumerate([layout.PAPER, *layout.TINTS, layout.BLUE]):
        top, bottom, left, right = block_of(stage, i)
        pixels = image[top + 3 : bottom - 3, left + 3 : right - 3].reshape(-1, 3)
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        assert tuple(colours[counts.argmax()]) == tuple(round(255 * c) for c in to_rgb(tint)), i
    assert "low confidence" in page(film)
    assert "low confidence" not in page(film_of([frame(" word")]))


def test_a_picture_is_as_high_as_its_text_but_not_higher_than_720():
    heights = [Stage(film_of([frame(*[" word"] * n)])).sheet.image.height for n in (1, 40, 3000)]
    assert heights[0] < heights[1] < heights[2] <= 720


# The files


def test_gif_shows_every_moment_for_its_time(tmp_path):
    done, backend = [], matplotlib.rcParams._get("backend")
    film = film_of(generation(), title="a $ title")
    save_film(film, tmp_path / "out.gif", lambda *counts: done.append(counts))
    assert done == [(k, 4) for k in (1, 2, 3, 4)]
    assert matplotlib.rcParams._get("backend") is backend  # no window toolkit was looked for
    assert (tmp_path / "out.gif").stat().st_size < 60_000
    with Image.open(tmp_path / "out.gif") as gif:
        assert (gif.n_frames, gif.width) == (4, 1280)
        assert gif.height % 2 == 0 and gif.height < 300  # a short text
        durations, pictures = [], []
        for k in range(4):
            gif.seek(k)
            durations.append(gif.info["duration"])
            pictures.append(grey(gif.convert("RGB")))
    assert durations == [500, 500, 500, 3000]
    direct = grey(Stage(film).image(Moment((3,), 1)))
    assert np.abs(pictures[3] - direct).mean() < 1
    assert all((a != b).any() for a, b in pairwise(pictures))


@pytest.mark.slow
def test_a_filmstrip_shows_eight_moments_with_first_and_last(tmp_path, monkeypatch):
    frames = [frame(f" {k}", index=k) for k in range(40)]
    shown = [m.shown[0] for m in strip_moments(film_of(frames))]
    assert len(shown) == 8 and shown[0] == 0 and shown[-1] == 39 and shown == sorted(set(shown))
    save_film(film_of(frames), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width == STRIP_WIDTH and grey(picture).min() < 60
    drawn = []
    monkeypatch.setattr(drawing.Panel, "draw", lambda self, *known: drawn.append(self.size))
    for size, tokens in ((17, 1), (13, 300)):  # the more text, the smaller it is
        words = frame(*[" word"] * tokens)
        drawn.clear()
        filmstrip(film_of([replace(words, index=k) for k in range(9)]))
        assert drawn == [size] * 8


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_mp4_is_written(tmp_path):
    save_film(film_of(generation()[2:]), tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"
    assert os.listdir(tmp_path) == ["out.mp4"]


class Page(HTMLParser):
    """What a browser would make of a page: tags, visible text, and the contents of scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.scripts, self.inside = [], "", [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += data


def test_html_keeps_every_text_a_text():
    title = "<script>alert(2)</script> & \"'"
    text = page(film_of(generation([" The", *NASTY]), title=title))
    html = Page(text)
    assert [tag for tag, _ in html.tags].count("script") == 2  # the data and ours
    assert title in html.text
    for piece in (" <script>alert(1)</script>", " $x_1^2$", " a\\b", " \"&amp;'", " @@DATA@@"):
        assert piece in html.text
    assert "\\x1b[31m" in html.text and "\\ud800" in html.text and "\x1b" not in html.text
    assert "</script> @@" not in html.scripts[0]
    assert not any(key in attrs for _, attrs in html.tags for key in ("src", "href"))
    assert not re.search(r"https?://|@import|url\(", text)  # nothing from outside


def test_the_page_has_the_looks_and_room_for_what_is_replaced():
    known = [
        replace(frame(" ab", " extraordinarily", index=3), confidence=[None, 0.05]),
        replace(frame(" ab", (" {{ 7 * 7 }}", FRESH), index=8), confidence=[None, 0.25]),
    ]
    text = page(film_of(known))
    html = Page(text)
    track = json.loads(html.scripts[0])["tracks"][0]
    low, fresh = KINDS.index("doubt2"), KINDS.index("fresh")
    assert track["changes"][0][1] == [1, low, "extraordinarily"]
    assert track["changes"][1] == [[1, fresh, "{{ 7 * 7 }}"]]
    assert "ab {{ 7 * 7 }}" in html.text  # nothing in a text is a template
    assert "min-width:6.3em" in [a.get("style") for _, a in html.tags]  # for the longer token
    assert "low confidence" in html.text
    assert all(colour in text for colour in (*layout.TINTS, layout.BLUE, layout.GREY))
    assert "low confidence" not in Page(page(film_of([frame(" ab")]))).text


@pytest.mark.parametrize(("word", "lost"), [(" æther", ""), (" \U0001e900dlam", "\U0001e900")])
def test_characters_that_no_font_has_are_named(tmp_path, monkeypatch, capsys, word, lost):
    has = {"DejaVu Sans": frozenset(range(0x250))}
    monkeypatch.setattr(drawing, "_characters", lambda: has)
    frames = generation((" The", word))
    save_film(film_of(frames), tmp_path / "a.png")
    said = capsys.readouterr().err
    assert (f"no installed font draws {lost};" in said) if lost else not said
    save_film(film_of(frames), tmp_path / "a.html")
    assert capsys.readouterr().err == ""
