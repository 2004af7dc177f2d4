"""Prompts in, texts out: what inference.py and gpt2_inference.py share.

A writer (see `generation.Writer` and `autoregressive.CausalWriter`) turns prompts into a stream of
Steps; here that stream becomes a live view, lines of text or JSON, a file, or an animation. Nothing
heavy is imported before a model is loaded: `--help` and mistakes are answered at once.
"""

import sys
import time
from collections.abc import Callable

from diffusion.cli.console import prepare_streams, say
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import check, interactive, piped_prompts
from diffusion.cli.show import Output, write_texts
from diffusion.errors import UserError
from diffusion.options import GenerationOptions


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

    from diffusion import hardware

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
