"""The page in a real browser: what is clicked, what is seen, and that nothing else is asked for.

With the variable SCREENSHOTS the pictures go into that folder."""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import compare

TEXT = "The river runs <b>through</b> the {{old}} town."
CELLS = ".touch .cell:not(.blank)"


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def open_page(page, browser):
    """Opens the page: (width, more of the browser) -> its tab, ready."""
    opened, asked, broken = [], [], []

    def open_page(width=1280, **more):
        tab = browser.new_page(viewport={"width": width, "height": 900}, **more)
        tab.set_default_timeout(30_000)
        tab.on("request", lambda r: asked.append(r.url))
        tab.on("pageerror", lambda error: broken.append(str(error)))
        tab.goto(page[1])
        tab.locator(".watch .text.empty").wait_for()
        opened.append(tab)
        return tab

    yield open_page
    for tab in opened:
        tab.close()
    local = (urlsplit(page[1]).netloc, "")  # "": of data: and blob:
    strangers = [url for url in asked if urlsplit(url).netloc not in local]
    assert asked and strangers == [] and broken == []  # no request left the machine


@pytest.fixture(scope="module")
def tab(open_page):
    return open_page()


def go(tab, name: str):
    """The panel of a tab of the page."""
    tab.get_by_role("tab", name=name).click()
    return tab.get_by_role("tabpanel").filter(visible=True)


def press(tab, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).filter(visible=True).click()


def write(tab, prompt: str, length: int, pace: float = 0, seed: int = 0) -> str:
    """Ask for a text; returns it when it is finished."""
    panel = go(tab, "Write")
    panel.get_by_label("prompt").fill(prompt)
    for name, value in (("length", length), ("pace", pace)):
        panel.get_by_label(f"number input for {name}").fill(str(value))
    panel.get_by_label("seed").fill(str(seed))
    tab.locator(".watch .text").evaluate("e => e.setAttribute('aria-busy', 'old')")
    press(tab, "Write")


def finished(tab) -> str:
    tab.locator(".watch .text[aria-busy=false]").wait_for()
    return tab.locator(".watch .text").inner_text()


@pytest.mark.slow
def test_a_text_is_written_and_saved_and_its_html_stays_text(tab, shots, page):
    write(tab, TEXT, 9)
    text = finished(tab)
    tab.screenshot(path=shots / "write.png")
    (frame, *_) = reversed(list(page[0].service.write(TEXT, 9, {"seed": 0})))
    assert text.startswith(TEXT) and tab.locator(".watch .text b").count() == 0
    shown = "".join(frame.shown(i) for i in range(len(frame.pieces)))
    assert re.sub(r"\s", "", text) == re.sub(r"\s", "", shown)
    assert re.match(
        r"step \d+.* · NFE \d+ .* tokens/pass", tab.locator(".watch .status").inner_text()
    )
    tab.get_by_role("button", name="Save").filter(visible=True).first.click()
    tab.get_by_role("button", name="Save", exact=True).filter(visible=True).last.click()
    with tab.expect_download() as saved:
        tab.locator("a[download]").filter(visible=True).first.click()
    assert "<script>" in Path(saved.value.path()).read_text()


@pytest.mark.slow
def test_stop_keeps_what_is_written(tab):
    write(tab, "The river", 30, pace=1)
    tab.locator(".watch .fresh").first.wait_for()
    press(tab, "Stop")
    finished(tab)
    press(tab, "Touch it")
    tab.locator(CELLS).first.wait_for()
    kept = tab.locator(".touch .text").inner_text()
    assert kept.startswith("The river")
    go(tab, "Write")
    assert tab.locator(".watch .masked").count() > 0


