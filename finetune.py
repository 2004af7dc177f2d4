"""Train a masked language model as a denoiser.

    python finetune.py                                  # roberta-base on WikiText-2, from the hub
    python finetune.py --model DIR --dataset FILE.txt --output_dir weights/mine
    python finetune.py --resume_from_checkpoint last    # continue a run that was stopped
    python finetune.py recipe.toml --max_steps 100      # flags from a file
    accelerate launch finetune.py ...                   # several GPUs

Without a pretrained encoder, begin with a causal warm start: --objective causal --config SIZE.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from diffusion.cli.console import outlive_readers, say
from diffusion.cli.files import locked, write_text
from diffusion.errors import run as run_script
from diffusion.training.arguments import answer_help, read_recipe


def main() -> None:
    answer_help(__doc__)
    read_recipe()  # quick: what follows takes seconds to import
    outlive_readers()
    import transformers

    from diffusion import hardware
    from diffusion.models.hub import quiet_libraries
    from diffusion.training import build, card
    from diffusion.training.checks import check, check_output_dir, parse
    from diffusion.training.trainer import DiffusionTrainer, StopOnSignal

    quiet_libraries()
    run = parse(__doc__)
    check(run)
    args = run.args
    hardware.use_all_cores()
    hardware.keep_memory()
    transformers.set_seed(args.seed)
    if args.evaluate_only:
        args.output_dir = tempfile.mkdtemp()  # the Trainer wants one
        atexit.register(shutil.rmtree, args.output_dir, ignore_errors=True)

    # 1. Read the text, 2. build the model and its tokenizer, 3. pack the text into blocks.
    text, eval_text = build.read(run)
    model, tokenizer = build.build_model(run, text)
    blocks, eval_blocks = build.pack(run, text, eval_text, tokenizer)
    if run.size or hasattr(model, "new_head"):
        build.set_output_bias(model, blocks.blocks)
    say(build.describe(run, model, blocks, eval_blocks))

    # 4. A collator adds noise to batches of blocks, and the Trainer weighs the losses as it says.
    trainer = DiffusionTrainer(run, model, tokenizer, blocks, eval_blocks)
    two_pass = trainer.soft is not None
    if args.evaluate_only:
        say(f"{run.model.model}: {card.summary(trainer.evaluate(), two_pass)}")
        if run.data.eval_blocks_file and args.should_save:
            found = {name: bound.by_block for name, bound in trainer.bounds.items()}
            write_text(Path(run.data.eval_blocks_file), json.dumps(found) + "\n")
        return

    # 5. Train; a signal ends the training after its step. 6. Evaluate and save.
    stop, started = StopOnSignal(), time.monotonic()
    trainer.add_callback(stop)
    with locked(Path(args.output_dir)) if args.should_save else nullcontext():
        if args.should_save:
            check_output_dir(args)  # another run may have finished there in the meantime
        if args.resume_from_checkpoint is None:
            trainer.discard_checkpoints()  # there are some only after --overwrite_output_dir
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        if not stop.stopped:
            metrics = trainer.evaluate()
            card.save(run, trainer, tokenizer, metrics, time.monotonic() - started)
    trainer.end_processes()
    if stop.stopped:
        say(
            f"stopped at step {trainer.state.global_step}; resume with the same command and "
            "--resume_from_checkpoint last"
        )
        sys.exit(130)
    say(f"saved {args.output_dir}: {card.summary(metrics, two_pass)}")
    if args.published and args.should_save:
        say(f"uploaded to {card.publish(Path(args.output_dir), args)}")


if __name__ == "__main__":
    run_script(main)
