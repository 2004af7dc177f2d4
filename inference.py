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
"""

from dataclasses import dataclass, field

from diffusion.cli.flags import parse_flags
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import PROMPT_HELP
from diffusion.cli.serve import serve
from diffusion.editing.modes import Editor
from diffusion.editing.options import EditingOptions
from diffusion.errors import UserError, run
from diffusion.options import GenerationOptions, sampler_table


@dataclass
class InferenceOptions(WritingOptions):
    list_samplers: bool = field(default=False, metadata={"help": "List the samplers, and end."})


def load(*names):
    # torch and transformers' models take seconds to import; --help and mistakes need neither.
    from diffusion.generate import load_writer

    return load_writer(*names)


def main() -> None:
    generation, script, editing, prompt = parse_flags(
        (GenerationOptions, InferenceOptions, EditingOptions),
        __doc__.split("\n")[0],
        PROMPT_HELP,
    )
    editor = Editor(editing)
    editor.check_flags(generation, script.list_samplers)
    if script.list_samplers:
        print(sampler_table(generation))
        return
    generation.check()
    if script.unconditional and generation.guidance:
        raise UserError(
            f"--guidance {generation.guidance} pushes towards the given text, and --unconditional "
            "gives none; leave one of them out"
        )
    serve(load, generation, script, prompt, editor)


if __name__ == "__main__":
    run(main)
