"""Train a masked language model as a denoiser (or a causal warm start of one).

The reference recipe is the default: roberta-base, WikiText-2, 30 epochs, batch 16, blocks of 256
tokens whose first 16 are never masked.

    python finetune.py                                            # on a GPU box, from the hub
    python finetune.py --model DIR --dataset wikitext-2 --dataset_dir data --output_dir weights/mine
    accelerate launch finetune.py ...                             # several GPUs
    python finetune.py --resume_from_checkpoint last ...          # go on where a run was stopped
    python finetune.py recipe.toml --max_steps 100                # flags from a file (or .yaml)

Without a pretrained encoder, a small model from scratch learns far more from a causal warm start:

    python finetune.py --objective causal --config layers=6,width=256,heads=4,vocab=8192 \\
        --output_dir weights/warm
    python finetune.py --model weights/warm --prefix_len 1 --output_dir weights/denoiser

One model for every order, from left to right over blocks to the full canvas:

    python finetune.py --model weights/warm --prefix_len 1 --layouts block4=1,block16=1,full=1 \\
        --output_dir weights/mixed

To answer questions, in the form of the tokenizer's chat template:

    python finetune.py --chat --model DIR --dataset talks.jsonl --output_dir weights/chat
"""

import atexit
import os
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from diffusion.cli.console import outlive_terminal, say
from diffusion.cli.files import locked
from diffusion.errors import run
from diffusion.training.arguments import answer_help
from diffusion.training.recipe import read_recipe


def main() -> None:
    answer_help(__doc__)
    recipe = read_recipe()  # quick: what follows takes seconds to import
    outlive_terminal()
    import transformers

    from diffusion import hardware
    from diffusion.models.hub import quiet_libraries
    from diffusion.training import build, card, hub, text
    from diffusion.training.callbacks import StopOnSignal
    from diffusion.training.checks import check, check_output_dir, parse
    from diffusion.training.trainer import make_trainer

    quiet_libraries()
    options, data, diffusion, args = parse(__doc__, recipe)
    check(options, data, diffusion, args)
    if note := hardware.launch_note("finetune.py --use_cpu"):
        say(note)
    hardware.use_all_cores()
    hardware.keep_memory()
    transformers.set_seed(args.seed)
    if args.evaluate_only:
        args.output_dir = tempfile.mkdtemp()  # the Trainer wants one
        atexit.register(shutil.rmtree, args.output_dir, ignore_errors=True)

    train = not args.evaluate_only
    documents, eval_documents = text.read(data, train)
    model, tokenizer = build.build_model(options, diffusion, data, args, documents)
    blocks, eval_blocks = text.pack_splits(documents, eval_documents, tokenizer, data, train)
    if options.config is not None:
        build.set_output_bias(model, blocks.blocks)
    if args.evaluate_only:
        amount = f"{len(eval_blocks)} blocks of the {data.eval_split} split"
    else:
        amount = f"{blocks.tokens / 1e6:.2f} M training tokens in {len(blocks)} blocks"
    trained = model.num_parameters(only_trainable=True)
    some = f", {trained / 1e6:.2f} M of them trained" if options.lora else ""
    say(
        f"{model.num_parameters() / 1e6:.1f} M parameters{some}; {amount}; "
        f"{hardware.describe(args.device, args.compute_dtype)}"
    )
    trainer = make_trainer(model, tokenizer, blocks, eval_blocks, options, diffusion, args)
    two_pass = trainer.soft is not None
    if args.evaluate_only:
        say(f"{options.model}: {card.summary(trainer.evaluate(), two_pass)}")
        if data.eval_blocks_file:
            card.save_blocks(data.eval_blocks_file, trainer)
        return

    stop = StopOnSignal()
    trainer.add_callback(stop)
    started = time.monotonic()
    with locked(Path(args.output_dir)) if args.should_save else nullcontext():
        if args.should_save:
            check_output_dir(args)  # somebody may have finished there in the meantime
        if args.resume_from_checkpoint is None:
            trainer.discard_checkpoints()  # there are some only after --overwrite_output_dir
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        if not stop.stopped:
            metrics = trainer.evaluate()
            seconds, model = time.monotonic() - started, trainer.finished_model()
            if args.should_save:
                flags = options, data, diffusion, args
                card.save(model, trainer, tokenizer, *flags, metrics, seconds)
    trainer.end_processes()
    if stop.stopped:
        say(
            f"stopped at step {trainer.state.global_step}; go on with the same command and "
            "--resume_from_checkpoint last"
        )
        sys.exit(130)
    say(f"saved {args.output_dir}: {card.summary(metrics, two_pass)}")
    if args.published and args.should_save:
        say(f"uploaded to {hub.publish(Path(args.output_dir), args)}")


if __name__ == "__main__":
    run(main)
