"""A film as one HTML file: real text, a little script, nothing from the network.

The final text stands in the page itself, so it can be read, searched and copied without the
script, and keeps its place while the script shows earlier moments over it. Every string from a
model or a user is escaped on its way into the page and set as text, never as HTML, by the script.
"""

import html
import json

from diffusion.views.film import Film, Track
from diffusion.views.frames import END_MARK, Frame, State, printable
from diffusion.views.layout import BLUE, GREY, INK, LABELS, ORANGE, reserved_text, split_piece

_PLAIN = (State.GIVEN, State.SETTLED)  # without a block behind them
_CODES = {state: code for code, state in enumerate(State)}


def _changes(track: Track) -> list[list]:
    """For each frame the positions that differ from the frame before, as [position, state code,
    text]; code -1 is a position that is not there yet."""
    length = max(len(frame.pieces) for frame in track.frames)
    before: list[tuple[int, str]] = [(-2, "")] * length
    out = []
    for frame in track.frames:
        now = [_cell(frame, i) for i in range(length)]
        out.append([[i, *cell] for i, cell in enumerate(now) if cell != before[i]])
        before = now
    return out


def _cell(frame: Frame, position: int) -> tuple[int, str]:
    if position >= len(frame.states):
        return (-1, "")
    state = frame.states[position]
    text = "" if state.open else split_piece(frame.shown(position))[1]
    if state is State.FRESH and text.isspace():
        state = State.SETTLED  # as in the pictures: a space has no block
    return (_CODES[state], text)


def _text(track: Track) -> str:
    """The positions as spans: the reserved text of each, which the script covers or reveals."""
    out = []
    for piece in reserved_text(track.frames):
        lead, core, breaks = split_piece(piece)
        lead = lead if out else ""
        kind = ' class="none"' if not core else ""
        out.append(f"{lead}<span{kind}><i>{html.escape(core)}</i></span>" + "\n" * breaks)
    return "".join(out)


def page(film: Film) -> str:
    """The HTML document of a film."""
    panels = "".join(
        f"<section><h2>{html.escape(printable(track.name))}</h2>"
        f'<div class="text" dir="auto">{_text(track)}</div><p class="status"></p></section>'
        for track in film.tracks
    )
    legend = "".join(
        f'<span class="{state.value}">{label if state in _PLAIN else ""}</span>'
        + ("" if state in _PLAIN else label)
        for state, label in LABELS.items()
    )
    line, lines = film.time_line, ""
    if line:
        rows = "".join(
            f"<tr><th>{html.escape(printable(track.name))}</th>"
            f'<td><div class="whole" style="width:{100 * line.filled(i, end):.3f}%">'
            f'<div class="filled"></div></div><span>{end:.2f} s</span></td></tr>'
            for i, (track, end) in enumerate(zip(film.tracks, line.ends, strict=True))
        )
        lines = f'<table class="clock">{rows}</table>'
    data = {
        "states": [state.value for state in State],
        "tracks": [
            {"changes": _changes(track), "status": [track.status(f) for f in track.frames]}
            for track in film.tracks
        ],
        "moments": [[m.shown, round(m.hold, 6), m.note, m.time] for m in film.moments],
        "ends": line.ends if line else [],
        "verdict": printable(line.verdict) if line else "",
    }
    # "<" would let a text close the script element; the escape is the same string to JSON.
    encoded = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(printable(film.title))
    parts = {
        "TITLE": title or "Text diffusion",
        "HEADING": title,
        "PANELS": panels,
        "LEGEND": legend + f"<span>{END_MARK} end</span>",
        "TIMELINE": lines,
        "LAST": f"{sum(moment.hold for moment in film.moments[:-1]):.6f}",
        "STYLE": _STYLE,
        "DATA": encoded,
        "SCRIPT": _SCRIPT,
    }
    # One pass over the template: a text that looks like a placeholder stays a text.
    pieces = _PAGE.split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@@TITLE@@</title>
<style>@@STYLE@@</style>
</head>
<body>
<h1>@@HEADING@@</h1>
<main>@@PANELS@@</main>
<footer>
@@TIMELINE@@
<button id="play" type="button">Pause</button>
<input id="scrub" type="range" min="0" max="@@LAST@@" value="@@LAST@@" step="any"
 aria-label="seconds of the film">
