"""Prompts in, texts out: what inference.py and gpt2_inference.py share.

A writer (see `generation.Writer` and `autoregressive.CausalWriter`) turns prompts into a stream of
Steps; here that stream becomes a live view, lines of text or JSON, a file, or an animation. Nothing
heavy is imported before a model is loaded: `--help` and mistakes are answered at once.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .animation import check_animation_path, check_display, save_film, show_film
from .errors import UserError
from .film import film_of
from .frames import Framer
from .options import GenerationOptions, at_least
from .terminal import LiveView, supports_live


@dataclass
class WritingOptions:
    """What to write from and to; a script names its own default model."""

    model: str = field(
        default="roberta-small-wikitext",
        metadata={"help": "Folder, name in weights/, or hub name such as roberta-base."},
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Default: the model's."})
    num_samples: int = field(default=1, metadata={"help": "Texts for each prompt."})
    batch_size: int = field(
        default=8, metadata={"help": "Texts written at once; in float32 it does not change them."}
    )
    unconditional: bool = field(default=False, metadata={"help": "Write from nothing."})
    device: str = field(default="auto", metadata={"help": "auto: CUDA, then MPS, then CPU."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "float32, bfloat16, float16, or auto: bfloat16 for large models where "
            "the device has it, else float32."
        },
    )
    output: str | None = field(
        default=None, metadata={"help": "Write the texts to this file instead."}
    )
    json: bool = field(
        default=False, metadata={"help": "One JSON object a text: prompt, text, ids, NFE, ..."}
    )
    save_animation: str | None = field(
        default=None,
        metadata={"help": "Save the generation of one text as .gif, .mp4, .html or .png."},
    )
    show: bool = field(default=False, metadata={"help": "Play the animation in a window."})
    live: bool = field(
        default=True, metadata={"help": "Show the canvas while it fills (in a terminal)."}
    )


def serve(
    load: Callable,
    generation: GenerationOptions,
    script: WritingOptions,
    prompt: str | None,
    editor=None,
) -> None:
    """Load the model, and write for the prompt, for a pipe of prompts, or in a loop.

    Args:
        load: imports what it needs, then (model, tokenizer, device, dtype) -> writer.
        generation: checked already.
        editor: an `edit_modes.Editor` for scripts that can edit. It does what its flags ask for,
            and all that follows once the model is loaded.
    """
    edits = editor is not None and editor.check(generation, script, prompt)
    check(script, prompt, edits)
    asks = prompt is None and not script.unconditional and not edits and sys.stdin.isatty()
    if edits:
        prompts = []
    elif prompt is not None:
        prompts = [prompt]
    elif script.unconditional:
        prompts = [""]
    else:
        prompts = [] if asks else piped_prompts()

    prepare_streams()
    say(f"RoBERTa Diffusion: loading {script.model} ...")
    started = time.monotonic()
    writer = load(script.model, script.tokenizer, script.device, script.dtype)
    writer.check(generation)

    import torch

    from . import hardware

    say(
        f"ready in {time.monotonic() - started:.1f} s on "
        f"{hardware.describe(writer.device, writer.dtype)}; "
        f"{writer.method(generation)}, seed {generation.seed}"
    )
    if not writer.trained:
        say(
            f"note: {script.model} was never trained as a denoiser; expect repeated, broken text "
            f"until you train it: python finetune.py --model {script.model}"
        )
    output = Output(script)
    try:
        if editor is not None:
            editor.serve(writer, None if asks else prompts, generation, script, output)
        elif asks:
            interactive(writer, generation, script, output)
        else:
            write_texts(writer, prompts, generation, script, output)
    except torch.OutOfMemoryError:
        raise UserError(
            f"the device ran out of memory with --batch_size {script.batch_size} and --max_len "
            f"{generation.max_len}; use less of either"
        ) from None


def prepare_streams() -> None:
    """Any text can be written, and SIGTERM leaves the terminal in order."""
    # A text may hold any character, whatever the locale of the pipe.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(
            **({"errors": "replace"} if sys.stdout.isatty() else {"encoding": "utf-8"})
        )
    # An exception, not sudden death: the live view puts the terminal back in order.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))


def check(script: WritingOptions, prompt: str | None, edits: bool = False) -> None:
    """Everything that can be refused before a model is loaded; ``edits``: the text to work on is
    given by a flag."""
    at_least("--num_samples", script.num_samples, 1)
    at_least("--batch_size", script.batch_size, 1)
    if prompt is not None:
        if script.unconditional:
            raise UserError(
                "--unconditional writes from nothing; leave out the prompt, or the flag"
            )
        check_prompt(prompt)
    if script.save_animation is not None:
        check_animation_path(script.save_animation)
    if script.show:
        check_display()
    one_text = (prompt is not None or script.unconditional or edits) and script.num_samples == 1
    if (script.save_animation or script.show) and not one_text:
        flag = "--save_animation" if script.save_animation else "--show"
        if edits:
            raise UserError(
                f"{flag} animates one text, and --num_samples {script.num_samples} writes several; "
                "leave out one of the two"
            )
        raise UserError(
            f"{flag} animates one text; give one prompt (or --unconditional) and one sample"
        )
    if script.output is not None:
        folder = Path(script.output).absolute().parent
        bad = not script.output or Path(script.output).is_dir() or not folder.is_dir()
        if bad or not os.access(folder, os.W_OK):
            raise UserError(f"--output {script.output!r} cannot be written; give a file in a folder "
                            "that can")  # fmt: skip
        # The folder alone would allow it: a file is replaced whole.
        if Path(script.output).exists() and not os.access(script.output, os.W_OK):
            raise UserError(
                f"--output {script.output!r} is read-only; give another file, or make it writable"
            )
        if script.save_animation and same_file(script.output, script.save_animation):
            raise UserError(
                f"--output and --save_animation are both {script.output!r}; give two files"
            )


def same_file(one: str, other: str) -> bool:
    """Whether two names, of which a file may not exist yet, are of one file."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return Path(one).resolve() == Path(other).resolve()


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise UserError("the prompt is empty; give the beginning of a text")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError("the prompt is not UTF-8 text; re-encode it as UTF-8") from None


