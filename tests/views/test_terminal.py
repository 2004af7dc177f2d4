import io
import random
import re

import pytest
from helpers.terminals import fake_terminals, frame
from rich.cells import cell_len
from rich.console import ConsoleDimensions

from diffusion.views import terminal
from diffusion.views.film import Track
from diffusion.views.frames import State
from diffusion.views.terminal import GLYPHS, LiveView, Pane, scroll

GIVEN, MASKED, FRESH, SETTLED, REMASKED, REPLACED, NOISE = State


screen = pytest.fixture(fake_terminals)


def words(text):
    return re.findall(r" ?[^ ]+", text)


STATES = frame((" Old", GIVEN), (" new", FRESH), " calm", None, ("", REMASKED))


def test_states_differ_without_colour_and_the_legend_says_what_they_are(screen):
    tty = screen(80, 24)
    LiveView(tty).show(STATES)
    assert tty.lines() == [
        "Old new calm ░░░ ▓▓▓",
        "",
        "step 1/10 · NFE 1 · 0.25 s · 2 masks · 8 tokens/s · 2.0 tokens/pass",
        "━" * 40 + "╺" + "━" * 39,
        "prompt   written before   written now   ░░░ mask   ▓▓▓ re-masked",
    ]
    styles = {word: tty.style_of(word) for word in ("Old", "new", "calm")}
    assert styles == {"Old": "1", "new": "1;4;32", "calm": ""}


def test_frames_replace_one_another_and_a_resize_is_followed(screen):
    tty = screen(40, 24)
    view = LiveView(tty)
    view.show(frame(*[None] * 256, index=10, seconds=12.25))
    assert tty.lines()[0] == " ".join(["░░░"] * 6)
    assert tty.lines()[-3] == "step 10/10 · NFE 10 · 12.25 s · 256 mas…"
    view.show(frame(" done", ends=[0]))
    assert tty.lines()[:3] == ["∎", "", "step 1/10 · NFE 1 · 0.25 s · 0 masks · …"]
    text = (
        " A bridge of stone over the river Ouse was built in 1842 by 東京の会社が作った橋です。 It"
    )
    view = LiveView(tty)
    tty.size = ConsoleDimensions(200, 24)
    view.show(frame(*words(text + " stands" * 5)))
    assert [cell_len(line) for line in tty.lines()[:3]] == [95, 27, 0]  # at most 100 columns
    tty.size = ConsoleDimensions(40, 24)
    view.show(frame(*words(text)))
    bridge = ["A bridge of stone over the river Ouse", "was built in 1842 by"]
    assert tty.lines()[:3] == [*bridge, "東京の会社が作った橋です。 It"]


def test_random_tokens_are_faint_and_short_and_what_replaces_is_no_mask(screen):
    tty = screen(80, 24)
    with LiveView(tty) as view:
        new = (" constitution", NOISE), (" new", REPLACED), (" calm", FRESH)
        view.show(frame((" Old", GIVEN), *new))
        assert tty.lines()[0] == "Old cons new calm"
        assert tty.lines()[-1] == "prompt   written now   replaced now   random token"
        styles = {word: tty.style_of(word) for word in ("cons", "new", "calm")}
        assert styles == {"cons": "2;3", "new": "4;36", "calm": "1;4;32"}
        assert "1 random" in "".join(tty.lines())
        view.show(frame((" Old", GIVEN), " river", " new", " calm", index=2))
    assert "Old river new calm" in tty.lines()[0]


@pytest.mark.parametrize("columns", [2, 7, 40, 200])
def test_every_row_fits_and_no_word_is_lost(columns):
    text = f" The tower of 東京タワー (e\u0301te\u0301) was naïve 😀 and {'x' * 230} stood.\n\nEnd"
    lines = [row.plain for row in Pane(Track(())).rows(frame(*words(text)), columns)]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert all(cell_len(line) <= columns for line in lines)
    if columns >= 40:
        assert lines[-2:] == ["", "End"]
        assert not any(line.startswith(" ") or line.endswith(" ") for line in lines)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 40])
def test_characters_of_several_codes_are_not_cut(columns):
    """Flags, whose halves may be two tokens, a family, a skin, a keycap, an accent."""
    flags, others = ["🇩🇪", "🇫🇷", "🇬🇧"], ["👩\u200d👩\u200d👧", "👍🏽", "1\ufe0f\u20e3", "e\u0301"]
    characters = [*"ab", *flags, "c", *others, *flags * 3, "🇩"]
    pieces = " ".join(["".join(characters), "so", "".join(flags)]).replace("🇫🇷", "🇫|🇷").split("|")
    rows = [row.plain for row in Pane(Track(())).rows(frame(*pieces), columns)]
    left = [*characters, *"so", *flags]
    for row in rows:
        assert cell_len(row) <= columns
        found = row.replace(" ", "")
        while found:
            while not found.startswith(left[0]):  # wider than the window
                assert cell_len(left.pop(0)) > columns
            found = found.removeprefix(left.pop(0))
    assert all(cell_len(character) > columns for character in left)


