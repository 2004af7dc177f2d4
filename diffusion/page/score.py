"""The tab Score: texts are ranked by their likelihood."""

import gradio as gr

from diffusion.page.parts import On, cells, text_view
from diffusion.page.service import MOST_CHARACTERS, MOST_DRAWS, MOST_TEXTS, Service


def score_tab(service: Service, on: On) -> None:
    texts = gr.Textbox(
        "", label="texts, one a line", lines=4, info=f"Up to {MOST_TEXTS}.",
        max_length=MOST_CHARACTERS,
    )  # fmt: skip
    draws = gr.Slider(
        1, MOST_DRAWS, 16, step=1, label="draws", info="Random mask patterns for each text."
    )
    go = gr.Button("Score", variant="primary")
    gr.Markdown(
        "The most probable text comes first. The bound and its error come from random mask patterns. "
        "Below each token stand the nats of that token alone, -log p(token | all others); they do not "
        "add up to the bound."
    )
    label = "texts with the nats of each token"
    view = text_view("notes", label, "The ranking appears here.")

    def score(texts, draws):
        found = service.score([x for x in texts.split("\n") if x.strip()], draws, 0)
        shown = []
        for rank, one in enumerate(found, 1):
            error, tokens = one["standard_error"], one["tokens"]
            about = "" if error is None else f" ± {error / tokens:.3f}"
            bound = (
                f"{rank}. {one['nats_per_token']:.3f}{about} nats per token, "
                f"{one['nats_per_byte']:.3f} per byte; {one['nats']:.1f} nats, {tokens} tokens\n"
            )
            shown.append(["heading", bound, None])
            notes = [f"{nats:.1f}" for _, nats in one["token_nats"]]
            shown += [*cells(service.scored(one), notes), ["blank", "\n", None]]
        return {"cells": shown[:-1]}

    on(go.click, score, [texts, draws], view)