def piped_prompts() -> list[str]:
    """The non-empty lines of standard input."""
    try:
        lines = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 text (byte {error.start}); re-encode it as UTF-8"
        ) from None
    prompts = [line.removesuffix("\r") for line in lines if line.strip()]
    if not prompts:
        raise UserError("no prompt on standard input; give one a line")
    return prompts


class Output:
    """Where texts go: standard output as they come, or one file, written whole each time."""

    def __init__(self, script: WritingOptions):
        self.json, self.path, self.written = script.json, script.output, []

    def write(self, record: dict, shown: bool, line: str | None = None) -> None:
        """``shown``: the live view has left this text on the terminal already; ``line``: one line
        of a table, to be written in place of the text."""
        text = record["text"] if line is None else line
        text = json.dumps(record, ensure_ascii=False) if self.json else text
        # In a pipe, a blank line ends a text that may have several lines.
        separator = "\n" if self.json or line is not None else "\n\n"
        if self.path:
            from .checkpoints import write_text

            self.written.append(text)
            write_text(Path(self.path), separator.join(self.written) + "\n")
        elif not shown:
            print(text, end=separator, flush=True)


def write_texts(writer, prompts: list[str], generation, script, output: Output) -> None:
    """Generate ``num_samples`` texts for each prompt, in batches."""
    from .canvas import prompt_ids

    # A prompt that is too long is refused before the first text is written, not in the middle.
    prompt_ids(writer.tokenizer, prompts, generation.max_len, generation.length)
    jobs = [(p, s) for p in prompts for s in range(script.num_samples)]
    framer = Framer(writer.tokenizer)
    for start in range(0, len(jobs), script.batch_size):
        batch = jobs[start : start + script.batch_size]
        texts, samples = zip(*batch, strict=True)
        write = writer.generate if is_live(script) else writer.record
        step, frames, shown = watch(write(texts, generation, samples), writer, script, framer)
        for row, (prompt, sample) in enumerate(batch):
            record = {"prompt": prompt, **facts(writer, generation, step, row, sample)}
            output.write(record, shown=shown and row == 0)
        if frames:
            animation(frames, writer, generation, script)


def is_live(script) -> bool:
    """Whether the terminal shows a text while it is written; a file or a JSON line is for machines."""
    return script.live and supports_live(sys.stdout) and not (script.json or script.output)


def watch(steps, writer, script, framer: Framer, row: int = 0) -> tuple:
    """Run a generation to its end and show one row of it.

    Returns:
        (the last step, the frames of the row if an animation is wanted, whether the terminal
        shows its text).
    """
    live = is_live(script)
    animate = bool(script.save_animation or script.show)
    frames = []
    with LiveView(sys.stdout, status=writer.status) as view:
        for step in steps:
            if step.index == 0:
                view.hold = frame_time(step)
            if live or animate:
                frame = framer.frame(step, row)
                if live:
                    view.show(frame)
                if animate:
                    frames.append(frame)
    return step, frames, live


def facts(writer, generation, step, row: int, sample: int) -> dict:
    """What is known of one text that was written: its JSON but for what was asked."""
    from .canvas import written_ids, written_text

    return {
        "text": written_text(writer.tokenizer, step, row),
        "ids": written_ids(step, row),
        "sample": sample,
        **{k: v for k, v in asdict(generation).items() if v is not None},
        "steps": step.index,
        "nfe": int(step.nfe[row]),
        "seconds": round(step.seconds, 6),
        "batch": len(step.ids),
        "model": writer.name,
        "device": str(writer.device),
        "dtype": str(writer.dtype).removeprefix("torch."),
    }


def frame_time(first) -> float:
    """Least seconds between two live frames, so that a fast model can be watched: some five
    seconds for the whole text. Not part of any measured time."""
    steps = first.total or int(first.masked.sum(1).max())
    return 5.0 / max(20, steps)


def animation(frames, writer, generation, script) -> None:
    title = f"{script.model}: {writer.method(generation)}, {frames[-1].nfe} forward passes"
    film = film_of(frames, title, status=writer.status)
    if script.save_animation:
        save_film(film, script.save_animation, on_progress=progress)
        say(f"saved {script.save_animation}")
    if script.show:
        show_film(film)


def progress(done: int, total: int, what: str = "drawing frame") -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)


PROMPT_HELP = "Beginning of the text. Without one it is asked for, or read from a pipe."
QUESTION = "\nBeginning of a text (some {} tokens, or more; empty line: quit) > "


def interactive(writer, generation, script, output: Output) -> None:
    """Ask for beginnings, and write."""
    ask(lambda p: write_texts(writer, [p], generation, script, output), generation.prefix_len)


def ask(answer: Callable[[str], None], prefix_len: int) -> None:
    """Ask for beginnings until an empty line or Ctrl-D, and ``answer`` each."""
    while True:
        try:
            # Not by input(): with a redirected standard output the question would go there.
            print(QUESTION.format(prefix_len), end="", file=sys.stderr, flush=True)
            prompt = input()
        except EOFError:
            say("")
            return
        except UnicodeDecodeError:
            say("that line is not UTF-8 text; try again")
            continue
        if not prompt.strip():
            return
        try:
            check_prompt(prompt)
            answer(prompt)
        except UserError as error:  # a prompt that is too long ends nothing
            say(str(error))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
