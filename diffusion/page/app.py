"""The page: four tabs around a `Service`, and the same as an API."""

import html
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from inspect import isgeneratorfunction
from itertools import accumulate, pairwise
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from diffusion.errors import UserError, printable, sentence
from diffusion.page.controls import Controls
from diffusion.page.service import (
    MOST_CHARACTERS,
    MOST_DRAWS,
    MOST_REPEATS,
    MOST_TEXTS,
    MOST_TOKENS,
    Edit,
    Service,
)
from diffusion.views import record, webpage
from diffusion.views.film import film_of
from diffusion.views.frames import Frame, State, legend, status_line

ASSETS = Path(__file__).parent / "assets"
QUEUE = 32  # requests that may wait
REDRAW = 0.06  # seconds; a browser draws no faster
TRIES = 5  # samples for a place, until one differs from what stands there
PACE = 0.1  # seconds for which a step is shown, at least
FORMATS = [".html", ".gif", ".png", *([".mp4"] if shutil.which("ffmpeg") else [])]
# Of a browser: whatever the page names, nothing is loaded from elsewhere.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
TEXT = """<div class="{kind}"><div class="text" {role} aria-label="{label}" data-hint="{hint}"></div>
{extra}<p class="status" role="status"></p></div>"""
TOUCHED = """<p class="likeliest" aria-live="polite"></p>
<label><input type="checkbox" class="whole" checked> select whole words</label>"""


