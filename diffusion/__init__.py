"""A masked language model as a text generator, by diffusion.

Read it in this order: `noise` (how text becomes noise), `canvas` (what is given and what is to be
written), `proposal` (one draw for each position), `denoise` (the loop), `samplers` (which positions
are written, and which masked again), `models` (all that calls a network), `generate` (a model ready
to write). From Python:

    import diffusion

    writer = diffusion.load("roberta-minilm-stories")
    texts = diffusion.write(writer, ["The city was founded in"], temperature=0.9)
    steps = list(diffusion.steps(writer, "The river", length=40))
    bounds = diffusion.score(writer, texts)
    diffusion.animate(writer, steps, "river.gif")

Each function imports what it needs when it is called, so that what needs no torch does not load it.
"""

__all__ = ["animate", "load", "score", "steps", "write"]


def load(model: str = "roberta-minilm-stories", device: str = "auto", dtype: str = "auto"):
    """A model that is ready to write: a `generate.Writer`, or for a GPT-2 an `autoregressive.CausalWriter`.

    Args:
        model: a folder, the name of one in weights/, or a name on the hub such as roberta-base.
        device, dtype: as the flags of inference.py.

    Raises:
        errors.UserError: there is no such model, or it cannot be read.
    """
    from diffusion.autoregressive import load_causal_writer
    from diffusion.generate import load_writer
    from diffusion.models import loading

    masked = loading.is_masked_lm(loading.load_config(model))
    return (load_writer if masked else load_causal_writer)(model, None, device, dtype)


def steps(writer, prompt: str = "", sample: int = 0, **options):
    """Every `canvas.Step` of one text after a prompt; "" writes from nothing.

    Args:
        sample: the number of the text: another number, another text.
        options: the flags of inference.py (`options.GenerationOptions`; of a GPT-2
            `options.SamplingOptions`), and those of the sampler: ``sampler="remdm", eta=0.02``.
    """
    return _generate(writer, [prompt], [sample], options)


def _generate(writer, prompts: list[str], samples: list[int], options: dict):
    from diffusion.options import GenerationOptions, SamplingOptions

    kind = SamplingOptions if writer.autoregressive else GenerationOptions
    return writer.generate(prompts, kind.from_dict(options), samples)


def write(writer, prompts: list[str], **options) -> list[str]:
    """One text for each prompt, the prompt included, all written together; options as in `steps`."""
    from diffusion.views.frames import written_text

    *_, last = _generate(writer, prompts, [0] * len(prompts), options)
    return [written_text(writer.tokenizer, last, row) for row in range(len(prompts))]


def score(writer, texts: list[str], draws: int = 16, seed: int = 0, batch_size: int = 16) -> list:
    """The `likelihood.TextBound` of each text, in nats, from ``draws`` random sets of masks."""
    from diffusion.editing.canvases import score_texts

    return score_texts(writer, texts, draws=draws, seed=seed, batch_size=batch_size)


def animate(writer, steps, path: str, row: int = 0) -> None:
    """Save how text ``row`` of the batch was written, from all its ``steps``, as .gif, .html, .mp4 or
    .png (a filmstrip)."""
    from diffusion.cli.files import check_animation_path
    from diffusion.views.animation import save_film
    from diffusion.views.film import film_of
    from diffusion.views.frames import Framer, status_of

    check_animation_path(path)
    framer = Framer(writer.tokenizer)
    frames = [framer.frame(step, row) for step in steps]
    save_film(film_of(frames, writer.name, status=status_of(writer)), path)
