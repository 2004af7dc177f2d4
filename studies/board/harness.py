"""Our models in lm-evaluation-harness, which is an extra: pip install -e ".[eval]"

python -m studies.board.harness --model diffusion --tasks blimp --batch_size 32 \\
    --model_args pretrained=roberta-small-wikitext,by=causal

All flags are the harness's own; --model_args are the arguments of `DiffusionLM`.
"""

import itertools
import sys

from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import encode, written_ids
from diffusion.cli.console import progress
from diffusion.errors import UserError, cause, run
from diffusion.generate import load_writer
from diffusion.models import loading
from diffusion.options import GenerationOptions
from studies.board.reading import check_way, nats
from studies.board.scorer import windows
from studies.minimal_pairs import make

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:
    cli_evaluate, LM, register_model = None, object, lambda name: lambda kind: kind


@register_model("diffusion")
class DiffusionLM(LM):
    """A model for the harness.

    Args:
        pretrained: a folder, a name in weights/ or one of the hub: a masked LM, or a GPT-2.
        by: see `nats`; default: bound, of a GPT-2 causal.
        draws: masks for each text in a bound.
        greedy: also write each continuation greedily and report whether it is the same, which tasks
            such as lambada need; without it none is.
        batch_size, device, dtype: as the flags of inference.py.
        options: how it writes, by the names of the flags of inference.py.

    Raises:
        UserError: no such model, way of reading or argument.
    """

    def __init__(
        self,
        pretrained: str = "roberta-small-wikitext",
        by: str | None = None,
        draws: int = 16,
        greedy: bool = False,
        batch_size: int | str = 16,
        device: str | None = None,
        dtype: str = "auto",
        seed: int = 0,
        max_batch_size: int | None = None,
        **options,
    ):
        super().__init__()
        try:
            GenerationOptions.from_dict({"seed": seed, **options}).check()
            self.settings = {"draws": int(draws), "batch_size": int(batch_size), "seed": seed}
        except (TypeError, ValueError) as error:
            raise UserError(f"--model_args: {cause(error)}; see studies/board/harness.py") from None
        masked = loading.is_masked_lm(loading.load_config(pretrained))
        load = load_writer if masked else load_causal_writer
        # The harness names the first GPU by default, whether there is one or not.
        device = "auto" if device in (None, "cuda:0") else device
        self.writer = load(pretrained, None, device, dtype)
        self.tokenizer = self.writer.tokenizer
        self.by = by or ("bound" if masked else "causal")
        check_way(self.writer, self.by)
        self.greedy, self.options = greedy, {"seed": seed, **options}

    def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
        """(log p of the continuation in nats, whether greedy writing gives it) of each pair."""
        pairs = [self._pair(*request.args) for request in requests]
        found = nats(self.writer, *zip(*pairs, strict=True), self.by, **self.settings)
        likely = [False] * len(pairs)
        if self.greedy:
            for i, (request, (ids, given)) in enumerate(zip(requests, pairs, strict=True)):
                true = ids[given:]
                written = self._write(request.args[0], len(true), temperature=0, length=len(true))
                likely[i] = written == true
        return [(-value, same) for value, same in zip(found, likely, strict=True)]

    def loglikelihood_rolling(self, requests: list) -> list[float]:
        """log p of each text in nats. One that the model does not see at once is read in windows that
        overlap by half."""
        rows, given, texts = [], [], []
        for number, request in enumerate(requests):
            ids = encode(self.tokenizer, request.args[0])
            for begin, end, first in windows(len(ids), 0, self.writer.positions - 1):
                rows.append([self.tokenizer.bos_token_id, *ids[begin:end]])
                given.append(1 + first - begin)
                texts.append(number)
        totals = [0.0] * len(requests)
        for number, value in zip(
            texts, nats(self.writer, rows, given, self.by, **self.settings), strict=True
        ):
            totals[number] -= value
        return totals

    def generate_until(self, requests: list) -> list[str]:
        """What is written after each context, up to the first of the strings that end it."""
        texts = []
        for number, (context, settings) in enumerate(request.args for request in requests):
            heat = settings.get("temperature", 1.0) if settings.get("do_sample") else 0.0
            room = settings.get("max_gen_toks", 256)
            ids = self._write(context, room, number, temperature=heat)
            text = self.tokenizer.decode(
                list(itertools.takewhile(lambda token: token != self.tokenizer.eos_token_id, ids)),
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            until = settings.get("until", [])
            for stop in filter(None, [until] if isinstance(until, str) else until):
                text = text.partition(stop)[0]
            texts.append(text)
            progress(number + 1, len(requests), "text")
        return texts

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """(ids of both, how many are context). A space between two words belongs to the second; of a
        context that is too long the end is kept."""
        before = context.rstrip()
        continuation = context[len(before) :] + continuation
        whole = encode(self.tokenizer, before + continuation)
        pairs = zip(encode(self.tokenizer, before), whole, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        cut = max(0, 1 + len(whole) - self.writer.positions)
        if cut > shared:
            raise UserError(
                f"a continuation of {len(whole) - shared} tokens does not fit the "
                f"{self.writer.positions} positions of {self.writer.name}; use another task or model"
            )
        return [self.tokenizer.bos_token_id, *whole[cut:]], 1 + shared - cut

    def _write(self, context: str, room: int, number: int = 0, **options) -> list[int]:
        """The ids of text ``number`` after the end of a context, at most ``room`` tokens."""
        positions = self.writer.positions
        room = min(room, positions // 2)
        ids = encode(self.tokenizer, context)
        if len(ids) >= positions - room:
            ids = ids[-(positions - 1 - room) :]
            context = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        given = 1 + len(encode(self.tokenizer, context))
        most = min(given + room, positions)
        own = GenerationOptions.from_dict({"max_len": most, **self.options, **options})
        *_, last = self.writer.generate([context], own, [number])
        return written_ids(last, 0)[given:]


def main() -> None:
    if cli_evaluate is None:
        raise UserError(
            'lm-evaluation-harness is not installed; pip install -e ".[eval]", or pip install lm_eval'
        )
    if any("minimal_pairs" in argument for argument in sys.argv):
        make.main()  # the file that the task reads
    cli_evaluate()


if __name__ == "__main__":
    run(main)
