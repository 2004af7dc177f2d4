"""The tab Write: a prompt is continued, step by step."""

from functools import partial

import gradio as gr

from diffusion.page.controls import Controls
from diffusion.page.parts import PACE, On, cells, paced, save_button, text_view
from diffusion.page.service import MOST_CHARACTERS, MOST_TOKENS, Service
from diffusion.views.film import film_of
from diffusion.views.frames import Frame, State, legend, status_line

KINDS = {State.GIVEN, State.FRESH, State.SETTLED, "doubt2", State.MASKED, State.REMASKED}


def write_tab(service: Service, on: On) -> tuple[gr.Button, gr.HTML]:
    """Returns the button that hands the text on, and the text."""
    prompt = gr.Textbox(
        service.writer.example or "", label="prompt", lines=2, max_length=MOST_CHARACTERS,
        info="Empty: write from nothing.",
    )  # fmt: skip
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            view = text_view("watch", "text", "The text appears here.")
            with gr.Row():
                go = gr.Button("Write", variant="primary", min_width=90)
                stop = gr.Button("Stop", min_width=90)
                touch = gr.Button("Touch it", min_width=90)
            shown = (f'<span class="{kind}">{label}</span>' for kind, label in legend(KINDS))
            gr.HTML(f'<p class="legend">{" ".join(shown)}</p>', elem_classes="kinds")
            frames = gr.State([], time_to_live=3600)
            save_button(on, frames, lambda shown: film_of(shown, service.writer.name))
        with gr.Column(scale=1, min_width=260):
            length = gr.Slider(1, MOST_TOKENS, 64, step=1, label="length", info="New tokens.")
            pace = gr.Slider(
                0, 1, PACE, step=0.05, label="pace",
                info="Show each step for at least so many seconds; they are not measured.",
            )  # fmt: skip
            controls = Controls(service.writer)
    stopped = set()  # sessions whose text ends, and keeps what is written

    def write(request: gr.Request, prompt, length, pace, *values):
        stopped.discard(request.session_hash)
        shown: list[Frame] = []

        def kept():
            for frame in service.write(prompt, length, controls.read(values)):
                shown.append(frame)
                yield frame
                if request.session_hash in stopped:
                    return

        for frame in paced(kept(), pace):
            value = {"cells": cells(frame), "status": status_line(frame), "text": frame.text}
            yield value | {"busy": True}, []
        yield value, shown

    def end(request: gr.Request) -> None:
        stopped.add(request.session_hash)

    start = partial(gr.on, [go.click, prompt.submit])
    inputs = [prompt, length, pace, *controls.inputs]
    on(start, write, inputs, [view, frames], show_progress="hidden")
    stop.click(end, queue=False, api_visibility="private")
    return touch, view
