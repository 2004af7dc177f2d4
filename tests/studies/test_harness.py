"""The ways to read a text, and what the harness gets, against sums over tiny models."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import diffusion
from diffusion.canvas import Canvas, Query, encode
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.models.cached import InBlocks
from studies.board.harness import DiffusionLM
from studies.board.reading import check_way, nats

TEXT, GIVEN, MASK = "The river runs", 3, 4


@pytest.fixture(scope="module", params=[True, False], ids=["shifted", "own slot"])
def writer(request, tiny_model):
    """A tiny model that says it was trained for all layouts."""
    model = AutoModelForMaskedLM.from_pretrained(tiny_model)
    layouts = {"causal": 0.4, "block3": 0.3, "full": 0.3}
    model.config.diffusion |= {"shift": request.param, "layouts": layouts}
    return Writer.from_model(model, AutoTokenizer.from_pretrained(tiny_model), "tiny")


def row(writer, tokens: int | None = None) -> list[int]:
    return [writer.tokenizer.bos_token_id, *encode(writer.tokenizer, TEXT)][:tokens]


def costs(logits, ids: list[int], places) -> dict[int, float]:
    """-log p of the tokens at ``places``, from logits (N, V) for them."""
    chosen = logits.double().log_softmax(-1)
    return {place: -chosen[n, ids[place]].item() for n, place in enumerate(places)}


@torch.no_grad()
def full(writer, ids: list[int], hidden) -> dict[int, float]:
    """Those of the ``hidden`` tokens, by the model of transformers itself."""
    shown = [MASK if i in hidden else token for i, token in enumerate(ids)]
    logits = writer.denoiser.backbone.model(torch.tensor([shown])).logits[0]
    shift = int(writer.denoiser.backbone.shift)
    return costs(logits[[i - shift for i in hidden]], ids, hidden)


@torch.no_grad()
def one_block(writer, ids: list[int], hidden) -> dict[int, float]:
    """The same where what is in front of ``GIVEN`` is read causally, and the rest is one block."""
    column = torch.arange(len(ids))[None]
    asked = torch.isin(column, torch.tensor(hidden))
    shown = torch.tensor([ids]).masked_fill(asked, MASK)
    denoiser = writer.denoiser.allowing(*writer.denoiser.forbidden.tolist())
    canvas = Canvas(shown, column < GIVEN, torch.zeros_like(asked))
    return costs(InBlocks(denoiser, 0).start(canvas)(Query(shown, asked)), ids, hidden)


def bound(writer, ids: list[int], price) -> float:
    """The sum of S_k / k, with S_k the mean over all ways to hide k tokens."""
    places, total = range(GIVEN, len(ids)), 0.0
    for k in range(1, len(places) + 1):
        ways = list(itertools.combinations(places, k))
        total += sum(sum(price(writer, ids, way).values()) for way in ways) / len(ways) / k
    return total


# ---------------------------------------------------------------- the ways


@pytest.mark.parametrize(("by", "price"), [("bound", full), ("block9", one_block)])
def test_the_bounds_are_sums_over_all_masks(writer, by, price):
    ids = row(writer, GIVEN + 3)
    (estimate,) = nats(writer, [ids], [GIVEN], by, draws=900, batch_size=150)
    assert estimate == pytest.approx(bound(writer, ids, price), rel=0.05)
    # One token can be hidden in one way.
    ids = ids[: GIVEN + 1]
    exact = list(price(writer, ids, [GIVEN]).values())
    assert nats(writer, [ids], [GIVEN], by, draws=2) == pytest.approx(exact)


def test_in_order_each_token_is_predicted_with_all_after_it_hidden(writer):
    ids = row(writer)
    exact = sum(full(writer, ids, range(i, len(ids)))[i] for i in range(GIVEN, len(ids)))
    assert nats(writer, [ids], [GIVEN], "order") == pytest.approx([exact])


@pytest.mark.parametrize("by", ["causal", "block1"])
def test_read_in_order_a_text_is_the_product_of_its_parts(writer, by):
    """And a part of one token is what the network says, in blocks by the code that writes."""
    ids = row(writer)
    whole = nats(writer, [ids], [1], by, draws=2)[0]
    parts = [ids[: i + 1] for i in range(1, len(ids))]
    each = nats(writer, parts, [len(part) - 1 for part in parts], by, draws=2)
    assert sum(each) == pytest.approx(whole)
    if by == "block1":
        assert each[GIVEN - 1] == pytest.approx(one_block(writer, parts[GIVEN - 1], [GIVEN])[GIVEN])
    else:
        mask = torch.full((len(ids), len(ids)), -1e9).triu(1)[None, None]
        with torch.no_grad():
            logits = writer.denoiser.backbone.model(torch.tensor([ids]), attention_mask=mask).logits
        places = range(1, len(ids))
        assert each == pytest.approx(list(costs(logits[0, :-1], ids, places).values()), rel=1e-4)


def test_texts_of_different_lengths_do_not_know_of_each_other(writer):
    rows = [row(writer), row(writer, 5), row(writer), [*row(writer, 5)[:4], 9]]
    given = [1, 1, GIVEN, 1]
    for by in ("bound", "order", "causal", "block2"):
        together = nats(writer, rows, given, by, draws=4)
        alone = [nats(writer, [r], [g], by, draws=4)[0] for r, g in zip(rows, given, strict=True)]
        assert together == pytest.approx(alone, rel=1e-5)
        assert len({round(value, 3) for value in together}) == 4


# ---------------------------------------------------------------- what the harness asks


def asked(*arguments) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def test_a_gpt2_is_read_as_transformers_read_it(tiny_gpt2):
    lm = DiffusionLM(str(tiny_gpt2))
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    tokenizer = lm.tokenizer

    def exact(text: str, first: int = 1) -> float:
        ids = [tokenizer.bos_token_id, *encode(tokenizer, text)]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, first - 1 : -1]
        return -sum(costs(logits, ids, range(first, len(ids))).values())

    context = 1 + len(encode(tokenizer, "The river"))
    parts = ("", "The river"), ("The river ", "runs"), ("The river", " runs")
    values, same = zip(*lm.loglikelihood([asked(*part) for part in parts]), strict=True)
    texts = exact("The river"), exact(TEXT, context)
    assert values == pytest.approx([*texts, texts[1]], rel=1e-5) and not any(same)
    # Longer than the model sees: each token once, behind at least half a window.
    long = ("The old river runs under the stone bridge. " * 5)[:-6]
    ids = encode(tokenizer, long)
    assert 63 < len(ids) <= 31 + 63
    parts = [ids[:63], ids[31 : 31 + 63]]
    nll = 0.0
    for part, first in zip(parts, (0, 32), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.bos_token_id, *part]])).logits[0, first:-1]
        nll += sum(costs(logits, part, range(first, len(part))).values())
    found = lm.loglikelihood_rolling([asked(long), asked(TEXT)])
    assert found == pytest.approx([-nll, exact(TEXT)], rel=1e-5)


def test_a_long_context_loses_its_beginning(tiny_gpt2):
    lm = DiffusionLM(str(tiny_gpt2))
    long = "The river runs through the old town. " * 5
    ids = encode(lm.tokenizer, long + "She")
    kept = lm._pair(long, "She")
    new = len(ids) - len(encode(lm.tokenizer, long[:-1]))
    assert kept[0][1:] == ids[-63:] and len(kept[0]) - kept[1] == new
    assert len(lm.generate_until([asked(long, {"max_gen_toks": 500})])) == 1
    with pytest.raises(UserError, match="does not fit the 64 positions"):
        lm.loglikelihood([asked("He", long)])


def test_what_is_written_ends_at_the_stop_strings(tiny_model):
    lm = DiffusionLM(str(tiny_model))
    request = asked("The river", {"max_gen_toks": 12, "until": ["\n\n"]})
    (text,) = lm.generate_until([request])
    room = 1 + len(encode(lm.tokenizer, "The river")) + 12
    (whole,) = diffusion.write(lm.writer, ["The river"], temperature=0, max_len=room)
    assert "The river" + text == whole and len(text) > 4
    stop = text[2:4]
    for until in (stop, [stop, "never"]):
        cut = lm.generate_until([asked("The river", {"max_gen_toks": 12, "until": until})])
        assert cut == [text[: text.index(stop)]]
    free = {"max_gen_toks": 12, "do_sample": True, "temperature": 2.0}
    one, other = lm.generate_until([asked("The river", free)] * 2)
    assert one != other  # two samples


def test_greedy_continuations_are_checked_on_request(tiny_model):
    lm = DiffusionLM(str(tiny_model), by="order", greedy=True)
    same = lm.tokenizer.decode(lm._write("The river", 2, temperature=0, length=2))
    assert lm.loglikelihood([asked("The river", same)])[0][1] is True
    assert lm.loglikelihood([asked("The river", " runs on")])[0][1] is False


# ---------------------------------------------------------------- mistakes


def test_ways_that_a_model_cannot_be_read_in(writer, tiny_model, tiny_gpt2):
    for by in ("bound", "order", "causal", "block7"):
        check_way(writer, by)
    for by in ("blocks", "block0", "", "Bound"):
        with pytest.raises(UserError, match="is unknown; use bound, order, causal, or blockN"):
            check_way(writer, by)
    for by in ("causal", "block4"):
        with pytest.raises(UserError, match=f"was never trained for by={by}; use by=bound"):
            DiffusionLM(str(tiny_model), by=by)
    with pytest.raises(UserError, match="from left to right alone; use by=causal"):
        DiffusionLM(str(tiny_gpt2), by="bound")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sampler": "nope"}, "--sampler 'nope'"),
        ({"nonsense": 1}, "nonsense is an option of a sampler"),
        ({"n_steps": "many"}, "--model_args: "),
        ({"batch_size": "auto"}, "--model_args: "),
        ({"pretrained": "./nowhere"}, "does not exist"),
    ],
)
def test_a_wrong_argument_is_one_sentence(tiny_model, arguments, named):
    with pytest.raises(UserError) as error:
        DiffusionLM(**{"pretrained": str(tiny_model), **arguments})
    assert named in str(error.value) and "\n" not in str(error.value)
