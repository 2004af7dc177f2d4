"""The page: four tabs around a `Service`, and the same as an API."""

import html
import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from diffusion.errors import UserError
from diffusion.page.compare import compare_tab
from diffusion.page.parts import ASSETS, QUICK, told
from diffusion.page.score import score_tab
from diffusion.page.service import Service
from diffusion.page.touch import touch_tab
from diffusion.page.write import write_tab
from diffusion.views import record, webpage
from diffusion.views.frames import Frame

QUEUE = 32  # requests that may wait
# Of a browser: whatever the page names, nothing is loaded from elsewhere.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)


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


class Page:
    """The page of a `Service`.

    Args:
        concurrency: requests that are worked on at once; with more than one, measured seconds are those
            of a machine with other work.
    """

    def __init__(self, service: Service, concurrency: int = 1):
        self.service = service
        self.work = {"concurrency_id": "models", "concurrency_limit": concurrency}
        self.blocks = gr.Blocks(
            title="RoBERTa Diffusion", analytics_enabled=False, delete_cache=(3600, 86400)
        )
        with self.blocks:
            api(service, self.work)  # first: functions of the tabs have the same names
            writer, baseline = (Path(one.name).name for one in service.pair)
            names = f"{writer} writes, and is compared with {baseline}."
            gr.HTML(f"<h1>RoBERTa Diffusion</h1><p>{html.escape(names)}</p>")
            with gr.Tabs() as tabs:
                with gr.Tab("Write", id="write"):
                    to_touch, written = write_tab(service, self.on)
                with gr.Tab("Touch", id="touch"):
                    touched, taken = touch_tab(service, self.on)
                with gr.Tab("Compare", id="compare"):
                    compare_tab(service, self.on)
                with gr.Tab("Score", id="score"):
                    score_tab(service, self.on)

            def handed(view) -> tuple:
                text = view.get("text") if isinstance(view, dict) else None
                if not text:
                    raise UserError("there is no text yet; write one first")
                if view.get("busy"):
                    raise UserError("the text is still being written; wait, or stop it")
                return gr.Tabs(selected="touch"), taken(text)

            to_touch.click(told(handed), written, [tabs, touched], **QUICK)
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

    def on(self, event: Callable, work: Callable, inputs, outputs, **how) -> None:
        """``work``, which needs a model, when something happens on the page."""
        event(told(work), inputs, outputs, api_visibility="private", **self.work, **how)


def api(service: Service, work: dict) -> None:
    """The functions of docs/page.md; ``work``: how many run at once, see `Page`."""

    def write(prompt: str, length: int = 64, options: dict | None = None) -> dict:
        *_, last = service.write(prompt, length, options or {})
        return facts(last)

    def touch(
        text: str, places: list, by: str = "", sample: int = 0, options: dict | None = None
    ) -> dict:
        *_, last = service.touch(text, places, by, sample, options or {})
        return facts(last.frame) | {"places": last.places}

    def compare(
        prompt: str, length: int = 64, repeats: int = 3, options: dict | None = None
    ) -> dict:
        return json.loads(record.dump(service.compare(prompt, length, repeats, options or {})))

    for function in (write, touch, service.likeliest, compare, service.score):
        gr.api(told(function, shown=False), api_name=function.__name__, **work)


def facts(frame: Frame) -> dict:
    """A finished text and how it was written."""
    tokens = frame.written if frame.nfe else 0
    return {
        "text": frame.text, "nfe": frame.nfe, "seconds": round(frame.seconds, 6),
        "tokens": tokens, "tokens_per_pass": round(tokens / max(1, frame.nfe), 3),
    }  # fmt: skip
