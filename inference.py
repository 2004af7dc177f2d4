"""Write text with a masked language model: start from a prompt and masks, and fill them step by step.

python inference.py                                   # prompts in a loop
python inference.py "The city was founded in"         # once
cat prompts.txt | python inference.py --json          # one prompt a line, or commands of the loop
python inference.py "The river" --sampler confidence --n_steps 32 --save_animation river.gif
python inference.py --infill "The <mask:6> sat on the <mask:2-5> and slept."
python inference.py --rewrite "The river runs through the old town." --keep "old town"
"""

import sys
from dataclasses import dataclass
from functools import partial

from diffusion.cli.console import PROMPT_HELP, given_prompts, is_command
from diffusion.cli.flags import WRITTEN, flag, parse_flags
from diffusion.cli.options import Access, WritingOptions
from diffusion.editing.options import EditingOptions
from diffusion.errors import run
from diffusion.options import GenerationOptions, sampler_table
from diffusion.samplers.spec import GONE


@dataclass
class InferenceOptions(WritingOptions):
    list_samplers: bool = flag(False, "List the samplers and end.", group=WRITTEN)


def main() -> None:
    # 1. Flags, and everything that can be refused without a model.
    script, editing, generation, access, prompt = parse_flags(
        (InferenceOptions, EditingOptions, GenerationOptions, Access), __doc__, PROMPT_HELP, GONE
    )
    asks = prompt is None and sys.stdin.isatty()
    editing.check(script, generation, prompt=prompt, asks=asks)
    generation.check()
    if script.list_samplers:
        print(sampler_table())
        return
    script.check(prompt)
    source = editing.read(script)  # the text that an editing mode works on
    if source is None:
        source = given_prompts(prompt, script.unconditional)
    # A pipe with commands of the loop is answered as if it were typed, line by line.
    piped = prompt is None and editing.mode is None and source is not None
    commands = piped and any(map(is_command, source))

    # 2. The model. torch and transformers take seconds to import, and --help needs neither.
    from diffusion.canvas import prompt_canvas
    from diffusion.editing.modes import MODES
    from diffusion.editing.session import Session
    from diffusion.generate import load_writer
    from diffusion.hardware import memory_told
    from diffusion.job import Job

    job = Job.load(partial(load_writer, access=access), generation, script, asks=source is None)

    # 3. Texts: a prompt and masks become a canvas, the loop fills it, the job shows the steps.
    def write(job: Job, editing: EditingOptions, prompts: list[str], first_sample: int = 0) -> None:
        for texts, samples in job.batches(prompts, first_sample):
            options = job.generation
            canvas = prompt_canvas(job.writer.tokenizer, texts, options.max_len, options.length)
            steps = job.writer.denoise(canvas, options, samples, may_end=options.length is None)
            job.show(steps, [{"prompt": text} for text in texts], samples)

    with job.output, memory_told(job.used):
        if source is None:
            Session(job, editing, write).run()
        elif commands:
            Session(job, editing, write).run(source)
        else:
            MODES.get(editing.mode, write)(job, editing, source)


if __name__ == "__main__":
    run(main)