@pytest.mark.slow
def test_words_are_touched_and_all_else_stays(tab, shots):
    panel = go(tab, "Touch")
    panel.get_by_label("your own text").fill(TEXT)
    press(tab, "Take this text")
    tab.locator(".touch .text", has_text="town").wait_for()
    cells = tab.locator(CELLS)
    words = cells.all_inner_texts()
    assert "".join(words) == TEXT.replace(" ", "")

    cells.first.click()  # lock a word
    press(tab, "Lock or unlock")
    tab.locator(".touch .locked").first.wait_for()
    first, last = cells.nth(1), cells.nth(len(words) - 2)  # drag over words
    start, end = first.bounding_box(), last.bounding_box()
    tab.mouse.move(start["x"] + 2, start["y"] + 9)
    tab.mouse.down()
    tab.mouse.move(start["x"] + 60, start["y"] + 9, steps=3)
    tab.mouse.up()
    chosen = tab.locator(".touch .selected").all_inner_texts()
    assert len(chosen) > 1 and words[0] not in chosen
    tab.locator(".likeliest", has_text="likeliest").wait_for()
    tab.screenshot(path=shots / "touch.png")
    tail = TEXT[TEXT.index("through") - 3 :]
    press(tab, "Write anew")
    tab.locator(".touch .selected").first.wait_for(state="detached")
    tab.locator(".touch .selected").first.wait_for()
    new = tab.locator(".touch .text").inner_text()
    assert new.startswith("The ") and new.endswith(tail[-12:]) and new != TEXT
    assert tab.locator(".touch .locked").first.inner_text() == words[0]
    press(tab, "Undo")
    tab.locator(".touch .text", has_text=TEXT).wait_for()
    assert end["y"] >= start["y"]

    cells.nth(1).focus()  # by keys
    tab.keyboard.press("Escape")
    tab.keyboard.press("Space")
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.locator(".touch [aria-selected=true]").count() >= 2
    panel.get_by_label("replace by").fill("<mask:a>")
    press(tab, "Write anew")
    tab.get_by_text("blank '<mask:a>' has no number of tokens").wait_for()  # as text
    tab.screenshot(path=shots / "error.png")


@pytest.mark.slow
def test_two_models_are_compared_and_saved_for_replay(tab, shots, tmp_path, run_script):
    panel = go(tab, "Compare")
    panel.get_by_label("prompt").fill("The river")
    panel.get_by_label("number input for length").fill("8")
    panel.get_by_label("number input for runs").fill("1")
    press(tab, "Compare")
    film = tab.frame_locator(".film iframe")
    film.locator("#verdict", has_text="faster").wait_for()
    assert film.locator("section").count() == 2 and film.locator(".clock tr").count() == 2
    tab.screenshot(path=shots / "compare.png", full_page=True)
    tab.get_by_role("button", name="Save").filter(visible=True).first.click()
    tab.get_by_role("button", name="Save", exact=True).filter(visible=True).last.click()
    with tab.expect_download() as saved:
        tab.locator("a[download]").filter(visible=True).first.click()
    saved.value.save_as(tmp_path / "river.json")
    assert json.loads((tmp_path / "river.json").read_text())["prompt"] == "The river"
    how = "--no_animate", "--no_live"
    code, out, err = run_script(compare, "--replay", tmp_path / "river.json", *how)
    assert code == 0 and "faster" in out, err


@pytest.mark.slow
def test_two_users_at_once_on_a_narrow_dark_screen(tab, open_page, shots):
    other = open_page(390, color_scheme="dark")
    write(tab, "The river", 10, seed=1)
    alone = finished(tab)
    write(tab, "She opened", 10, pace=0.1)
    write(other, "The river", 10, pace=0.05, seed=1)
    assert finished(other) == alone
    other.screenshot(path=shots / "narrow.png", full_page=True)
    panel = go(other, "Score")
    panel.get_by_label("texts, one a line").fill("The river.\nThe <i>bridge</i>.")
    press(other, "Score")
    other.locator(".notes .heading").nth(1).wait_for()
    assert other.locator(".notes small").count() >= 8
    other.screenshot(path=shots / "score.png", full_page=True)
    assert other.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sideways
    ground = other.locator(".notes .text").evaluate("e => getComputedStyle(e).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 150
    nameless = other.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea")].filter(e =>
        e.checkVisibility() && !e.ariaLabel && !e.innerText?.trim() && !e.labels?.length
        && !e.title && !e.getAttribute("aria-labelledby")).map(e => e.outerHTML)"""
    )
    assert nameless == []