class Local:
    """Middleware that adds `POLICY` to each answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def policed(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, receive, policed)


def told(work: Callable, shown: bool = True) -> Callable:
    """The same function or generator, whose `UserError` is a message of gradio; ``shown``: on the page,
    which would take it for HTML."""

    def message(error: UserError) -> gr.Error:
        # The page has fields instead of flags, and none for this one.
        said = sentence(str(error)).replace(", or change --max_len", "").replace("--", "")
        return gr.Error(html.escape(said) if shown else said, duration=20, print_exception=False)

    @wraps(work)
    def function(*arguments, **named):
        try:
            return work(*arguments, **named)
        except UserError as error:
            raise message(error) from None

    @wraps(work)
    def generator(*arguments, **named):
        try:
            yield from work(*arguments, **named)
        except UserError as error:
            raise message(error) from None

    return generator if isgeneratorfunction(work) else function


def cells(frame: Frame, notes: Iterable | None = None) -> list[list]:
    """[kind, string, note] of each position, for text.js; the note is by default the probability with
    which a token was written."""
    notes = notes or frame.confidence or [None] * len(frame.pieces)
    return [[frame.kind(i), frame.shown(i), note] for i, note in enumerate(notes)]


def paced(frames: Iterable[Frame], pace: float = PACE) -> Iterator[Frame]:
    """Frames to be watched: each stays for at least ``pace`` seconds, none comes sooner than `REDRAW`
    after another, and the last always comes."""
    due, drawn, waiting = 0.0, 0.0, None
    for frame in frames:
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        due, waiting = now + pace, frame
        if now - drawn >= REDRAW:
            yield frame
            drawn, waiting = now, None
    if waiting is not None:
        yield waiting


class Page:
    """The page of a `Service`.

    Args:
        concurrency: requests that are worked on at once; with more than one, measured seconds are those
            of a machine with other work.
    """

    def __init__(self, service: Service, concurrency: int = 1):
        self.service, self.stopped = service, set()
        self.work = {"concurrency_id": "models", "concurrency_limit": concurrency}
        self.blocks = gr.Blocks(
            title="RoBERTa Diffusion", analytics_enabled=False, delete_cache=(3600, 86400)
        )
        with self.blocks:
            self._api()  # first: functions of the tabs have the same names
            writer, *pair = (Path(one.name).name for one in (service.writer, *service.pair))
            names = f"{writer} writes; {' and '.join(pair)} are compared."
            gr.HTML(f"<h1>RoBERTa Diffusion</h1><p>{html.escape(names)}</p>")
            with gr.Tabs() as self.tabs:
                with gr.Tab("Write", id="write"):
                    to_touch, written = self._write()
                with gr.Tab("Touch", id="touch"):
                    touched = self._touch()
                with gr.Tab("Compare", id="compare"):
                    self._compare()
                with gr.Tab("Score", id="score"):
                    self._score()
            to_touch.click(
                told(self._taken), written, [self.tabs, touched], api_visibility="private",
                show_progress="hidden",
            )  # fmt: skip
        self.blocks.queue(max_size=QUEUE)

    def launch(self, **how):
        """Start the server; arguments of `gradio.Blocks.launch`."""
        return self.blocks.launch(
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
                block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
            ),
            css=webpage.styles() + (ASSETS / "page.css").read_text(encoding="utf-8"),
            app_kwargs={"middleware": [Middleware(Local)]},
            footer_links=["api"], ssr_mode=False, quiet=True, show_error=True, max_file_size=1, **how,
        )  # fmt: skip

    def _on(self, event: Callable, work: Callable, inputs, outputs, **how) -> None:
        """``work``, which needs a model, when something happens on the page."""
        event(told(work), inputs, outputs, api_visibility="private", **self.work, **how)

    # ------------------------------------------------------------ tabs

    def _write(self) -> tuple[gr.Button, gr.HTML]:
        prompt = gr.Textbox(
            self.service.writer.example or "", label="prompt", lines=2,
            max_length=MOST_CHARACTERS, info="Empty: write from nothing.",
        )  # fmt: skip
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                view = text_view("text", hint="The text appears here.")
                with gr.Row():
                    go = gr.Button("Write", variant="primary", min_width=90)
                    stop = gr.Button("Stop", min_width=90)
                    touch = gr.Button("Touch it", min_width=90)
                legend_view()
                frames = gr.State([], time_to_live=3600)
                self._save(frames, lambda shown: film_of(shown, self.service.writer.name))
            with gr.Column(scale=1, min_width=260):
                length = gr.Slider(1, MOST_TOKENS, 64, step=1, label="length", info="New tokens.")
                pace = gr.Slider(
                    0, 1, PACE, step=0.05, label="pace",
                    info="Show each step for at least so many seconds; they are not measured.",
                )  # fmt: skip
                controls = Controls(self.service.writer)

        def write(request: gr.Request, prompt, length, pace, *values):
            self.stopped.discard(request.session_hash)
            shown: list[Frame] = []

            def kept():
                for frame in self.service.write(prompt, length, controls.read(values)):
                    shown.append(frame)
                    yield frame
                    if request.session_hash in self.stopped:
                        return

            for frame in paced(kept(), pace):
                value = {"cells": cells(frame), "status": status_line(frame), "text": frame.text}
                yield value | {"busy": True}, []
            yield value, shown

        inputs = [prompt, length, pace, *controls.inputs]
        start = partial(gr.on, [go.click, prompt.submit])
        self._on(start, write, inputs, [view, frames], show_progress="hidden")
        stop.click(self._stop, queue=False, api_visibility="private")
        return touch, view

    def _stop(self, request: gr.Request) -> None:
        """End the text that this session is writing, which keeps what is written."""
        self.stopped.add(request.session_hash)

    def _touch(self) -> gr.HTML:
        def likeliest(question: list) -> list:
            text, token = question
            return told(self.service.likeliest)(text, token)

        view = text_view(
            "text; select words by click, by dragging, or with arrow keys and space", touch=True,
            hint="Write a text in the first tab and touch it, or give one below.",
            server_functions=[likeliest],
        )  # fmt: skip
        with gr.Row():
            again = gr.Button("Write anew", variant="primary", min_width=140)
            lock = gr.Button("Lock or unlock", min_width=140)
            rest = gr.Button("Invert selection", min_width=140)
            undo = gr.Button("Undo", min_width=140)
        with gr.Row():
            by = gr.Textbox(
                "", label="replace by", max_length=MOST_CHARACTERS,
                info="Instead of the selected words: text, or <mask:2-4> for 2 to 4 tokens. Empty: "
                "as many tokens as there are.",
            )  # fmt: skip
            temperature = gr.Slider(0, 2, 1, step=0.05, label="temperature")
        with gr.Row():
            own = gr.Textbox(
                "", label="your own text", lines=2, max_length=MOST_CHARACTERS, scale=4
            )
            take = gr.Button("Take this text", min_width=120)

        def anew(value, by, temperature):
            value = known(value)
            text, places = value["text"], self._places(value["text"], value["selected"])
            kept, sample, edits = self._places(text, value["locked"]), value["sample"], []

            def frames():
                nonlocal sample
                for _ in range(TRIES):
                    sample += 1
                    options = {"temperature": temperature}
                    for edit in self.service.touch(text, places, by, sample, options):
                        edits.append(edit)
                        yield edit.frame
                    if edit.frame.text != text or not edit.frame.nfe or not temperature:
                        return

            busy = value | {"busy": True, "selected": []}
            try:
                for frame in paced(frames()):
                    yield busy | {"cells": cells(frame), "status": status_line(frame)}
            except UserError:
                yield value | {"busy": False}
                raise
            new = edits[-1]
            past = [*value["past"], [text, value["selected"], value["locked"]]][-50:]
            status = status_line(new.frame) if new.frame.nfe else ""
            if new.frame.text == text:
                status += " · the same words again; a higher temperature varies more"
            yield self._touchable(
                new.frame.text, new.places, shifted(kept, new), past, sample, status
            )

        def locked(value):
            value = known(value)
            chosen, kept = set(value["selected"]), set(value["locked"])
            kept = kept | chosen if chosen else set()
            return value | {"selected": [], "locked": sorted(kept)}

        def others(value):
            value = known(value)
            left = set(range(len(value["cells"]))) - {*value["selected"], *value["locked"]}
            return value | {"selected": sorted(left)}

        def undone(value):
            value = known(value)
            if not value["past"]:
                raise UserError("there is nothing to undo")
            *past, (text, selected, kept) = value["past"]
            whole = self._touchable(text, past=past, sample=value["sample"])
            return whole | {"selected": selected, "locked": kept}

        quick = {"show_progress": "hidden", "api_visibility": "private"}
        self._on(again.click, anew, [view, by, temperature], view, show_progress="hidden")
        lock.click(told(locked), view, view, **quick)
        rest.click(told(others), view, view, **quick)
        undo.click(told(undone), view, view, **quick)
        take.click(told(self._touchable), own, view, **quick)
        return view

    def _taken(self, view) -> tuple:
        """The text of the first tab, in the second."""
        text = view.get("text") if isinstance(view, dict) else None
        if not text:
            raise UserError("there is no text yet; write one first")
        if view.get("busy"):
            raise UserError("the text is still being written; wait, or stop it")
        return gr.Tabs(selected="touch"), self._touchable(text)

    def _touchable(self, text, places=(), kept=(), past=(), sample=0, status="") -> dict:
        """A text for the tab Touch; places and what is locked in characters."""
        pieces = self.service.tokens(text)
        bounds = list(pairwise(accumulate(map(len, pieces), initial=0)))

        def inside(ranges) -> list[int]:
            touched = (any(a < end and b > start for start, end in ranges) for a, b in bounds)
            return [i for i, within in enumerate(touched) if within]

        new = set(inside(places))
        shown = [
            [State.FRESH if i in new else State.SETTLED, printable(piece), None]
            for i, piece in enumerate(pieces)
        ]
        return {
            "text": text, "cells": shown, "selected": sorted(new), "locked": inside(kept),
            "past": list(past), "sample": sample, "status": status, "busy": False,
        }  # fmt: skip

    def _places(self, text: str, numbers: list[int]) -> list[tuple[int, int]]:
        """Tokens of a text, by their numbers, in characters."""
        bounds = pairwise(accumulate(map(len, self.service.tokens(text)), initial=0))
        return [place for i, place in enumerate(bounds) if i in numbers and place[0] < place[1]]

    def _compare(self) -> None:
        with gr.Row():
            prompt = gr.Textbox(
                self.service.pair[0].example or "", label="prompt", lines=2, scale=2,
                max_length=MOST_CHARACTERS,
            )  # fmt: skip
            sampler = gr.Textbox(
                "", label="sampler",
                info="Of the diffusion model, such as remdm:eta=0.02. Empty: its default.",
            )  # fmt: skip
        with gr.Row():
            length = gr.Slider(1, MOST_TOKENS, 64, step=1, label="length", info="New tokens.")
            repeats = gr.Slider(
                1,
                MOST_REPEATS,
                3,
                step=1,
                label="runs",
                info="Each is measured; the median is shown.",
            )
            seed = gr.Number(0, label="seed", info="Same seed, same text.", precision=0)
        go = gr.Button("Compare", variant="primary")
        film = gr.HTML("", label="both models on one clock", elem_classes="film")
        table = gr.HTML("", label="seconds", elem_classes="kinds")
        measured = gr.State(None, time_to_live=3600)

        def compare(prompt, length, repeats, sampler, seed):
            options = {"sampler": sampler or None, "seed": seed}
            data = self.service.compare(prompt, length, repeats, options)
            page = webpage.page(record.film_of_record(data, 1.0))
            frame = (
                '<iframe title="both models on one clock" sandbox="allow-scripts" '
                f'srcdoc="{html.escape(page)}"></iframe>'
            )
            return frame, f"<pre>{html.escape(record.table(data))}</pre>", data

        self._on(
            go.click, compare, [prompt, length, repeats, sampler, seed], [film, table, measured]
        )
        self._save(measured, lambda data: data, ".json")

    def _score(self) -> None:
        texts = gr.Textbox(
            "", label="texts, one a line", lines=4, info=f"Up to {MOST_TEXTS}.",
            max_length=MOST_CHARACTERS,
        )  # fmt: skip
        draws = gr.Slider(
            1, MOST_DRAWS, 16, step=1, label="draws", info="Random mask patterns for each text."
        )
        go = gr.Button("Score", variant="primary")
        gr.Markdown(
            "The most probable text comes first. The bound and its error come from random mask patterns. Below each token stand the nats of "
            "that token alone, -log p(token | all others); they do not add up to the bound."
        )
        view = text_view(
            "texts with the nats of each token", notes=True, hint="The ranking appears here."
        )

        def score(texts, draws):
            found = self.service.score([x for x in texts.split("\n") if x.strip()], draws, 0)
            shown = []
            for rank, one in enumerate(found, 1):
                notes = [f"{nats:.1f}" for _, nats in one["token_nats"]]
                shown += [["heading", f"{rank}. {bound(one)}\n", None]]
                shown += [*cells(self.service.scored(one), notes), ["blank", "\n", None]]
            return {"cells": shown[:-1]}

        self._on(go.click, score, [texts, draws], view)

    def _save(self, kept: gr.State, film: Callable, *more: str) -> None:
        """A button that saves what was written last."""
        with gr.Accordion("Save", open=False), gr.Row():
            endings = [*more, *FORMATS]
            ending = gr.Dropdown(endings, value=endings[0], label="file", min_width=120)
            save = gr.Button("Save", min_width=100)
            file = gr.File(label="saved", height=80, interactive=False)

        def saved(shown, ending):
            if not shown:
                raise UserError("there is nothing to save yet; write or compare first")
            folder = tempfile.mkdtemp(dir=self._folder())
            name = "compare" if isinstance(shown, dict) else "text"
            return str(self.service.save(film(shown), Path(folder, name + ending)))

        self._on(save.click, saved, [kept, ending], file)

    def _folder(self) -> str:
        """Where files lie until gradio deletes them, a day after."""
        os.makedirs(self.blocks.GRADIO_CACHE, exist_ok=True)
        return self.blocks.GRADIO_CACHE

    # ------------------------------------------------------------ API

    def _api(self) -> None:
        service = self.service

        def write(prompt: str, length: int = 64, options: dict | None = None) -> dict:
            *_, last = service.write(prompt, length, options or {})
            return facts(last)

        def touch(
            text: str, places: list, by: str = "", sample: int = 0, options: dict | None = None
        ) -> dict:
            *_, last = service.touch(text, places, by, sample, options or {})
            return facts(last.frame) | {"places": last.places}

        def likeliest(text: str, token: int) -> list:
            return service.likeliest(text, token)

        def compare(
            prompt: str, length: int = 64, repeats: int = 3, options: dict | None = None
        ) -> dict:
            return service.comparison(service.compare(prompt, length, repeats, options or {}))

        def score(texts: list, draws: int = 16, seed: int = 0) -> list:
            return service.score(texts, draws, seed)

        for work in (write, touch, likeliest, compare, score):
            gr.api(told(work, shown=False), api_name=work.__name__, **self.work)


def text_view(
    label: str, hint: str = "", touch: bool = False, notes: bool = False, **more
) -> gr.HTML:
    """A text drawn by text.js, with a status line."""
    role = 'role="listbox" aria-multiselectable="true"' if touch else 'role="group"'
    kind = "touch" if touch else "notes" if notes else "watch"
    return gr.HTML(
        {"cells": []},
        html_template=TEXT.format(
            kind=kind, role=role, label=label, hint=hint, extra=TOUCHED if touch else ""
        ),
        js_on_load=(ASSETS / "text.js").read_text(encoding="utf-8"),
        elem_classes="kinds", apply_default_css=False, touch=touch, notes=notes, **more,
    )  # fmt: skip


def legend_view() -> gr.HTML:
    kinds = {State.GIVEN, State.FRESH, State.SETTLED, "doubt2", State.MASKED, State.REMASKED}
    shown = (f'<span class="{kind}">{label}</span>' for kind, label in legend(kinds))
    return gr.HTML(f'<p class="legend">{" ".join(shown)}</p>', elem_classes="kinds")


def known(value) -> dict:
    """The value of the tab Touch as it came from a browser, or a `UserError`."""
    lists = ("cells", "selected", "locked", "past")
    if not (isinstance(value, dict) and isinstance(value.get("text"), str)):
        raise UserError("there is no text; write one and touch it, or give your own")
    if not (isinstance(value.get("sample"), int) and all(type(value[n]) is list for n in lists)):
        raise UserError("the page is out of date; reload it")
    return value


def shifted(kept: list[tuple[int, int]], edit: Edit) -> list[tuple[int, int]]:
    """Where ranges outside of what an edit replaced are after it."""
    moved, ends = [], [(0, 0)]
    ends += [(old, new) for (_, old), (_, new) in zip(edit.replaced, edit.places, strict=True)]
    for start, end in kept:
        old, new = next(pair for pair in reversed(ends) if pair[0] <= start)
        moved.append((start + new - old, end + new - old))
    return moved


def bound(one: dict) -> str:
    """The bound of a text in words."""
    error = one["standard_error"]
    about = "" if error is None else f" ± {error / one['tokens']:.3f}"
    return (
        f"{one['nats_per_token']:.3f}{about} nats per token, {one['nats_per_byte']:.3f} per byte; "
        f"{one['nats']:.1f} nats, {one['tokens']} tokens"
    )


def facts(frame: Frame) -> dict:
    """A finished text and how it was written."""
    tokens = frame.written if frame.nfe else 0
    return {
        "text": frame.text, "nfe": frame.nfe, "seconds": round(frame.seconds, 6),
        "tokens": tokens, "tokens_per_pass": round(tokens / max(1, frame.nfe), 3),
    }  # fmt: skip
