"""What samplers get wrong when the denoiser is perfect.

Texts come from a hidden Markov chain over a few tokens. What it says about any position of a canvas that is
partly masked, or partly replaced by random tokens, is computed exactly (forward-backward, all rows at once)
and stands in for the model in the ordinary loop, under every sampler. What is written should have the
chain's distribution; what is missing is the sampler's own error: drawing several tokens at once as if they were
independent, or choosing the order by confidence. (Few-step samplers are wrong even with a perfect denoiser,
arXiv:2602.19619.)

    python studies/oracle.py --output_dir studies/results/oracle     # ten minutes on two cores
    python studies/oracle.py --rows 2000                             # one minute

For each sampler: forward passes, the excess of -log p(text) over the chain's entropy in nats per token (below 0:
texts are too probable, as those of a low temperature), and the total variation distances of pairs of neighbours
and of the first three tokens. A distance of finitely many texts is never 0, so beside it stands the largest of
20 sets of as many exact texts.
"""

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from diffusion import rng
from diffusion.canvas import Canvas, Query
from diffusion.cli.files import write_atomically
from diffusion.denoise import denoise
from diffusion.errors import run
from diffusion.noise import Noise, make_noise
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from studies.board.plotting import Plot, plain_log, png

STATES = TOKENS = 6
LENGTH, FIRST = 16, 3
MASK = TOKENS  # its id
STEPS = (1, 2, 4, 8, 16)
# Each sampler with what makes it faster or slower; n_steps where it has any.
GRIDS = {
    "causal": [{}],
    "speculative": [{"draft_length": n} for n in (1, 2, 4)],
    "first-hitting": [{}],
    "ancestral": [{"n_steps": n} for n in (*STEPS, 64)],
    "random-remask": [{"n_steps": n} for n in (*STEPS, 64)],
    "ddim": [{"n_steps": n, "sigma": s} for s in (1.0, 0.5) for n in (4, 16, 64)],
    "remdm": [{"n_steps": n} for n in (4, 16, 64)],
    "confidence": [
        {"n_steps": n, "score": s}
        for s in ("probability", "margin", "entropy")
        for n in (2, 4, 8, 16)
    ],
    "threshold": [{"threshold": x} for x in (0.5, 0.7, 0.9)],
    "factor": [{"factor": x} for x in (0.25, 0.5, 1.0)],
    "entropy-bound": [{"entropy_bound": x} for x in (0.01, 0.1, 0.5, 1.0)],
    "klass": [{"threshold": 0.6}, {}],
    "p2": [{"n_steps": n} for n in (4, 16)],
    "wino": [{}],
    "saber": [{}],
    "arpc": [
        {"tokens_per_draft": n, "first": first, "last": last}
        for first, last in ((1, 1), (1.5, 0.15))
        for n in (16, 8, 4, 2, 1)
    ],
}
RANDOM = {
    "ancestral": [{"n_steps": n} for n in (*STEPS, 64)],
    "ddim": [{"n_steps": n, "sigma": s} for s in (1.0, 0.5) for n in (4, 16, 64)],
    "self-correction": [{"n_steps": n} for n in (4, 16)],
    "gibbs": [
        {"n_steps": n, "corrections": 2, "positions": k, "choice": choice}
        for k, choice in ((1, "random"), (1, "margin"), (12, "margin"))
        for n in (4, 16)
    ],
}


