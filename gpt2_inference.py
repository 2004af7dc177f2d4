"""Write text with GPT-2, one token after the other: the baseline to compare diffusion with.

The flags and outputs are those of inference.py, except for those that steer diffusion.

python gpt2_inference.py                              # prompts in a loop
python gpt2_inference.py "The city was founded in"    # once
python gpt2_inference.py "The river" --model gpt2     # GPT-2 itself, from the hub
python gpt2_inference.py "The river" --save_animation river.gif
"""

from dataclasses import dataclass, field
from functools import partial

from diffusion.cli.access import Access
from diffusion.cli.flags import parse_flags
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import PROMPT_HELP, QUESTION, ask, given_prompts
from diffusion.errors import run
from diffusion.options import SamplingOptions


@dataclass
class ScriptOptions(WritingOptions):
    model: str = field(
        default="gpt2-small-wikitext",
        metadata={"help": "Folder, name in weights/, or hub name such as gpt2."},
    )


def main() -> None:
    generation, script, access, prompt = parse_flags(
        (SamplingOptions, ScriptOptions, Access), __doc__, PROMPT_HELP
    )
    generation.check()
    script.check_flags(prompt)
    prompts = given_prompts(prompt, script.unconditional, script.skip_bad)

    # torch and transformers take seconds to import; --help and mistakes need neither.
    from diffusion.autoregressive import load_causal_writer
    from diffusion.hardware import memory_told
    from diffusion.job import Job

    job = Job.load(
        partial(load_causal_writer, access=access), generation, script, asks=prompts is None
    )
    writer = job.writer

    def write(prompts: list[str]) -> None:
        for texts, samples in job.batches(prompts):
            generate = writer.generate if job.live else writer.record
            steps = generate(texts, generation, samples)
            job.show(steps, [{"prompt": text} for text in texts], samples)

    with job.output, memory_told(job.used):
        if prompts is None:
            ask(lambda prompt: write([prompt]), QUESTION.format(generation.prefix_len))
        else:
            write(prompts)


if __name__ == "__main__":
    run(main)
