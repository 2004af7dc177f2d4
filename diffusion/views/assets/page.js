"use strict";
const film = JSON.parse(document.getElementById("data").textContent);
const sections = [...document.querySelectorAll("section")];
const cells = sections.map(s => [...s.querySelectorAll(".word > span")]);
const [play, scrub, verdict] = ["play", "scrub", "verdict"].map(id => document.getElementById(id));
const starts = film.starts, last = starts.length - 1;
let now = 0, timer = null;

// Frames as full lists of [kind, text], built once from what changes.
const frames = film.tracks.map(track => {
  let cells = [];
  return track.changes.map(list => {
    cells = cells.slice();
    for (const [i, code, text] of list) cells[i] = [film.kinds[code], text];
    return cells;
  });
});

function cover(cell, text) {  // another token than the final one, squeezed into its place
  const over = document.createElement("b");
  over.textContent = text;
  cell.append(over);
  const room = cell.getBoundingClientRect().width, need = over.offsetWidth;
  if (need > room && room) over.style.transform = "scale(" + room / need + ")";
}

function show(moment) {
  now = moment;
  const [shown, time] = film.moments[moment];
  shown.forEach((frame, t) => {
    cells[t].forEach((cell, i) => {
      const [kind, text] = frames[t][frame][i] ?? ["hidden", ""];
      const final = cell.firstChild.textContent;
      const empty = text === "" && !kind.endsWith("masked");
      cell.querySelector("b")?.remove();
      cell.className = (final ? "" : "none ") + (empty ? "hidden" : kind);
      if (text !== "" && text !== final) {
        cell.classList.add("over");
        cover(cell, text);
      }
    });
    sections[t].querySelector(".status").textContent = film.tracks[t].status[frame];
  });
  document.querySelectorAll(".filled").forEach((bar, t) => {
    bar.style.width = 100 * Math.min(1, time / (film.ends[t] || 1)) + "%";
  });
  verdict.textContent = moment === last ? film.verdict : "";
}

function at(seconds) {  // the last moment that has begun by then
  return Math.max(0, starts.findLastIndex(start => start <= seconds + 1e-3));  // 1e-3: rounding
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
