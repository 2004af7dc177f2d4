"""What a training step costs in each layout, on equal text.

Forward, backward and optimiser of one micro-batch, without clipping, in turns: one step of every layout,
then the next round. Beside the medians stands the share of the machine's peak: matrix products per second
over those of one large product, measured in the same rounds. In the same rounds, too, runs the recipe that
this project began with (`REFERENCE`): one mask rate for a whole batch, logits of every slot, and the mean
loss of the masked ones by the model itself, in the same number format and in float32.

    python studies/training.py --output studies/results/training.json
    python studies/training.py --layouts full block16 --attn_implementation eager
"""

import random
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from diffusion import hardware
from diffusion.collator import IGNORE, MixCollator
from diffusion.errors import UserError, run
from diffusion.models import layouts
from diffusion.models.backbone import Backbone
from diffusion.models.layouts import arrange
from diffusion.models.loading import load_masked_lm
from diffusion.noise import Absorbing
from diffusion.training.arguments import parse_layouts
from diffusion.training.trainer import Nats
from studies import common
from studies.machine import Shape, pairs_of, product_rate

MASK, BOS, PAD = 4, 0, 1  # any ids will do: the text does not matter here
REFERENCE = ("reference", "reference, float32")
RATES = [step / 10 for step in range(1, 11)]  # of masks


class Steps:
    """Training steps of one model on random text."""

    def __init__(self, args, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype, self.batch = device, dtype, args.batch_size
        model = load_masked_lm(args.model).to(device).train()
        model.set_attn_implementation(args.attn_implementation)
        self.nats, self.shape = Nats(Backbone(model)), Shape.of(model.config)
        if self.shape is None:
            raise UserError(
                f"--model {args.model} is of type {model.config.model_type}, whose operations are not "
                "counted; give a RoBERTa, BERT, ModernBERT or GPT-2"
            )
        self.shift = self.nats.backbone.shift
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        self.length = args.length + 1
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(
            5, model.config.vocab_size, (self.batch, self.length), generator=generator
        )
        ids[:, 0] = BOS
        self.rows = list(ids)
        mix = dict.fromkeys(args.layouts, 1.0)
        sizes = {"micro_batch": self.batch, "global_batch": self.batch}
        self.collators = MixCollator(
            Absorbing(MASK), [BOS, PAD], 1, mix=mix, shift=self.shift, causal_weight=1.67, **sizes
        ).collators
        self.done, self.flop = 0, {}  # steps, and operations of the last one of each layout

    def __call__(self, name: str) -> float:
        """Seconds of a step in a layout, or of one of `REFERENCE`, collating included."""
        if name in REFERENCE:
            return self.reference(name, self.dtype if name == REFERENCE[0] else torch.float32)
        return self.ours(name)

    def reference(self, name: str, dtype: torch.dtype) -> float:
        started = hardware.now(self.device)
        ids = torch.stack(self.rows).to(self.device)
        masked = torch.rand(ids.shape, device=self.device) < random.choice(RATES)
        masked[:, 0] = False
        labels = ids.masked_fill(~masked, IGNORE)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            loss = self.nats.backbone.model(ids.masked_fill(masked, MASK), labels=labels).loss
        self.update(loss)
        self.flop[name] = 3 * self.shape.flops(*ids.shape, ids.numel())
        return hardware.now(self.device) - started

    def update(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def ours(self, layout: str) -> float:
        started = hardware.now(self.device)
        first = self.done * self.batch
        features = [{"input_ids": ids, "draw": first + i} for i, ids in enumerate(self.rows)]
        batch = self.collators[layout](features)
        self.done += 1
        batch = {k: v.to(self.device) for k, v in batch.items() if isinstance(v, torch.Tensor)}
        labels, settings, pairs = batch["labels"], {}, None
        weights = batch["weights"][labels != IGNORE]
        if layout != "full":
            settings["layout"] = arrange(
                layout, self.length, 1, self.shift, self.dtype, self.device
            )
            if self.nats.backbone.config._attn_implementation == layouts.ATTENTION:
                pairs = pairs_of(settings["layout"])
        rows = int((labels != IGNORE).sum())
        self.flop[layout] = 3 * self.shape.flops(*labels.shape, rows, pairs)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            nats = self.nats(batch["input_ids"], labels, **settings)
        self.update((nats * weights).sum() / self.batch)
        return hardware.now(self.device) - started


def main() -> None:
    parser = common.flags(__doc__, "model", "length", "repeats", "device", "dtype",
                          length=255, repeats=15)  # fmt: skip
    parser.add_argument("--layouts", nargs="+", default=["full", "causal", "block4", "block16"])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--attn_implementation", default=layouts.ATTENTION)
    args = common.read(parser)
    parse_layouts(",".join(f"{name}=1" for name in args.layouts), args.length + 1)
    hardware.keep_memory()
    device, dtype = common.chosen(args)
    torch.manual_seed(0)
    random.seed(0)
    step = Steps(args, device, dtype)
    names = [*args.layouts, *(REFERENCE if dtype != torch.float32 else REFERENCE[:1])]
    tasks = {name: partial(step, name) for name in names}
    tasks["peak"] = lambda: product_rate(device, dtype, 2048, 2048, 2048, repeats=3)
    rounds = common.in_turns(tasks, args.repeats)
    top = max(rounds.pop("peak"))
    print(f"{args.model}, {args.batch_size} x {args.length} tokens, {args.attn_implementation}, "
          f"{hardware.describe(device, dtype)}; matrix products: {top / 1e9:.0f} GFLOP/s")  # fmt: skip
    results = []
    for name, seconds in rounds.items():
        row = {"layout": name, **common.spread("seconds", seconds), "flop": step.flop[name]}
        first = rounds[args.layouts[0]]
        row |= common.spread("ratio", (a / b for a, b in zip(seconds, first, strict=True)))
        row["tokens_per_second"] = args.batch_size * args.length / row["seconds"]
        # Of the peak in its own number format, which is measured in one alone.
        share = None if name == REFERENCE[1] else step.flop[name] / row["seconds"] / top
        results.append(row | {"share_of_peak": share})
        print(f"{name:18} {common.shown(row, 'seconds', 3)} s, {common.shown(row, 'ratio')} of the first, "
              f"{row['tokens_per_second']:.0f} tokens/s"
              + ("" if share is None else f", {share:.0%} of peak"))  # fmt: skip
    common.save(args, "training", device, dtype, peak_flop_per_second=top, results=results)


if __name__ == "__main__":
    run(main)