class Chain:
    """A hidden Markov chain, stationary from its first token on.

    Attributes:
        start: (S,) probabilities of the first state; move: (S, S) of the next one; emit: (S, V) of the
            token of a state. All float64.
    """

    def __init__(self):
        def leaning(to: Tensor, least: float, most: float) -> Tensor:
            """(S, S) from each state to one other most often, from some more surely than from others."""
            sure = torch.linspace(least, most, STATES, dtype=torch.float64)[:, None]
            return sure * torch.eye(STATES).double()[to] + (1 - sure) / STATES

        # States follow one another in a circle, and each has a token of its own.
        self.move = leaning((torch.arange(STATES) + 1) % STATES, 0.98, 0.8)
        self.emit = leaning(torch.arange(STATES), 0.85, 0.98)
        self.start = torch.linalg.matrix_power(self.move, 1000)[0]

    def messages(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What all tokens before each position say about its state, and all after it, (B, L, S) each up
        to a factor, from the probabilities (B, L, S) of what is ``seen`` at a position in each state."""
        before = [self.start.expand(len(seen), -1)]
        for here in seen[:, :-1].unbind(1):
            now = before[-1] * here @ self.move
            before.append(now / now.sum(1, keepdim=True))
        after = [torch.ones_like(before[0])]
        for here in seen[:, 1:].flip(1).unbind(1):
            now = after[-1] * here @ self.move.T
            after.append(now / now.sum(1, keepdim=True))
        return torch.stack(before, 1), torch.stack(after[::-1], 1)

    def nats(self, texts: Tensor) -> Tensor:
        """-log p (B,) of texts (B, L)."""
        seen = self.emit.T[texts]  # (B, L, S)
        before, _ = self.messages(seen)
        return -(before * seen).sum(2).log().sum(1)

    def texts(self, count: int, seed: int) -> Tensor:
        """Texts (count, L) drawn from it."""
        generator = torch.Generator().manual_seed(seed)
        state, out = torch.multinomial(self.start, count, True, generator=generator), []
        for _ in range(LENGTH):
            out.append(torch.multinomial(self.emit[state], 1, generator=generator)[:, 0])
            state = torch.multinomial(self.move[state], 1, generator=generator)[:, 0]
        return torch.stack(out, 1)

    def windows(self, size: int) -> Tensor:
        """(V,) * size: the law of the first tokens."""
        law = self.start
        for _ in range(size):
            law = torch.einsum("...s,sv,st->...vt", law, self.emit, self.move)
        return law.sum(-1)


class Oracle:
    """The denoiser (see `diffusion.models.denoiser`) that knows the chain.

    Args:
        rates: noise share of the canvas in each call of a generation, in order; for random tokens alone,
            since masks say of themselves that they are noise.
    """

    passes, device = 1, torch.device("cpu")

    def __init__(self, chain: Chain, noise: Noise, rates: list[float] | None = None):
        self.chain, self.noise, self.rates = chain, noise, rates

    def start(self, canvas: Canvas) -> "Oracle":
        self.calls = 0
        return self

    def slots(self, query: Query) -> Tensor:
        return torch.full_like(query.ids[:, 0], query.ids.shape[1])

    def __call__(self, query: Query) -> Tensor:
        """log p (N, V + 1) of the token at each position queried, given all others."""
        ids, emit = query.ids, self.chain.emit
        channel = torch.cat([torch.eye(TOKENS), torch.ones(TOKENS, 1)], 1).double()  # (x, z)
        if self.rates is not None:
            r = torch.tensor(self.rates[min(self.calls, len(self.rates) - 1)]).double()
            channel = self.noise.shares(r)[0] * torch.eye(TOKENS, TOKENS + 1).double()
            channel = channel + self.noise.at(torch.arange(TOKENS + 1), *self.noise.shares(r)[1:])
        self.calls += 1
        before, after = self.chain.messages((emit @ channel).T[ids])
        p = (before * after)[query.query_mask] @ emit
        shown = ids[query.query_mask]
        if self.rates is None:  # a visible token predicts itself, unless it is hidden there
            known = shown != MASK
            if query.shadows is not None:
                known = known & ~query.shadows[query.query_mask]
            p = torch.where(known[:, None], torch.eye(TOKENS + 1).double()[shown, :TOKENS], p)
        return torch.cat([p.log(), torch.full((len(p), 1), -torch.inf)], 1).float()


class DraftingOracle(Oracle):
    """The same for `samplers.verifying.Speculative` (see `diffusion.speculative.Drafting`): logits given
    the tokens before, and for drafts given all before the place where the verification stopped."""

    def __init__(self, chain: Chain, noise: Noise, drafts: int):
        super().__init__(chain, noise)
        self.drafts = drafts

    def __call__(self, query: Query) -> Tensor:
        self.ids, self.here = query.ids, query.query_mask.int().argmax(1)
        before, _ = self.chain.messages(self._seen(query.ids))
        p = before[query.query_mask] @ self.chain.emit
        return torch.cat([p.log(), torch.full((len(p), 1), -torch.inf)], 1).float()

    def ahead(self, accepted: Tensor) -> Tensor:
        place = torch.arange(self.ids.shape[1])
        stop = (self.here + accepted)[:, None]
        before, _ = self.chain.messages(self._seen(self.ids.masked_fill(place >= stop, MASK)))
        at = (stop + 1 + torch.arange(self.drafts)).clamp(max=self.ids.shape[1] - 1)
        p = before.gather(1, at[..., None].expand(-1, -1, STATES)) @ self.chain.emit
        return torch.cat([p.log(), torch.full_like(p[..., :1], -torch.inf)], 2).float()

    def _seen(self, ids: Tensor) -> Tensor:
        return torch.cat([self.chain.emit, torch.ones(STATES, 1).double()], 1).T[ids]


class ReadingOracle(DraftingOracle):
    """The same for `samplers.verifying.DraftVerifyRemask` (see `models.cached.Verifying`): visible tokens
    given those before them."""

    def __call__(self, query: Query) -> Tensor:
        masks = (query.query_mask & (query.ids == MASK)).any()
        return Oracle.__call__(self, query) if masks else super().__call__(query)


def write(chain: Chain, noise: str, name: str, rows: int, seed: int, n_steps=None, **own):
    """(texts (B, L), forward passes (B,)) of a sampler."""
    kind = make_noise(noise, MASK, [], TOKENS + 1)
    sampler = make_sampler(name, n_steps=n_steps, noise=kind, **own)
    rates = None
    if noise != "absorbing":
        times = [1 - k / n_steps for k in range(n_steps)]
        if name == "gibbs":  # a step, then those of the corrector at the time after it
            times = times[:1] + [t for t in times[1:] for _ in range(own["corrections"] + 1)]
        rates = [min(t, 1 - 1e-9) for t in times] + [1e-9]
    oracle = Oracle(chain, kind, rates)
    if name == "speculative":
        oracle = DraftingOracle(chain, kind, own["draft_length"])
    if name == "arpc":
        oracle = ReadingOracle(chain, kind, 0)
    ids = torch.full((rows, LENGTH), MASK)
    nothing = torch.zeros(rows, LENGTH, dtype=torch.bool)
    keys = rng.row_keys(seed, torch.arange(rows), torch.device("cpu"))
    *_, last = denoise(Canvas(ids, nothing, nothing), oracle, sampler, Sampling(1.0, 0, 1.0), keys)
    return last.ids, last.nfe


def distances(chain: Chain, texts: Tensor) -> tuple[float, float]:
    """Total variation of pairs of neighbours, and of the first three tokens, from the chain."""
    found = []
    for size, parts in ((2, texts.unfold(1, 2, 1).flatten(0, 1)), (FIRST, texts[:, :FIRST])):
        code = (parts * TOKENS ** torch.arange(size)).sum(1)
        law = chain.windows(size).permute(*reversed(range(size))).flatten()
        share = torch.bincount(code, minlength=TOKENS**size).double() / len(code)
        found.append((share - law).abs().sum().item() / 2)
    return tuple(found)


def measure(chain: Chain, texts: Tensor, entropy: float) -> dict:
    """The numbers of one row of the table."""
    nats = chain.nats(texts)
    pairs, first = distances(chain, texts)
    return {
        "excess": (nats.mean().item() - entropy) / LENGTH,
        "excess_error": 1.96 * nats.std().item() / len(nats) ** 0.5 / LENGTH,
        "pairs": pairs,
        "first": first,
    }


def entropy_of(chain: Chain, sets: int = 10) -> float:
    """The chain's entropy of a text in nats, from so many sets of 100,000 texts."""
    found = [chain.nats(chain.texts(100_000, seed)).mean().item() for seed in range(sets)]
    return sum(found) / sets


def figure(record: dict):
    """The distance of pairs over forward passes, a line for each sampler, and that of exact texts."""
    lines: dict[str, dict[str, list]] = {}  # name -> noise -> points
    for row in record["table"]:
        own = ("sampler", "score", "sigma", "choice", "positions")
        name = " ".join(str(row[key]) for key in own if key in row)
        points = lines.setdefault(name, {}).setdefault(row["noise"], [])
        points.append((row["passes"], row["pairs"]))
    plot = Plot(3)
    for axes, noise in zip(plot.panels, ("absorbing", "uniform", "hybrid"), strict=True):
        for i, (name, by_noise) in enumerate(lines.items()):
            points = sorted(by_noise.get(noise, [])) or [(math.nan, math.nan)]
            plot.series(axes, *zip(*points, strict=True), i, name, linewidth=1)
        plot.level(axes, "exact texts", record["floor"]["pairs"], ":")
        axes.set(xscale="log", yscale="log", xlabel="forward passes for 16 tokens", title=noise)
        axes.set_ylabel("total variation of pairs of neighbours")
        plain_log(axes.xaxis, 1, 64)
    return plot.finish("Texts of samplers with a perfect denoiser, and exact texts")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="texts of each sampler [20000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", help="folder for the table and its picture")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    chain = Chain()
    entropy = entropy_of(chain)
    floor = [distances(chain, chain.texts(args.rows, 100 + seed)) for seed in range(20)]
    floor = [max(x) for x in zip(*floor, strict=True)]
    print(f"entropy of the chain {entropy / LENGTH:.4f} nats per token; exact texts differ from it by "
          f"up to {floor[0]:.4f} (pairs) and {floor[1]:.4f} (first three)")  # fmt: skip
    print(f"{'noise':10} {'sampler':34} {'passes':>6} {'excess, nats per token':>23} {'pairs':>7} "
          f"{'first':>7}")  # fmt: skip
    table = []
    for noise, grids in (("absorbing", GRIDS), ("uniform", RANDOM), ("hybrid", RANDOM)):
        for name, settings in grids.items():
            for own in settings:
                texts, passes = write(chain, noise, name, args.rows, args.seed, **own)
                found = measure(chain, texts, entropy)
                table.append(
                    {
                        "noise": noise,
                        "sampler": name,
                        **own,
                        "passes": passes.double().mean().item(),
                    }
                    | found
                )
                how = name + "".join(f" {k}={v}" for k, v in own.items())
                print(f"{noise:10} {how:34} {table[-1]['passes']:6.2f} {found['excess']:+14.4f} ± "
                      f"{found['excess_error']:.4f} {found['pairs']:7.4f} {found['first']:7.4f}",
                      flush=True)  # fmt: skip
    if args.output_dir:
        record = {"rows": args.rows, "seed": args.seed, "entropy_per_token": entropy / LENGTH}
        record |= {"floor": {"pairs": floor[0], "first": floor[1]}, "table": table}
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        table = json.dumps(record, indent=1) + "\n"
        write_atomically(Path(args.output_dir, "oracle.json"), table.encode())
        write_atomically(Path(args.output_dir, "oracle.png"), png(figure(record)))


if __name__ == "__main__":
    run(main)