def random_order(seed):
    """The frames of a text written in random order, with long and short tokens."""
    draw = random.Random(seed)
    tokens = ["".join(draw.choices("abcdefgh", k=draw.choice([1, 2, 3, 3, 4, 5, 6, 9])))
              for _ in range(90)]  # fmt: skip
    pieces = [("" if draw.random() < 0.2 else " ") + token for token in tokens]
    order = draw.sample(range(8, 90), 82)
    for k in range(0, len(order) + 1, 4):
        later = set(order[k:])
        given = [(piece, GIVEN) for piece in pieces[:8]]
        rest = [None if i in later else pieces[i] for i in range(8, 90)]
        yield frame(*given, *rest, index=k)


@pytest.mark.parametrize("known", [False, True])
def test_words_keep_their_lines_while_masks_are_left(known):
    """A word that once stood on a line is on that line in every later frame: always where the whole
    film is known, and else but for the few that an unusually long line pushes down."""
    moved = shown = 0
    for seed, columns in enumerate((60, 70, 80, 100)):
        frames = list(random_order(seed))
        pane, before = Pane(Track(frames if known else ())), {}
        for each in frames:
            rows = [row.plain for row in pane.rows(each, columns)]
            assert all(cell_len(row) <= columns for row in rows)
            pairs = zip(each.pieces, each.states, strict=True)
            whole = [GLYPHS[s].strip() if s is MASKED else p.strip() for p, s in pairs]
            assert "".join(rows).replace(" ", "") == "".join(whole)
            now = {word: y for y, row in enumerate(rows) for word in row.split()
                   if len(word) > 8 and "░" not in word}  # fmt: skip
            moved += sum(now[w] != y for w, y in before.items() if w in now)
            shown += len(now)
            before = now
    assert shown > 250 and moved <= (0 if known else shown / 25)


def test_settled_tokens_show_how_sure_the_model_was(screen):
    tty = screen(100, 24)
    sure = [None, 0.9, 0.2, 0.05, 0.01, 0.01]
    texts = ((" Old", GIVEN), " sure", " so-so", " unsure", " wild", (" new", FRESH))
    LiveView(tty).show(frame(*texts, None, confidence=[*sure, None]))
    styles = [tty.style_of(word) for word in ("sure", "so-so", "unsure", "wild")]
    assert styles[0] == "" and len(set(styles)) == 4
    assert all("38;" in style for style in styles[1:])
    assert tty.style_of("new") == "1;4;32"
    assert "low confidence" in tty.lines()[-1]
    LiveView(tty).show(frame(*texts, None))
    assert "confidence" not in tty.lines()[-1]  # nothing is known: nothing to explain


def test_a_text_taller_than_the_window_shows_what_changes(screen):
    tty = screen(20, 6)
    lines = [f"line{i}\n" for i in range(30)]
    with LiveView(tty) as view:
        view.show(frame(*lines, None))
        assert tty.lines()[:4] == ["line0", "line1", "line2", "line3"]
        view.show(frame(*lines[:10], ("fresh\n", FRESH), *lines[11:], None))
        assert tty.lines()[3] == "fresh"
        view.show(frame(*lines[:8], ("fresh\n", FRESH), *lines[9:], None))
        assert tty.lines()[1] == "fresh"  # already in the window, which does not move
        assert len(tty.lines()) == 6
    stripped = [line.strip() for line in lines]
    assert tty.lines()[:31] == [*stripped[:8], "fresh", *stripped[9:], "░░░"]


def test_the_window_moves_as_little_as_possible():
    rows = Pane(Track(())).rows(frame(*["a\n"] * 9, ("b\n", FRESH), *["a\n"] * 10), 10)
    found = [scroll(rows, *window) for window in ((5, 0), (5, 7), (5, 15), (100, 0))]
    assert found == [5, 7, 9, 0]


@pytest.mark.parametrize("size", [(2, 1), (2, 2), (5, 3)])
def test_tiny_windows_are_survived(screen, size):
    tty = screen(*size)
    LiveView(tty).show(frame(*words(" ab 東 cd"), None))
    assert 0 < len(tty.lines()) <= size[1]


def test_escape_sequences_in_the_text_are_shown_not_obeyed(screen):
    tty = screen(60, 10)
    expected = "a\\x1b[2J\\x1b]0;title\\x07\\x9b\\u202eb\\rc"
    with LiveView(tty) as view:
        view.show(frame(" a\x1b[2J\x1b]0;title\x07", "\x9b", "\u202eb\rc"))
        assert tty.lines()[0] == expected
    assert tty.lines()[0] == expected


def test_the_end_leaves_the_text_and_a_sane_terminal(screen):
    tty = screen(60, 10)
    with LiveView(tty) as view:
        view.show(frame((" Old", GIVEN), None, index=0))
        assert tty.is_on("1049") and not tty.is_on("25")  # the alternate screen, without cursor
        view.show(frame((" Old", GIVEN), (" new", FRESH)))
    assert not tty.is_on("1049") and tty.is_on("25")
    assert tty.lines() == [
        "Old new",
        "step 1/10 · NFE 1 · 0.25 s · 0 masks · 4 tokens/s · 1.0 tok…",
    ]
    assert tty.style_of("new") == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_restored_after(screen, error):
    tty = screen(60, 10)
    with pytest.raises(error), LiveView(tty) as view:
        view.show(STATES)
        raise error
    assert not tty.is_on("1049") and tty.is_on("25")


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
    with LiveView(stream) as view:
        view.show(STATES)
    assert stream.getvalue() == "" and not terminal.supports_live(stream)
