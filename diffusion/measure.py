"""Seconds of several ways of writing, side by side in one run."""

import dataclasses
import gc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from diffusion import hardware
from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import Step, prompt_ids, written_ids
from diffusion.cli.console import progress, say
from diffusion.cli.options import Access
from diffusion.generate import load_writer
from diffusion.options import GenerationOptions
from diffusion.views import record
from diffusion.views.frames import Framer

# A comparison is about many tokens a pass: for a model without blocks, the reference loop.
COMPARED_SAMPLER = "random-remask"


def measure(
    jobs: Sequence[tuple], prompt: str, repeats: int, keep: Callable[[Iterable[Step]], object]
) -> list[list]:
    """What ``keep`` makes of the Steps of every run, [job][repeat].

    Each job (writer, options) runs alone; nothing is decoded, drawn or printed meanwhile; the order
    alternates. One run of each comes before, to warm up, and is left out.
    """
    runs: list[list] = [[] for _ in jobs]
    forth = list(range(len(jobs)))
    order = [i for repeat in range(repeats + 1) for i in (forth if repeat % 2 else forth[::-1])]
    for done, i in enumerate(order, start=1):
        writer, options = jobs[i]
        gc.collect()
        with hardware.memory_told(lambda: "one text; try a smaller --length, or a smaller model"):
            runs[i].append(keep(writer.generate([prompt], options, [0])))
        progress(done, len(order), "run")
    return [kept[1:] for kept in runs]


# ---------------------------------------------------------------- two models after one prompt


def load_pair(model: str, baseline: str, device: str, dtype: str, access: Access) -> list:
    """[the diffusion writer, the autoregressive one], both in one number format."""
    say(f"RoBERTa Diffusion: loading {model} and {baseline} ...")
    for form in (dtype, "float32"):  # `auto` goes by the size of a model
        writers = [
            load_writer(model, None, device, form, access),
            load_causal_writer(baseline, None, device, form, access),
        ]
        if writers[0].dtype == writers[1].dtype:
            break
    return writers


def options_for(writers: list, generation: GenerationOptions, prompt: str) -> list:
    """The options of each writer: the same number of new tokens, for which both have room."""
    generation = generation.fitted(min(writer.positions for writer in writers))
    length = generation.length
    if length is None:
        given = [prompt_ids(w.tokenizer, [prompt], generation.max_len)[0] for w in writers]
        length = generation.max_len - max(map(len, given))
    diffusion, model = dataclasses.replace(generation, length=length), writers[0]
    # A model for random tokens, or for blocks, writes many at once by its own default, which for blocks
    # takes no number of steps.
    by_default = model.noise.has_random_tokens or (model.blocks and generation.n_steps is None)
    if generation.sampler is None and not by_default:
        diffusion.sampler = COMPARED_SAMPLER  # the reference loop, on the full canvas
        diffusion.attention = generation.attention.replace("auto", "full")
    ours = model.resolve(diffusion)
    options = [ours, ours.shared()]  # one temperature for both, also where the model has its own
    for writer, own in zip(writers, options, strict=True):
        writer.check(own)
        prompt_ids(writer.tokenizer, [prompt], own.max_len, own.length)
    return options


def median_run(runs: list) -> list:
    """The run with the median time: one that took place, so that its times belong together."""
    return sorted(runs, key=lambda steps: steps[-1].seconds)[(len(runs) - 1) // 2]


def measured(writers: list, generation: GenerationOptions, repeats: int, prompt: str) -> dict:
    """The record of one comparison, see `record`."""
    options = options_for(writers, generation, prompt)
    runs = measure(list(zip(writers, options, strict=True)), prompt, repeats, keep=list)
    same = writers[0].tokenizer.get_vocab() == writers[1].tokenizer.get_vocab()
    sides = []
    for writer, own, all_runs in zip(writers, options, runs, strict=True):
        steps, framer = median_run(all_runs), Framer(writer.tokenizer)
        frames = [framer.frame(step) for step in steps]
        sides.append(
            {
                "model": Path(writer.name).name,
                "method": writer.method(own),
                "dtype": str(writer.dtype).removeprefix("torch."),
                "text": frames[-1].text,
                "ids": written_ids(steps[-1], 0),
                "nfe": int(steps[-1].nfe[0]),
                "seconds": [steps[-1].seconds for steps in all_runs],
                "frames": frames,
            }
        )
    given = dataclasses.asdict(options[0]).items()
    return {
        "format": record.FORMAT,
        "version": record.VERSION,
        "prompt": prompt,
        "options": {name: value for name, value in given if value is not None},
        # Tokens of two tokenizers are not of one length, characters are.
        "unit": "token" if same else "character",
        "sides": sides,
        **hardware.record(writers[0].device, writers[0].dtype),
    }
