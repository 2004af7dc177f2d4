"""The validation of a model in training: bounds by layout, and the numbers to log."""

import math

import torch

from diffusion import likelihood
from diffusion.collator import MixCollator, editable_positions
from diffusion.data.packing import ANSWER, PADDING
from diffusion.models.backbone import Backbone

_SIZES = (2, 4, 8, 16, 64)  # of blocks
_IN_ORDER = 16  # blocks that are read from left to right on the full canvas, at the end


def bounds(trainer) -> dict[str, likelihood.Bound]:
    """By layout the bound (or exact NLL, when causal) of the validation blocks under the weights
    that inference would use. First that of the objective; others where several are trained."""
    model = trainer.inference_model
    was_training = model.training
    backbone = trainer.reader(Backbone(model.eval()))
    args, collator = trainer.args, trainer.batches
    blocks = trainer.eval_dataset.blocks.long().to(args.device)
    token_bytes, draws = trainer.token_bytes, trainer.eval_draws
    spread = {
        "batch_size": args.per_device_eval_batch_size,
        "shard": (args.process_index, args.world_size),
        "gather": trainer.accelerator.gather,
    }
    found = {}
    with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
        if trainer.causal:
            editable = torch.ones_like(blocks, dtype=torch.bool)
            editable[:, 0] = False
            found["causal"] = likelihood.causal_nll(
                backbone, blocks, editable, token_bytes, **spread
            )
        else:
            editable = editable_positions(blocks, collator.prefix_len, collator.fixed_ids)
            kinds = trainer.eval_dataset.kinds
            if kinds is not None:  # written on a canvas of the length of a block
                kinds = kinds.to(args.device)
                editable = kinds == ANSWER
                blocks = collator.noise.corrupt(blocks, kinds == PADDING)
            found["full"] = likelihood.likelihood_bound(
                backbone, blocks, editable, collator.noise, token_bytes, draws=draws, **spread
            )
        if isinstance(collator, MixCollator):
            longest = blocks.shape[1] - collator.prefix_len
            for name in ("causal", *(f"block{size}" for size in _SIZES if size < longest)):
                weight = float(name == "causal")
                collate = collator.stream(name, weight, 0, len(blocks) * draws)
                found[name] = likelihood.stream_bound(
                    backbone,
                    blocks,
                    collate,
                    trainer.slots(name),
                    token_bytes,
                    draws=draws,
                    **spread,
                )
            if trainer.ended:  # a pass for each token: once
                keep = torch.linspace(0, len(blocks) - 1, min(len(blocks), _IN_ORDER)).long()
                found["ordered"] = likelihood.ordered_nll(
                    backbone, blocks[keep], editable[keep], collator.noise, token_bytes,
                    **spread,
                )  # fmt: skip
    model.train(was_training)
    return found


def metrics(found: dict[str, likelihood.Bound]) -> dict[str, float]:
    """The numbers to log of what `bounds` has found."""
    bound = next(iter(found.values()))
    numbers = {
        "loss": bound.nats_per_token,
        "nats_per_token": bound.nats_per_token,
        "standard_error": bound.standard_error,
        "perplexity": likelihood.perplexity(bound.nats_per_token),
        "nats_per_byte": bound.nats_per_byte,
    }
    for i, value in enumerate(bound.by_mask_rate):
        if not math.isnan(value):
            numbers[f"nats_at_{20 * i}_{20 * i + 20}"] = value
    for name, other in found.items() if len(found) > 1 else ():
        per_byte = other.nats_per_byte / other.nats_per_token
        numbers[f"{name}_nats_per_token"] = other.nats_per_token
        numbers[f"{name}_standard_error"] = other.standard_error
        numbers[f"{name}_nats_per_byte"] = other.nats_per_byte
        numbers[f"{name}_standard_error_per_byte"] = other.standard_error * per_byte
    return numbers