<output id="note"></output> <strong id="verdict"></strong>
<p class="legend">@@LEGEND@@</p>
</footer>
<script type="application/json" id="data">@@DATA@@</script>
<script>@@SCRIPT@@</script>
</body>
</html>
"""

_STYLE = f"""
body {{ margin: 1.5rem auto; padding: 0 1.5rem; max-width: 80rem; color: {INK};
  background: #fff; font: 1.15rem/1.7 "DejaVu Sans", Verdana, system-ui, sans-serif; }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 0; }}
h1:empty, h2:empty {{ display: none; }}
main {{ display: flex; flex-wrap: wrap; gap: 2.5rem; }}
section {{ flex: 1 1 24rem; min-width: 0; }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
main:has(section + section) {{ font-size: .92em; line-height: 1.55; }}
.text span {{ position: relative; }}
.text b {{ position: absolute; left: 0; top: 0; white-space: pre; font-weight: inherit;
  line-height: 1.2; transform-origin: left; }}
i {{ font-style: normal; }}
.over > i, .masked > i, .remasked > i, .hidden > i {{ visibility: hidden; }}
.masked, .fresh, .remasked {{ border-radius: .15em; }}
.none.masked, .none.remasked {{ display: inline-block; width: .5em; margin-right: -.5em;
  line-height: 1.2; }}
.none.masked::after, .none.remasked::after {{ content: "\\200b"; }}
.masked {{ background: {GREY}; box-shadow: inset 0 0 0 1px #fff; }}
.remasked {{ background: repeating-linear-gradient(135deg, {ORANGE} 0 1.5px, #fff 1.5px 5px);
  box-shadow: inset 0 0 0 1.5px {ORANGE}; }}
.fresh {{ background: {BLUE}; color: #fff; }}
.given {{ font-weight: bold; }}
.status {{ font-variant-numeric: tabular-nums; }}
footer {{ padding: .5rem 0; background: #fff; }}
@media (min-width: 50rem) and (min-height: 40rem) {{ footer {{ position: sticky; bottom: 0; }} }}
#scrub {{ width: min(30rem, 60%); vertical-align: middle; }}
#play {{ font: inherit; width: 5rem; }}
.clock {{ width: 100%; border-spacing: 0; font-size: .95rem; font-variant-numeric: tabular-nums; }}
.clock th {{ text-align: left; font-weight: normal; width: 40%; }}
.clock td {{ padding-right: 5rem; }}
.clock .whole {{ display: inline-block; height: .8em; background: {GREY}; }}
.clock .filled {{ height: 100%; width: 0; background: {INK}; }}
.clock span {{ position: absolute; margin-left: .5rem; }}
.legend span {{ margin-left: 1.5rem; }}
.legend span:empty {{ display: inline-block; width: 1.6em; height: 1.1em; margin-right: .3em;
  vertical-align: text-bottom; }}
"""

_SCRIPT = """
"use strict";
const film = JSON.parse(document.getElementById("data").textContent);
const sections = [...document.querySelectorAll("section")];
const cells = sections.map(s => [...s.querySelectorAll(".text span")]);
const play = document.getElementById("play"), scrub = document.getElementById("scrub");
const starts = [];  // seconds of the film at which each moment begins
film.moments.reduce((start, moment) => { starts.push(start); return start + moment[1]; }, 0);
const last = starts.length - 1;
let now = 0, timer = null;

// Frames as full lists of [state code, text], built once from what changes.
const frames = film.tracks.map(track => {
  let cells = [];
  return track.changes.map(list => {
    cells = cells.slice();
    for (const [i, state, text] of list) cells[i] = [state, text];
    return cells;
  });
});

function cover(cell, text) {  // another token than the final one, squeezed into its place
  const over = document.createElement("b");
  over.textContent = text;
  cell.append(over);
  const room = cell.getBoundingClientRect().width, need = over.offsetWidth;
  if (need > room && room) over.style.transform = "scaleX(" + room / need + ")";
}

function show(moment) {
  now = moment;
  const [shown, , note] = film.moments[moment];
  shown.forEach((frame, t) => {
    cells[t].forEach((cell, i) => {
      const [state, text] = frames[t][frame][i];
      const open = film.states[state] === "masked" || film.states[state] === "remasked";
      const kind = cell.firstChild.textContent ? "" : "none ";
      const empty = !open && text === "";
      cell.querySelector("b")?.remove();
      cell.className = kind + (state < 0 || empty ? "hidden" : film.states[state]);
      if (!open && !empty && text !== cell.firstChild.textContent) {
        cell.classList.add("over");
        cover(cell, text);
      }
    });
    sections[t].querySelector(".status").textContent = film.tracks[t].status[frame];
  });
  document.querySelectorAll(".filled").forEach((bar, t) => {
    bar.style.width = 100 * Math.min(1, film.moments[moment][3] / (film.ends[t] || 1)) + "%";
  });
  document.getElementById("note").textContent = note;
  document.getElementById("verdict").textContent = moment === last ? film.verdict : "";
}

function at(seconds) {  // the last moment that has begun by then
  let moment = 0;
  while (moment < last && starts[moment + 1] <= seconds + 1e-3) moment++;  // 1e-3: rounding
  return moment;
}

function stop() {
  clearTimeout(timer);
  timer = null;
  play.textContent = "Play";
}

function run(from) {  // on the clock: a slow browser leaves moments out and is never late
  play.textContent = "Pause";
  const began = performance.now() - from * 1000;
  const tick = () => {
    const seconds = (performance.now() - began) / 1000;
    const moment = at(seconds);
    if (moment !== now) show(moment);
    scrub.value = seconds;
    if (moment === last) return stop();
    timer = setTimeout(tick, Math.max(0, (starts[moment + 1] - seconds) * 1000));
  };
  tick();
}

play.onclick = () => {
  if (timer !== null) return stop();
  const from = now === last ? 0 : Number(scrub.value);
  show(at(from));
  run(from);
};
scrub.oninput = () => { stop(); show(at(Number(scrub.value))); };
show(0);
run(0);
"""
