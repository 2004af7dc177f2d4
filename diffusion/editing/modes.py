"""The editing modes of inference.py: infill, rewrite, interpolate, score, the best of several.

Canvases come from `editing`, the one loop writes them, and `writing` shows and saves what comes
out. Nothing heavy is imported before a model is loaded.
"""

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from diffusion.cli.console import progress, say
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import same_file
from diffusion.cli.show import Output, animation, facts, is_live, watch, write_texts
from diffusion.editing.options import (
    DRAWS,
    POINTS,
    STRENGTH,
    EditingOptions,
    score_lines,
    text_or_file,
)
from diffusion.editing.session import Session
from diffusion.editing.templates import (
    HOLE,
    LIKE_A_HOLE,
    Template,
    changes,
    kept_characters,
    marked_changes,
    parse_template,
    short,
)
from diffusion.errors import UserError
from diffusion.options import SAMPLERS, GenerationOptions, one_of
from diffusion.views.frames import Framer, printable
from diffusion.views.terminal import colour_enabled


class Editor:
    """What `writing.serve` asks of a script that can edit."""

    def __init__(self, options: EditingOptions):
        self.options = options
        self.mode: str | None = None
        self.source: object = None  # what the mode works on, read and checked

    def check_flags(self, generation: GenerationOptions, lists: bool = False) -> None:
        """Refuse flags that would mean nothing. Before ``generation.check()``, which fills in what
        nobody has typed.

        Args:
            lists: whether the samplers are to be listed, and nothing else.
        """
        mode = self.options.check()
        if lists:
            if mode is not None:
                raise UserError(f"--list_samplers only lists; leave it out, or --{mode}")
            if generation.sampler is not None:
                one_of("--sampler", generation.sampler, SAMPLERS)
        elif mode == "score":
            for option in fields(generation):
                value = getattr(generation, option.name)
                if option.name not in ("seed", "max_len") and value != option.default:
                    raise UserError(
                        f"--{option.name} {value} is for writing, and --score only reads; leave "
                        "it out"
                    )

    def check(self, generation: GenerationOptions, script: WritingOptions, prompt) -> bool:
        """Whether a flag gives the text to work on, after refusing all that can be refused
        without a model."""
        self.mode = mode = self.options.check()
        if mode is None or mode == "best_of":
            return False
        if prompt is not None or script.unconditional:
            other = "a prompt" if prompt is not None else "--unconditional"
            raise UserError(f"--{mode} brings its own text; leave out {other}")
        if generation.length is not None:
            raise UserError(f"--length is for new texts; leave it out with --{mode}")
        if generation.window_stride is not None:
            raise UserError(
                f"--{mode} works on a whole text, which the model must see at once; leave out "
                "--window_stride"
            )
        animated = script.save_animation is not None or script.show
        if animated and mode in ("interpolate", "score"):
            flag = "--show" if script.show else "--save_animation"
            raise UserError(f"{flag} animates one text; --{mode} has several, leave it out")
        if mode == "score" and script.num_samples != 1:
            raise UserError("--num_samples is for writing, and --score only reads; leave it out")
        # Not a device: what is typed into /dev/stdin may go to /dev/stdout.
        values = getattr(self.options, mode)
        for name in filter(os.path.isfile, values if isinstance(values, list) else [values]):
            if script.output and same_file(script.output, name):
                raise UserError(f"--output {script.output!r} is what --{mode} reads; give another")
        if mode == "infill":
            self.source = parse_template(text_or_file(self.options.infill, "--infill"))
        elif mode == "rewrite":
            self.source = text_or_file(self.options.rewrite, "--rewrite")
            kept_characters(self.source, self.options.keep or [])
        elif mode == "interpolate":
            texts = self.options.interpolate
            self.source = [text_or_file(text, "--interpolate") for text in texts]
        else:
            self.source = score_lines(self.options.score)
        return True

    def serve(self, writer, prompts, generation, script, output: Output) -> None:
        """Do what the flags ask for; ``prompts`` is None to ask for them."""
        desk = Desk(writer, generation, script, output)
        options = self.options
        if self.mode == "infill":
            desk.infill(self.source)
        elif self.mode == "rewrite":
            strength = STRENGTH if options.strength is None else options.strength
            desk.rewrite(self.source, strength, options.keep or [])
        elif self.mode == "interpolate":
            desk.interpolate(*self.source, POINTS if options.points is None else options.points)
        elif self.mode == "score":
            desk.score(self.source, options.draws or DRAWS, options.rank)
        elif prompts is None:
            Session(desk, options).run()
        else:
            starts = (prompt.split(maxsplit=1)[0] for prompt in prompts if prompt.startswith("/"))
            if command := next((w for w in starts if w[1:].lower() in Session.COMMANDS), None):
                say(
                    f"note: {command} at the beginning of a prompt is plain text; commands work "
                    "only at the question of the interactive loop"
                )
            desk.prompts(prompts, options)


