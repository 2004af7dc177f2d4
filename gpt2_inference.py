"""Write text with GPT-2, one token after the other: the baseline to compare diffusion with.

python gpt2_inference.py                              # prompts in a loop
python gpt2_inference.py "Once upon a time"           # once
python gpt2_inference.py "The river" --model gpt2     # GPT-2 itself, from the hub
python gpt2_inference.py "The river" --save_animation river.gif
"""

from dataclasses import dataclass
from functools import partial

from diffusion.cli.checks import check_conflicts
from diffusion.cli.console import PROMPT_HELP, TOUCH, ask, given_prompts, is_command, question
from diffusion.cli.flags import MODEL, flag, parse_flags
from diffusion.cli.options import WRITING, Access, WritingOptions
from diffusion.errors import UserError, run
from diffusion.options import SamplingOptions


@dataclass
class ScriptOptions(WritingOptions):
    model: str = flag("gpt2-small-stories", "Folder, name in weights/, or hub name.", group=MODEL)


def refuse_commands(lines: list[str]) -> list[str]:
    """The lines; a `UserError` if one is a command that rewrites words."""
    for line in lines:
        if is_command(line, TOUCH):
            raise UserError(
                f"{line.split()[0]} is a command of inference.py: GPT-2 writes from left to right and "
                "cannot rewrite words inside a text; give the beginning of a text"
            )
    return lines


def main() -> None:
    # 1. Flags, and everything that can be refused without a model.
    script, generation, access, prompt = parse_flags(
        (ScriptOptions, SamplingOptions, Access), __doc__, PROMPT_HELP
    )
    check_conflicts(WRITING, script, generation, prompt=prompt)
    generation.check()
    script.check(prompt)
    prompts = given_prompts(prompt, script.unconditional)
    if prompt is None:
        refuse_commands(prompts or [])

    # 2. The model. torch and transformers take seconds to import, and --help needs neither.
    from diffusion.autoregressive import load_causal_writer
    from diffusion.hardware import memory_told
    from diffusion.job import Job

    job = Job.load(partial(load_causal_writer, access=access), generation, script, prompts is None)

    # 3. Texts: the model writes token by token, the job shows the steps.
    def write(prompts: list[str]) -> None:
        for texts, samples in job.batches(prompts):
            steps = job.writer.generate(texts, generation, samples)
            job.show(steps, [{"prompt": text} for text in texts], samples)

    with job.output, memory_told(job.used):
        if prompts is None:
            ask(lambda line: write(refuse_commands([line])), question(job.writer.example))
        else:
            write(prompts)


if __name__ == "__main__":
    run(main)
