"""Write text with a masked language model: start from a prompt and masks, reveal them step by step.

python inference.py                                   # prompts in a loop
python inference.py "The city was founded in"         # once
cat prompts.txt | python inference.py --json          # one prompt a line
python inference.py --unconditional --num_samples 3
python inference.py "The river" --sampler confidence --n_steps 32 --save_animation river.gif
python inference.py --infill "The <mask:6> sat on the <mask:2-5> and slept."
python inference.py --rewrite "The river runs through the old town." --keep "old town"
python inference.py --interpolate "The river runs." "She opened the window." --points 5
echo "The river runs." > lines.txt
python inference.py --score lines.txt --rank
python inference.py --chat --model a-model-that-chats # questions in a loop
"""

from dataclasses import dataclass, field
from functools import partial

from diffusion.cli.access import Access
from diffusion.cli.flags import parse_flags
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import PROMPT_HELP, given_prompts
from diffusion.editing.options import EditingOptions
from diffusion.editing.session import Session, note_marks
from diffusion.errors import UserError, run
from diffusion.options import GenerationOptions, sampler_table
from diffusion.samplers.spec import GONE


@dataclass
class InferenceOptions(WritingOptions):
    list_samplers: bool = field(default=False, metadata={"help": "List the samplers, and end."})


def main() -> None:
    generation, script, editing, access, prompt = parse_flags(
        (GenerationOptions, InferenceOptions, EditingOptions, Access),
        __doc__,
        PROMPT_HELP,
        GONE,
    )
    editing.check_flags(generation, script.list_samplers)
    if script.list_samplers:
        print(sampler_table(generation))
        return
    generation.check()
    if script.unconditional and generation.guidance:
        raise UserError(
            f"--guidance {generation.guidance} pushes towards the given text, and --unconditional "
            "gives none; leave one of them out"
        )
    source = editing.read(generation, script, prompt)  # what a mode of editing works on
    script.check_flags(prompt, source is not None)
    prompts = (
        [] if source is not None else given_prompts(prompt, script.unconditional, script.skip_bad)
    )

    # torch and transformers take seconds to import; --help and mistakes need neither.
    from diffusion.canvas import prompt_canvas
    from diffusion.editing.chat import Chat
    from diffusion.editing.modes import MODES
    from diffusion.generate import load_writer
    from diffusion.hardware import memory_told
    from diffusion.job import Job

    job = Job.load(partial(load_writer, access=access), generation, script, asks=prompts is None)
    writer = job.writer

    def write(prompts: list[str], first_sample: int = 0) -> None:
        """Continue prompts: masks behind each, which the loop turns into text."""
        for texts, samples in job.batches(prompts, first_sample):
            options = job.generation
            canvas = prompt_canvas(writer.tokenizer, texts, options.max_len, options.length)
            steps = writer.denoise(canvas, options, samples, may_end=options.length is None)
            job.show(steps, [{"prompt": text} for text in texts], samples)

    with job.output, memory_told(job.used):
        if editing.chat:
            Chat(job, editing).run(prompts)
        elif prompts is None:
            Session(job, editing, MODES, write).run()
        elif editing.mode:
            note_marks(prompts, commands=True)
            MODES[editing.mode](job, editing, prompts if source is None else source)
        else:
            note_marks(prompts, commands=True)
            write(prompts)


if __name__ == "__main__":
    run(main)