@dataclass
class Desk:
    """A writer, and where its texts go."""

    writer: object
    generation: GenerationOptions
    script: WritingOptions
    output: Output

    @property
    def tokenizer(self):
        return self.writer.tokenizer

    @property
    def vocab_size(self) -> int:
        return self.writer.denoiser.row_logits.config.vocab_size

    @property
    def room(self) -> tuple[int, int]:
        """The most positions of a text, and of one that the model sees whole."""
        return self.generation.max_len, self.writer.positions

    def chunks(self, items, size: int | None = None):
        """The items in batches."""
        items, size = list(items), size or self.script.batch_size
        return [items[i : i + size] for i in range(0, len(items), size)]

    def publish(self, steps, asked: list, samples: list[int], row: int | None = None) -> None:
        """Run a generation and put out its texts, or only that of ``row``.

        Args:
            asked: for each text what was asked for, a dictionary to begin its record with, or a
                function (last step, row, what was written) -> record.
        """
        framer = Framer(self.tokenizer)
        step, frames, shown = watch(steps, self.writer, self.script, framer, row or 0)
        for i in range(len(step.ids)) if row is None else [row]:
            known = facts(self.writer, self.generation, step, i, samples[i])
            record = asked[i](step, i, known) if callable(asked[i]) else {**asked[i], **known}
            self.output.write(record, shown=shown and i == (row or 0))
        if frames:
            animation(frames, self.writer, self.generation, self.script)

    # ------------------------------------------------------------ the modes

    def prompts(self, prompts: list[str], options: EditingOptions) -> None:
        """Continue each prompt, with the best of several texts if asked."""
        if hole := next(filter(None, map(HOLE.search, prompts)), None):
            say(f"note: {hole[0]} in a prompt is plain text; --infill and /infill fill holes")
        if options.best_of is None:
            write_texts(self.writer, prompts, self.generation, self.script, self.output)
            return
        from diffusion.canvas import prompt_ids

        if self.generation.max_len > self.writer.positions:
            raise UserError(
                f"--best_of scores whole texts, and {self.writer.name} sees "
                f"{self.writer.positions} positions; use --max_len {self.writer.positions} or less"
            )
        prompt_ids(self.tokenizer, prompts, self.generation.max_len, self.generation.length)
        n, draws = options.best_of, options.draws or DRAWS
        for prompt, number in itertools.product(prompts, range(self.script.num_samples)):
            # Text 0 is the best of what --num_samples N would write, text 1 of the next N, ...
            samples = range(number * n, number * n + n)
            places = self.candidates(
                samples,
                lambda some, p=prompt: self.writer.generate([p] * len(some), self.generation, some),
            )
            texts = [self.until_end(steps[-1], row) for steps, row, _ in places]
            bounds = self.bounds([ids for ids, _ in texts], [given for _, given in texts], draws)
            best = min(range(n), key=lambda i: bounds[i].nats_per_token)
            steps, row, some = places[best]
            known = {
                "prompt": prompt,
                "best_of": n,
                "bound": asdict(bounds[best]),
                "candidates": [round(bound.nats_per_token, 4) for bound in bounds],
            }
            self.publish(iter(steps), [known] * len(some), list(some), row)
            chosen = f"the best of {n}, with " if n > 1 else ""
            say(
                f"sample {samples[best]}: {chosen}a likelihood bound of "
                f"{bounds[best].nats_per_token:.3f} nats per token"
            )

    def infill(self, template: Template) -> None:
        """Fill the holes of a template; of several lengths, keep the best."""
        from diffusion.canvas import encode
        from diffusion.editing.canvases import check_room, hole_spans, infill_canvas

        layouts = list(itertools.product(*template.holes))
        if mark := next(filter(None, map(LIKE_A_HOLE.search, template.texts)), None):
            say(f"note: {printable(mark[0])} is plain text; <mask:1> is a hole of one token")

        def canvas(layouts):
            return infill_canvas(self.tokenizer, template, layouts, self.vocab_size)

        given = sum(len(encode(self.tokenizer, text)) for text in template.given())
        tokens = sum(hole[-1] for hole in template.holes)  # before a canvas is made: it may be huge
        what = f"the text with {tokens} tokens in its holes"
        check_room(what, 1 + given + tokens, *self.room)

        def known(lengths, **more) -> Callable:
            def record(step, row: int, written: dict) -> dict:
                spans = hole_spans(self.tokenizer, template, lengths)
                holes = [self.decode(written["ids"][a:b]) for a, b in spans]
                starts = itertools.accumulate(
                    len(text)
                    for pair in zip(template.given(), holes, strict=False)
                    for text in pair
                )
                places = [
                    {"start": end - len(hole), "end": end, "text": hole, "tokens": n}
                    for hole, n, end in zip(holes, lengths, list(starts)[1::2], strict=True)
                ]
                return {"infill": self.shown(template), **more, **written, "holes": places}

            return record

        samples = range(self.script.num_samples)
        if len(layouts) == 1:
            for some in self.chunks(samples):
                steps = self.write(canvas(layouts * len(some)), some)
                self.publish(steps, [known(layouts[0])] * len(some), some)
            return
        for sample in samples:
            places = self.candidates(
                layouts,
                lambda part, s=sample: self.write(canvas(part), [s] * len(part)),
            )
            scores = [
                score
                for steps, row, _ in places
                if row == 0
                for score in self.pseudo_likelihood(steps[-1])
            ]
            best = max(range(len(scores)), key=scores.__getitem__)
            steps, row, part = places[best]
            tried = [
                {"lengths": list(lengths), "pseudo_likelihood": round(score, 4)}
                for lengths, score in zip(layouts, scores, strict=True)
            ]
            more = {"pseudo_likelihood": scores[best], "candidates": tried}
            records = [known(lengths, **more) for lengths in part]
            self.publish(iter(steps), records, [sample] * len(part), row)
            lengths = " and ".join(map(str, layouts[best]))
            say(
                f"{lengths} tokens: the best of {len(layouts)}, with a pseudo-likelihood of "
                f"{scores[best]:.3f} nats per token"
            )

    def rewrite(self, text: str, strength: float, keep: list[str]) -> None:
        """Mask a part of a text and write it anew; tell what changed."""
        from diffusion.canvas import prompt_ids
        from diffusion.editing.canvases import check_room, rewrite_canvas
        from diffusion.generate import row_keys

        (ids,) = prompt_ids(self.tokenizer, [text], sys.maxsize)
        check_room("the text to rewrite", len(ids), *self.room)

        def record(step, row: int, written: dict) -> dict:
            edits = [
                {
                    **asdict(change),
                    "old": text[change.start : change.end],
                    "new": written["text"][change.new_start : change.new_end],
                }
                for change in changes(text, written["text"])
            ]
            masked = int((~step.frozen[row]).sum())
            own = {"rewrite": text, "strength": strength, "keep": keep, "masked": masked}
            return {**own, **written, "changes": edits}

        def told(step, row: int, written: dict) -> dict:
            if not (self.script.json or self.script.output):
                shown.append(written["text"])
            return record(step, row, written)

        for some in self.chunks(range(self.script.num_samples)):
            keys = row_keys(self.generation, some, self.writer.device)
            canvas = rewrite_canvas(self.tokenizer, text, strength, keys, keep, self.vocab_size)
            shown: list[str] = []
            self.publish(self.write(canvas, some), [told] * len(some), some)
            for new in shown:
                marked = marked_changes(text, new, colour_enabled(sys.stderr))
                say("nothing changed" if new == text else marked)

    def interpolate(self, first: str, last: str, points: int) -> None:
        """Texts on the way from one text to another."""
        from diffusion.canvas import prompt_ids
        from diffusion.editing.canvases import check_room, interpolation_canvas
        from diffusion.generate import row_keys

        for text, ids in zip(
            (first, last), prompt_ids(self.tokenizer, [first, last], sys.maxsize), strict=True
        ):
            check_room(f"the text {short(text)!r}", len(ids), *self.room)
        jobs = [
            (sample, point) for sample in range(self.script.num_samples) for point in range(points)
        ]
        # Somebody who looks on sees each text come.
        for some in self.chunks(jobs, 1 if is_live(self.script) else None):
            samples = [sample for sample, _ in some]
            weights = [point / (points - 1) for _, point in some]
            keys = row_keys(self.generation, samples, self.writer.device)
            canvas = interpolation_canvas(
                self.tokenizer, (first, last), weights, keys, self.vocab_size
            )
            known = [
                {"interpolate": [first, last], "point": point, "weight": weight}
                for (_, point), weight in zip(some, weights, strict=True)
            ]
            self.publish(self.write(canvas, samples), known, samples)

    def score(self, lines: list[tuple[int, str]], draws: int, rank: bool) -> None:
        """Bound the likelihood of each line."""
        from diffusion.canvas import prompt_ids
        from diffusion.editing.canvases import check_room

        texts = [text for _, text in lines]
        ids = prompt_ids(self.tokenizer, texts, sys.maxsize)
        for (number, text), tokens in zip(lines, ids, strict=True):
            check_room(f"line {number} ({short(text)!r})", len(tokens), *self.room)
        bounds = self.bounds(ids, [1] * len(ids), draws, list(map(len, map(str.encode, texts))))
        order = range(len(lines))
        if rank:
            order = sorted(order, key=lambda i: bounds[i].nats_per_token)
        if not self.script.json:
            head = f"{'line':>5} {'nats':>9} {'±':>7} {'per token':>9} {'per byte':>9} {'tokens':>6}  text"
            self.output.write({}, shown=False, line=head)
        for place, i in enumerate(order, 1):
            (number, text), bound = lines[i], bounds[i]
            record = {
                "line": number,
                **({"rank": place} if rank else {}),
                "text": text,
                **asdict(bound),
                "draws": draws,
                "seed": self.generation.seed,
                "model": self.writer.name,
            }
            error = "-" if bound.standard_error is None else f"{bound.standard_error:.2f}"
            line = (
                f"{number:5} {bound.nats:9.2f} {error:>7} "
                f"{bound.nats_per_token:9.3f} {bound.nats_per_byte:9.3f} {bound.tokens:6}  "
                + printable(text)
            )
            self.output.write(record, shown=False, line=None if self.script.json else line)

    # ------------------------------------------------------------ what the modes share

    def write(self, canvas, samples):
        return self.writer.write(canvas, self.generation, samples, may_end=False)

    def candidates(self, jobs, begin: Callable) -> list[tuple]:
        """Write texts of which one will be shown.

        Args:
            begin: starts the generation of a batch of jobs, a stream of steps.

        Returns:
            (steps, row, batch of jobs) of each job. The steps are all of them if the chosen one
            will be shown on its way, else the last alone.
        """
        watched = is_live(self.script) or self.script.save_animation or self.script.show
        places = []
        for part in self.chunks(jobs):
            steps = deque(begin(part), maxlen=None if watched else 1)
            places += [(steps, row, part) for row in range(len(part))]
            progress(len(places), len(jobs), "candidate")
        return places

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def shown(self, template: Template) -> str:
        """The template as it was typed."""
        sizes = [
            f"{hole[0]}" if len(hole) == 1 else f"{hole[0]}-{hole[-1]}" for hole in template.holes
        ]
        marks = [f"<mask:{size}>" for size in sizes]
        return template.texts[0] + "".join(
            mark + text for mark, text in zip(marks, template.texts[1:], strict=True)
        )

    def until_end(self, step, row: int) -> tuple[list[int], int]:
        """(the ids of a text up to its written end, how many of them were given)."""
        from diffusion.canvas import written_ids

        ids = written_ids(step, row)
        given = int((step.frozen[row] & ~step.padding[row]).sum())
        end = self.tokenizer.eos_token_id
        return (ids[: ids.index(end, given) + 1] if end in ids[given:] else ids), given

    def pseudo_likelihood(self, step) -> list[float]:
        """Of the written tokens of each row of a step."""
        from diffusion.canvas import Canvas
        from diffusion.likelihood import pseudo_likelihood

        return pseudo_likelihood(
            self.writer.denoiser.row_logits,
            Canvas(step.ids, step.frozen, step.padding),
            ~step.frozen,
            self.writer.denoiser.mask_id,
            self.script.batch_size,
        ).tolist()

    def bounds(
        self, rows: list[list[int]], given: list[int], draws: int, sizes: list[int] | None = None
    ) -> list:
        """The `scoring.TextBound` of each text, of what follows its first ``given`` tokens.

        Args:
            sizes: bytes of each text; None counts those that its tokens spell.
        """
        import torch

        from diffusion.editing.canvases import canvas_of
        from diffusion.likelihood import TextBound, text_bounds

        canvas = canvas_of(self.tokenizer, [torch.tensor(ids) for ids in rows])
        canvas = canvas.to(self.writer.device)
        start = torch.tensor(given, device=self.writer.device)[:, None]
        after = torch.arange(canvas.ids.shape[1], device=self.writer.device) >= start
        values = text_bounds(
            self.writer.denoiser.row_logits,
            canvas,
            after & ~canvas.padding,
            self.writer.denoiser.mask_id,
            draws=draws,
            batch_size=self.script.batch_size,
            seed=self.generation.seed,
            on_batch=lambda done, total: progress(done, total, "scoring pass"),
        )
        if sizes is None:
            sizes = [len(self.decode(ids[n:]).encode()) for ids, n in zip(rows, given, strict=True)]
        counts = [len(ids) - n for ids, n in zip(rows, given, strict=True)]
        return [TextBound.of(v, n, s) for v, n, s in zip(values, counts, sizes, strict=True)]
