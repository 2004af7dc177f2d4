"""The editing modes of inference.py: infill, rewrite, interpolate, score.

Canvases come from `canvases`, the loop fills them, and a `Job` shows and saves the texts.
"""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.cli.console import progress, say
from diffusion.editing.canvases import interpolation_canvas, rewrite_canvas, score_texts, token_rows
from diffusion.editing.chat import Chat
from diffusion.editing.options import EditingOptions
from diffusion.editing.places import Filling
from diffusion.editing.templates import Template, changes, marked_changes
from diffusion.errors import printable

if TYPE_CHECKING:
    from diffusion.job import Job


def infill(job: "Job", editing: EditingOptions, template: Template, first: int = 0) -> None:
    """Fill the blanks of a template, by the samples from number ``first`` on; of several lengths, keep
    the best."""
    filling = Filling(job.writer, job.framer, template, _room(job))
    layouts, samples = filling.layouts, range(first, first + job.script.num_samples)

    def begin(layouts, samples):
        return _denoise(job, filling.canvas(layouts), samples)

    def known(lengths, **more) -> Callable:
        def record(step, row: int, written: dict) -> dict:
            spans = filling.places(step, row, lengths)
            places = [
                {"start": start, "end": end, "text": written["text"][start:end], "tokens": n}
                for (start, end), n in zip(spans, lengths, strict=True)
            ]
            return {"infill": str(template), **more, **written, "blanks": places}

        return record

    if len(layouts) == 1:
        for some in job.chunks(samples):
            job.show(begin(layouts * len(some), some), [known(layouts[0])] * len(some), some)
        return
    for sample in samples:
        texts, scores = [], []  # of each layout (the Steps of its batch, its row in them)
        for part in job.chunks(layouts):
            watched = job.live or job.script.save_animation
            steps = deque(begin(part, [sample] * len(part)), maxlen=None if watched else 1)
            scores += filling.scores(steps[-1], job.script.batch_size).tolist()
            texts += [(steps, row) for row in range(len(part))]
            progress(len(texts), len(layouts), "candidate")
        best = max(range(len(scores)), key=scores.__getitem__)
        tried = [
            {"lengths": list(lengths), "pseudo_likelihood": round(score, 4)}
            for lengths, score in zip(layouts, scores, strict=True)
        ]
        record = known(layouts[best], pseudo_likelihood=scores[best], candidates=tried)
        steps, row = texts[best]
        job.show(iter(steps), {row: record}, {row: sample}, row)
        nats = f"a pseudo-likelihood of {scores[best]:.3f} nats per token"
        lengths = " and ".join(map(str, layouts[best]))
        say(f"{lengths} tokens: the best of {len(layouts)}, with {nats}")


def rewrite(job: "Job", editing: EditingOptions, text: str) -> None:
    """Mask random tokens of a text, fill them, and show what changed."""
    tokenizer, keep = job.writer.tokenizer, editing.keep or []
    token_rows(tokenizer, [text], _room(job))  # refused where it is too long

    def record(step, row: int, written: dict) -> dict:
        masked = int((~step.frozen[row]).sum())
        own = {"rewrite": text, "strength": editing.strength, "keep": keep, "masked": masked}
        edits = [change._asdict() for change in changes(text, written["text"])]
        return {**own, **written, "changes": edits}

    for some in job.chunks(range(job.script.num_samples)):
        keys = rng.row_keys(job.generation.seed, some)
        canvas = rewrite_canvas(tokenizer, text, editing.strength, keys, keep)
        texts = job.show(_denoise(job, canvas, some), [record] * len(some), some)
        if not (job.script.json or job.script.output):
            for new in texts:
                say("nothing changed" if new == text else marked_changes(text, new))


def interpolate(job: "Job", editing: EditingOptions, texts: list[str]) -> None:
    """Texts on the way from one text to another."""
    tokenizer, points = job.writer.tokenizer, editing.points
    token_rows(tokenizer, texts, _room(job))
    jobs = itertools.product(range(job.script.num_samples), range(points))
    for some in job.chunks(jobs, 1 if job.live else None):  # the live view shows each text
        samples = [sample for sample, _ in some]
        weights = [point / (points - 1) for _, point in some]
        keys = rng.row_keys(job.generation.seed, samples)
        canvas = interpolation_canvas(tokenizer, tuple(texts), weights, keys)
        known = [
            {"interpolate": texts, "point": point, "weight": weight}
            for (_, point), weight in zip(some, weights, strict=True)
        ]
        job.show(_denoise(job, canvas, samples), known, samples)


def score(job: "Job", editing: EditingOptions, lines: list[tuple[int, str]]) -> None:
    """Bound the likelihood of each line."""
    bounds = score_texts(
        job.writer, [text for _, text in lines], _room(job), draws=editing.draws,
        batch_size=job.script.batch_size, seed=job.generation.seed,
        on_batch=lambda done, total: progress(done, total, "scoring pass"),
    )  # fmt: skip
    if not job.script.json:
        columns = f"{'line':>5} {'nats':>9} {'±':>7} {'per token':>9} {'per byte':>9} {'tokens':>6}"
        job.output.write({"text": f"{columns}  text"}, end="")
    for (number, text), bound in zip(lines, bounds, strict=True):
        error = "-" if bound.standard_error is None else f"{bound.standard_error:.2f}"
        line = (
            f"{number:5} {bound.nats:9.2f} {error:>7} {bound.nats_per_token:9.3f} "
            f"{bound.nats_per_byte:9.3f} {bound.tokens:6}  {printable(text)}"
        )
        record = {
            "line": number,
            "text": text if job.script.json else line,
            **asdict(bound),
            "draws": editing.draws,
            "seed": job.generation.seed,
            "model": job.writer.name,
        }
        job.output.write(record, end="")


MODES = {
    "infill": infill,
    "rewrite": rewrite,
    "interpolate": interpolate,
    "score": score,
    "chat": lambda job, editing, questions: Chat(job, editing).run(questions),
}


def _room(job: "Job") -> int:
    """The most positions of a text that the model has to see whole."""
    return min(job.generation.max_len, job.writer.positions)


def _denoise(job: "Job", canvas: Canvas, samples):
    options = job.ready(canvas.left_to_right)
    return job.writer.denoise(canvas, options, samples, may_end=False)
