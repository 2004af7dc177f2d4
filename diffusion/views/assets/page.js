"use strict";
const film = JSON.parse(document.getElementById("data").textContent);
const sections = [...document.querySelectorAll("section")];
const cells = sections.map(s => [...s.querySelectorAll(".word > span")]);
const play = document.getElementById("play"), scrub = document.getElementById("scrub");
const starts = [];  // seconds of the film at which each moment begins
film.moments.reduce((start, moment) => { starts.push(start); return start + moment[1]; }, 0);
const last = starts.length - 1;
let now = 0, timer = null;

// Frames as full lists of [state code, text, probability, step it was written in], built once
// from what changes.
const frames = film.tracks.map(track => {
  let cells = [];
  return track.changes.map((list, frame) => {
    cells = cells.slice();
    for (const [i, state, text, sure, guess] of list) {
      const before = cells[i], same = before && before[1] === text && text !== "";
      const again = ["fresh", "replaced"].includes(film.states[state]) || !same || before[4];
      cells[i] = [state, text, sure, again ? track.steps[frame] : before[3], guess];
    }
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

function kindOf(state, text, sure) {
  if (state < 0) return "hidden";
  const name = film.states[state];
  if (name === "masked" || name === "remasked") return name;
  if (text === "") return "hidden";
  const doubt = sure === null ? 0 : film.doubts.filter(bound => sure < bound).length;
  return name + (name === "settled" && doubt ? " doubt" + doubt : "");
}

function show(moment) {
  now = moment;
  const [shown, , note] = film.moments[moment];
  shown.forEach((frame, t) => {
    cells[t].forEach((cell, i) => {
      const [state, text, sure, , guess] = frames[t][frame][i];
      const kind = kindOf(state, text, sure), final = cell.firstChild.textContent;
      cell.querySelector("b")?.remove();
      cell.className = (final ? "" : "none ") + kind;
      if (guess) {  // what a mask remembers
        cell.classList.add("guess" + guess);
        cover(cell, text);
      } else if (text !== "" && kind !== "hidden" && text !== final) {
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

function tell(event) {  // how sure the model was of the token under the pointer, and when
  const cell = event.target.closest?.(".word > span");
  const t = cells.findIndex(list => list.includes(cell));
  if (t < 0) return;
  const [state, text, sure, step] = frames[t][film.moments[now][0][t]][cells[t].indexOf(cell)];
  const name = film.states[state];
  let told = name;
  if (name === "fresh" || name === "replaced" || name === "settled") {
    told = (sure === null ? "" : "p " + sure.toPrecision(2) + " · ") + "step " + step;
  }
  cell.title = told ?? "";
  if (name === "masked" || name === "remasked") told += text === "" ? "" : ", remembered";
  document.getElementById("tip").textContent = text === "" ? "" : "“" + text + "” " + told;
}

play.onclick = () => {
  if (timer !== null) return stop();
  const from = now === last ? 0 : Number(scrub.value);
  show(at(from));
  run(from);
};
scrub.oninput = () => { stop(); show(at(Number(scrub.value))); };
document.querySelector("main").addEventListener("pointerover", tell);
document.querySelector("main").addEventListener("click", tell);
document.getElementById("theme").onclick = () => {
  const style = document.documentElement.style;
  const dark = style.colorScheme ? style.colorScheme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  style.colorScheme = dark ? "light" : "dark";
};
show(0);
run(0);
