"""The tab Compare: two models write after one prompt, on one clock."""

import html

import gradio as gr

from diffusion.page.parts import On, save_button
from diffusion.page.service import MOST_CHARACTERS, MOST_REPEATS, MOST_TOKENS, Service
from diffusion.views import record, webpage


def compare_tab(service: Service, on: On) -> None:
    with gr.Row():
        prompt = gr.Textbox(
            service.pair[0].example or "", label="prompt", lines=2, scale=2,
            max_length=MOST_CHARACTERS,
        )  # fmt: skip
        sampler = gr.Textbox(
            "", label="sampler",
            info="Of the diffusion model, such as remdm:eta=0.02. Empty: its default.",
        )  # fmt: skip
    with gr.Row():
        length = gr.Slider(1, MOST_TOKENS, 64, step=1, label="length", info="New tokens.")
        repeats = gr.Slider(
            1, MOST_REPEATS, 3, step=1, label="runs", info="Each is measured; the median is shown."
        )
        seed = gr.Number(0, label="seed", info="Same seed, same text.", precision=0)
    go = gr.Button("Compare", variant="primary")
    film = gr.HTML("", label="both models on one clock", elem_classes="film")
    table = gr.HTML("", label="seconds", elem_classes="kinds")
    measured = gr.State(None, time_to_live=3600)

    def compare(prompt, length, repeats, sampler, seed):
        options = {"sampler": sampler or None, "seed": seed}
        data = service.compare(prompt, length, repeats, options)
        page = webpage.page(record.film_of_record(data, 1.0))
        frame = (
            '<iframe title="both models on one clock" sandbox="allow-scripts" '
            f'srcdoc="{html.escape(page)}"></iframe>'
        )
        return frame, f"<pre>{html.escape(record.table(data))}</pre>", data

    on(go.click, compare, [prompt, length, repeats, sampler, seed], [film, table, measured])
    save_button(on, measured, lambda data: record.film_of_record(data, 1.0), ".json")
