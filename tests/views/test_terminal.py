import io
import random
import re

import pytest
from helpers.terminals import fake_terminals
from rich.cells import cell_len
from rich.console import ConsoleDimensions

from diffusion.views import terminal
from diffusion.views.film import Track
from diffusion.views.frames import Frame, State
from diffusion.views.terminal import GLYPHS, LiveView, Pane, scroll

GIVEN, MASKED, FRESH, SETTLED, REMASKED, REPLACED, NOISE = State


screen = pytest.fixture(fake_terminals)


def frame(*cells, index=1, ends=(), **other):
    """A frame from (piece, state) pairs; a bare string is a settled piece."""
    pairs = [cell if isinstance(cell, tuple) else (cell, SETTLED) for cell in cells]
    pieces, states = [p for p, _ in pairs], [s for _, s in pairs]
    fields = {"total": 10, "nfe": index, "seconds": 0.25} | other
    return Frame(pieces, states, index, ends=list(ends), **fields)


def test_states_differ_without_colour_and_the_legend_says_what_they_are(screen):
    tty = screen(80, 24)
    LiveView(tty).show(STATES)
    assert tty.lines() == [
        "Old new calm ░░░ ▓▓▓",
        "",
        "step 1/10 · NFE 1 · 0.25 s · 2 masks · 8 tokens/s · 2.0 a pass",
        "━" * 40 + "╺" + "━" * 39,
        "prompt   written before   written now   ░░░ mask   ▓▓▓ re-masked",
    ]
    styles = {word: tty.style_of(word) for word in ("Old", "new", "calm")}
    assert styles == {"Old": "1", "new": "1;4;32", "calm": ""}
    assert len({re.sub(r";?\b3\d\b", "", style) for style in styles.values()}) == 3


def test_frames_replace_one_another_in_forty_columns(screen):
    tty = screen(40, 24)
    view = LiveView(tty)
    view.show(frame(*[("", MASKED)] * 256, index=10, seconds=12.25))
    assert tty.lines()[0] == " ".join(["░░░"] * 6)
    assert tty.lines()[-3] == "step 10/10 · NFE 10 · 12.25 s"
    view.show(frame(" done", ends=[0]))
    assert tty.lines()[:3] == ["∎", "", "step 1/10 · NFE 1 · 0.25 s · 0 masks"]
    assert tty.scrolled == 0


def test_text_breaks_between_words_and_a_resize_is_followed(screen):
    tty = screen(200, 24)
    view = LiveView(tty)
    text = (
        " A bridge of stone over the river Ouse was built in 1842 by 東京の会社が作った橋です。 It"
    )
    view.show(frame(*words(text + " stands" * 5)))
    assert [cell_len(line) for line in tty.lines()[:3]] == [95, 27, 0]  # at most 100 columns
    tty.size = ConsoleDimensions(40, 24)
    tty.cells.clear()
    view.show(frame(*words(text)))
    assert tty.lines()[:3] == [
        "A bridge of stone over the river Ouse",
        "was built in 1842 by",
        "東京の会社が作った橋です。 It",
    ]
    assert tty.lines()[-3].startswith("step 1/10 · NFE 1 · 0.25 s · 0 masks")


def words(text, state=SETTLED):
    return [(piece, state) for piece in re.findall(r" ?[^ ]+", text)]


STATES = frame((" Old", GIVEN), (" new", FRESH), (" calm", SETTLED), ("", MASKED), ("", REMASKED))


def test_random_tokens_are_faint_and_short_and_what_replaces_is_no_mask(screen):
    tty = screen(80, 24)
    view = LiveView(tty)
    view.show(
        frame((" Old", GIVEN), (" constitution", NOISE), (" new", REPLACED), (" calm", FRESH))
    )
    assert tty.lines()[0] == "Old consti new calm"
    assert tty.lines()[-1] == "prompt   written now   replaced now   random token"
    styles = {word: tty.style_of(word) for word in ("consti", "new", "calm")}
    assert styles == {"consti": "2;3", "new": "4;36", "calm": "1;4;32"}
    assert "1 random" in "".join(tty.lines())
    view.show(frame((" Old", GIVEN), " river", " new", " calm", index=2))
    view.finish()
    assert "Old river new calm" in tty.lines()[0]


@pytest.mark.parametrize("columns", [2, 7, 40, 200])
def test_every_row_fits_and_no_word_is_lost(columns):
    text = (
        " The tower of 東京タワー (e\u0301te\u0301) was naïve 😀 and "
        + "x" * 230
        + " stood.\n\nEnd"
    )
    lines = [row.plain for row in Pane(Track(())).rows(frame(*words(text)), columns)]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert all(cell_len(line) <= columns for line in lines)
    if columns >= 40:
        assert lines[-2:] == ["", "End"]
        assert not any(line.startswith(" ") or line.endswith(" ") for line in lines)


def random_order(columns, seed):
    """(line breaks, the frames of a text written in random order, with long and short tokens)."""
    draw = random.Random(seed)
    tokens = ["".join(draw.choices("abcdefgh", k=draw.choice([1, 2, 3, 3, 4, 5, 6, 9])))
              for _ in range(90)]  # fmt: skip
    pieces = [("" if draw.random() < 0.2 else " ") + token for token in tokens]
    order = draw.sample(range(8, 90), 82)
    frames = []
    for k in range(0, len(order) + 1, 4):
        open_now = set(order[k:])
        frames.append(
            frame(
                *((p, GIVEN if i < 8 else SETTLED) if i not in open_now else ("", MASKED)
                  for i, p in enumerate(pieces)),
                index=k,
            )
        )  # fmt: skip
    return frames


