// A text on the page: cells [kind, string, note], drawn as text, never as HTML. Where `props.touch` is
// set, cells can be selected by click, by dragging and by keys. gr.HTML gives `element`, `props`, `watch`
// and `server`.
const find = name => element.querySelector(name);
const state = () => props.value ?? {};
const touch = Boolean(props.touch);
let spans = [], anchor = null, adding = true, waiting = null, current = 0;
const known = new Map();  // what was asked of the server about this text

function draw() {
  const { cells = [], status = "" } = state(), place = find(".text");
  const parts = document.createDocumentFragment();
  spans = [];
  for (const [kind, string, note] of cells) {
    const open = kind === "masked" || kind === "remasked";
    const core = open ? "" : string.replace(/^ +| *\n*$/g, "");
    const lead = /^ */.exec(string)[0], tail = /\n*$/.exec(string)[0];
    const span = document.createElement("span");
    span.className = "cell " + kind + (core || open ? "" : " blank");
    span.textContent = open ? "\u00a0" : core.replaceAll("\n", "↵");
    if (open) span.setAttribute("aria-label", kind === "masked" ? "mask" : "masked again");
    if (note !== null && note !== undefined) {
      if (props.notes) {
        const below = document.createElement("small");
        below.textContent = note;
        span.append(below);
      } else span.title = "probability " + note;
    }
    if (touch) { span.setAttribute("role", "option"); span.tabIndex = -1; }
    if (string.trim() === "" && tail) span.textContent = "↵";
    parts.append(open ? " " : lead, span, tail);
    spans.push(span);
  }
  place.replaceChildren(parts);
  place.classList.toggle("empty", !cells.length);
  place.setAttribute("aria-busy", Boolean(state().busy));
  find(".status").textContent = status;
  known.clear();
  current = Math.min(current, Math.max(0, spans.length - 1));
  if (touch) { mark(); find(".likeliest").textContent = ""; }
}

// ---------------------------------------------------------------- selection

function mark() {
  const { selected = [], locked = [] } = state();
  const chosen = new Set(selected), kept = new Set(locked);
  spans.forEach((span, i) => {
    span.classList.toggle("selected", chosen.has(i));
    span.classList.toggle("locked", kept.has(i));
    span.setAttribute("aria-selected", chosen.has(i));
    span.toggleAttribute("aria-disabled", kept.has(i));
    span.tabIndex = i === current ? 0 : -1;
  });
}

function words(from, to) {  // the cells of whole words
  const cells = state().cells, begins = i => {
    const here = cells[i]?.[1] ?? "", before = cells[i - 1]?.[1] ?? "";
    return i <= 0 || /^(\s|[^\p{L}\p{N}\p{M}])/u.test(here) || !/[\p{L}\p{N}\p{M}]$/u.test(before);
  };
  if (find(".whole").checked) {
    while (!begins(from)) from--;
    while (to + 1 < cells.length && !begins(to + 1)) to++;
  }
  return [from, to];
}

function choose(from, to, add) {
  const chosen = new Set(state().selected ?? []), kept = new Set(state().locked ?? []);
  const [first, last] = words(Math.min(from, to), Math.max(from, to));
  for (let i = first; i <= last; i++) {
    if (add && !kept.has(i)) chosen.add(i); else chosen.delete(i);
  }
  props.value = { ...state(), selected: [...chosen].sort((a, b) => a - b) };
  mark();
}

const at = event => spans.indexOf(
  document.elementFromPoint(event.clientX, event.clientY)?.closest?.(".cell"));

async function tell(i) {  // the likeliest tokens at a place, once the pointer rests there
  clearTimeout(waiting);
  if (i < 0 || state().busy) return;
  waiting = setTimeout(async () => {
    const text = state().text;
    if (!known.has(i)) {
      const answer = await server.likeliest(text, i).catch(() => null);
      if (text !== state().text || !answer) return;
      known.set(i, answer);
    }
    const found = known.get(i), shares = found.map(([word, p]) =>
      "“" + word.trim() + "”\u00a0" + (100 * p).toFixed(1) + "\u00a0%");
    find(".likeliest").textContent =
      "here: " + shares.pop() + " · likeliest: " + shares.join(" · ");
  }, 150);
}

if (touch) {
  element.addEventListener("pointerdown", event => {
    const i = at(event);
    if (i < 0 || state().busy || event.button) return;
    event.target.releasePointerCapture?.(event.pointerId);
    anchor = current = i;
    adding = !spans[i].classList.contains("selected");
    choose(i, i, adding);
    spans[i].focus({ preventScroll: true });
    event.preventDefault();
  });
  element.addEventListener("pointermove", event => {
    const i = at(event);
    if (anchor !== null && i >= 0 && i !== anchor) choose(anchor, i, adding);
    if (i !== tell.last) tell(tell.last = i);
  });
  for (const name of ["pointerup", "pointercancel"])
    window.addEventListener(name, () => { anchor = null; });
  element.addEventListener("focusin", event => tell(spans.indexOf(event.target)));
  element.addEventListener("keydown", event => {
    const i = spans.indexOf(event.target);
    if (i < 0 || state().busy) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && spans[i + step]) {
      current = i + step;
      if (event.shiftKey) choose(i, current, true);
      mark();
      spans[current].focus();
    } else if (event.key === " ") choose(i, i, !spans[i].classList.contains("selected"));
    else if (event.key === "Escape") { props.value = { ...state(), selected: [] }; mark(); }
    else return;
    event.preventDefault();
  });
}
watch("value", draw);
draw();