@pytest.mark.parametrize("known", [False, True])
def test_words_keep_their_lines_while_masks_are_left(known):
    """A word that once stood on a line is on that line in every later frame: always where the whole
    film is known, and else but for the few that an unusually long line pushes down."""
    moved = shown = 0
    for seed, columns in enumerate((60, 70, 80, 100)):
        frames = random_order(columns, seed)
        pane, before = Pane(Track(frames if known else ())), {}
        for each in frames:
            rows = [row.plain for row in pane.rows(each, columns)]
            assert all(cell_len(row) <= columns for row in rows)
            assert "".join(rows).replace(" ", "") == "".join(
                GLYPHS[s].strip() if s is MASKED else p.strip()
                for p, s in zip(each.pieces, each.states, strict=True)
            )
            now = {word: y for y, row in enumerate(rows) for word in row.split()
                   if len(word) > 8 and "░" not in word}  # fmt: skip
            moved += sum(now[w] != y for w, y in before.items() if w in now)
            shown += len(now)
            before = now
    assert shown > 250 and moved <= (0 if known else shown / 25)


def test_settled_tokens_show_how_sure_the_model_was(screen):
    tty = screen(100, 24)
    view = LiveView(tty)
    sure = [None, 0.9, 0.2, 0.05, 0.01, 0.01]
    texts = ((" Old", GIVEN), " sure", " so-so", " unsure", " wild", (" new", FRESH))
    view.show(frame(*texts, ("", MASKED), confidence=[*sure, None]))
    styles = [tty.style_of(word) for word in ("sure", "so-so", "unsure", "wild")]
    assert styles[0] == "" and len(set(styles)) == 4
    assert all("38;" in style for style in styles[1:])
    assert tty.style_of("new") == "1;4;32"
    assert "low confidence" in tty.lines()[-1]
    view.show(frame(*texts, ("", MASKED)))
    quiet = LiveView(tty)
    quiet.show(frame(*texts, ("", MASKED)))
    assert "confidence" not in tty.lines()[-1]  # nothing is known: nothing to explain


def test_a_text_taller_than_the_window_shows_what_changes(screen):
    tty = screen(20, 6)
    view = LiveView(tty)
    lines = [f"line{i}\n" for i in range(30)]
    view.show(frame(*lines, ("", MASKED)))
    assert tty.lines()[:4] == ["line27", "line28", "line29", "░░░"]
    view.show(frame(*lines[:10], ("fresh\n", FRESH), *lines[11:], ("", MASKED)))
    assert tty.lines()[0] == "fresh"
    view.show(frame(*lines[:12], ("fresh\n", FRESH), *lines[13:], ("", MASKED)))
    assert tty.lines()[2] == "fresh"  # already in the window, which does not move
    assert tty.scrolled == 0
    assert len(tty.lines()) == 6
    view.finish()
    assert tty.lines()[:31] == [
        *(line.strip() for line in lines[:12]),
        "fresh",
        *(line.strip() for line in lines[13:]),
        "░░░",
    ]


def test_the_window_moves_as_little_as_possible():
    rows = Pane(Track(())).rows(frame(*["a\n"] * 9, ("b\n", FRESH), *["a\n"] * 10), 10)
    assert scroll(rows, 5, 0) == 5
    assert scroll(rows, 5, 7) == 7
    assert scroll(rows, 5, 15) == 9
    assert scroll(rows, 100, 0) == 0


@pytest.mark.parametrize("size", [(2, 1), (2, 2), (5, 3)])
def test_tiny_windows_are_survived(screen, size):
    tty = screen(*size)
    view = LiveView(tty)
    view.show(frame(*words(" ab 東 cd"), ("", MASKED)))
    assert 0 < len(tty.lines()) <= size[1]


def test_escape_sequences_in_the_text_are_shown_not_obeyed(screen):
    tty = screen(60, 10)
    with LiveView(tty) as view:
        view.show(frame(" a\x1b[2J\x1b]0;title\x07", "\x9b", "\u202eb\rc"))
        assert tty.lines()[0] == "a\\x1b[2J\\x1b]0;title\\x07\\x9b\\u202eb\\x0dc"
    assert tty.lines()[0] == "a\\x1b[2J\\x1b]0;title\\x07\\x9b\\u202eb\\x0dc"


def test_finish_leaves_the_text_and_a_sane_terminal(screen):
    tty = screen(60, 10)
    with LiveView(tty) as view:
        view.show(frame((" Old", GIVEN), ("", MASKED), index=0))
        assert tty.alternate and not tty.cursor
        view.show(frame((" Old", GIVEN), (" new", FRESH)))
        view.finish()
        view.finish()
    assert not tty.alternate and tty.cursor
    assert tty.lines() == [
        "Old new",
        "step 1/10 · NFE 1 · 0.25 s · 0 masks · 4 tokens/s",
    ]
    assert tty.style_of("new") == ""
    assert tty.screens[False] is tty.cells


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_restored_after(screen, error):
    tty = screen(60, 10)
    with pytest.raises(error), LiveView(tty) as view:
        view.show(STATES)
        raise error
    assert not tty.alternate and tty.cursor and tty.style == ""


@pytest.mark.parametrize(
    ("variable", "value", "tty"),
    [("NO_COLOR", "1", True), ("TERM", "dumb", True), ("TERM", "xterm", False)],
)
def test_nothing_is_written_where_a_live_view_has_no_place(monkeypatch, variable, value, tty):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    stream = io.StringIO()
    stream.isatty = lambda: tty
    assert not terminal.supports_live(stream)
    with LiveView(stream) as view:
        assert not view.live
        view.show(STATES)
    assert stream.getvalue() == ""
