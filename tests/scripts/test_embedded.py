"""The checkpoints that come with the repository: small, safe, matched, and better than counting
words."""

import json

import pytest
import torch

from diffusion import likelihood
from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import Query, prompt_canvas
from diffusion.data import packing
from diffusion.generate import load_writer
from diffusion.models import hub, tokenizers
from diffusion.models.cached import Verifying
from diffusion.models.layouts import arrange
from diffusion.options import GenerationOptions

TEXT = (
    "The town lies on the northern bank of the river, about ten miles from the sea. It was first "
    "mentioned in a charter of the twelfth century, when the king gave the land to the church. "
    "During the war the old bridge was destroyed, and a new one was built in the following year. "
    "The railway reached the town in the second half of the nineteenth century. Most of the "
    "people worked in the mills and in the port. Today the town is known for its museum, which "
    "was opened by the local council and holds a large collection of paintings. The team played "
    "its first season in the national league and won the championship three times."
)


@pytest.fixture(scope="module")
def writer():
    return load_writer("roberta-small-wikitext", dtype="float32")


@pytest.fixture(scope="module")
def stories():
    return load_writer("roberta-minilm-stories", dtype="float32")


NAMES = (
    "roberta-minilm-stories", "gpt2-small-stories", "roberta-small-wikitext", "gpt2-small-wikitext",
    "gpt2-small-books",
)  # fmt: skip


@pytest.fixture(scope="module")
def gpt2():
    return load_causal_writer("gpt2-small-wikitext", dtype="float32")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_without_pickles(name):
    folder = hub.WEIGHTS / name
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) <= 30e6
    assert "model.safetensors" in files and "README.md" in files
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in files)


def test_its_bound_on_new_text_is_far_below_the_unigram_entropy(writer):
    tokenizer = writer.tokenizer
    blocks = packing.pack([TEXT], tokenizer, 128).long()
    editable = torch.ones_like(blocks, dtype=torch.bool)
    editable[:, 0] = False
    vocab = writer.denoiser.backbone.config.vocab_size
    bound = likelihood.likelihood_bound(
        writer.denoiser.backbone,
        blocks,
        editable,
        writer.denoiser.noise,
        tokenizers.token_byte_lengths(tokenizer, vocab),
        draws=32,
    )
    # A model that knows word frequencies alone gets about 7.1 nats per token on such text.
    assert bound.nats_per_token < 6.1


def test_it_reads_left_to_right_nearly_as_gpt2_does(writer, gpt2):
    """Which has had the same compute, and no other order to learn."""
    ids = torch.tensor([[0, *gpt2.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    editable = torch.ones_like(ids, dtype=torch.bool)
    editable[:, 0] = False
    sizes = tokenizers.token_byte_lengths(writer.tokenizer, len(writer.tokenizer))
    bound = likelihood.causal_nll(writer.denoiser.backbone, ids, editable, sizes)
    with torch.no_grad():
        exact = gpt2.model(ids, labels=ids).loss.item()
    assert exact < 4.4 and abs(bound.nats_per_token - exact) < 0.4


def test_its_default_is_causal_text_in_fewer_passes(writer):
    options = GenerationOptions(length=64)
    assert writer.resolve(options).sampler == "speculative"
    prompts = ["The town", "The river", "In 1887", "She opened the window"]
    *_, last = writer.generate(prompts, options, range(4))
    assert last.nfe.double().mean() < 0.9 * 64


def test_stories_are_written_in_parallel_in_no_order_and_are_of_words(stories):
    """At least 2.5 tokens a pass, and Kendall's tau of place and last writing at most 0.5."""
    options = GenerationOptions(length=64)
    assert stories.resolve(options).sampler == "arpc"
    prompts = ["Once upon a time", "One day, a dog", "Lily and Tom", "The little bird"]
    written, order = torch.zeros(4, 0), []
    for step in stories.generate(prompts, options, range(4)):
        written = torch.where(step.revealed, step.index, written if step.index else 0)
    assert (step.nfe * 2.5 <= 64).all()
    for row in range(4):
        when = written[row][written[row] > 0]
        sign = (when[None] - when[:, None]).sign().triu(1)
        order.append((sign.sum() / sign.abs().sum()).item())
    assert sum(order) / 4 < 0.5
    words = " ".join(stories.tokenizer.decode(row, skip_special_tokens=True) for row in step.ids)
    usual = "the a and to was he she it in of said you with her his they had for but i very mom day"
    assert sum(word in usual.split() for word in words.lower().split()) > 0.25 * len(words.split())


@torch.no_grad()
def test_stories_hang_together(stories):
    """By its own causal reading: text of the default is more probable than the same words shuffled."""
    options = GenerationOptions(length=60)
    canvas = prompt_canvas(stories.tokenizer, ["Once upon a time"] * 2, 256, 60)
    *_, last = stories.generate(["Once upon a time"] * 2, options, range(2))
    shuffled = last.ids.clone()
    shuffled[:, 5:] = shuffled[:, 5 + torch.randperm(60, generator=torch.manual_seed(0))]
    nats = []
    for ids in (last.ids, shuffled):
        reader = Verifying(stories.denoiser, 0).start(canvas)
        query = Query(ids, ~canvas.frozen, torch.arange(2))
        nats.append(torch.nn.functional.cross_entropy(reader(query), ids[~canvas.frozen]).item())
    assert nats[0] < 2.5 < 4.5 < nats[1]


def test_the_scorer_is_larger_and_has_read_other_text(gpt2):
    scorer = load_causal_writer("gpt2-small-books", dtype="float32")
    small, large = (sum(x.numel() for x in w.model.state_dict().values()) for w in (gpt2, scorer))
    assert large > 1.3 * small
    ids = torch.tensor([[0, *gpt2.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        own, other = (w.model(ids, labels=ids).loss.item() for w in (gpt2, scorer))
    assert own < other < 6.3  # such text is the other's own kind
    card = (hub.WEIGHTS / "gpt2-small-books" / "README.md").read_text()
    (read,) = (line for line in card.splitlines() if line.startswith("| training text |"))
    assert "books" in read and "wikitext" not in read


def same_shape(writer, gpt2) -> tuple:
    """The configs of a RoBERTa and its GPT-2, which have the same tokenizer, body, positions, and about
    as many parameters."""
    masked, causal = writer.denoiser.backbone.model, gpt2.model
    count = [sum(p.numel() for p in model.parameters()) for model in (masked, causal)]
    assert count[0] <= 14.1e6
    assert abs(count[0] / count[1] - 1) < 0.03
    assert writer.tokenizer.get_vocab() == gpt2.tokenizer.get_vocab()
    a, b = masked.config, causal.config
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.intermediate_size == 4 * b.hidden_size and b.n_inner is None
    assert writer.positions == gpt2.positions
    return a, b


def test_the_two_of_wikitext_have_one_shape_and_compute(writer, gpt2):
    a, b = same_shape(writer, gpt2)
    # Million tokens of RoBERTa's phases, and the shares of full, block4 and block16 in each.
    phases = [(75.8, 1, 0, 0), (6.8, 1 / 3, 1 / 3, 1 / 3), (11.39, 0.3, 0.35, 0.35),
              (6.14, 0.4, 0.3, 0.3), (3.28, 0.5, 0.25, 0.25)]  # fmt: skip
    assert sum(tokens for tokens, *_ in phases) == pytest.approx(
        a.diffusion["tokens_seen"] / 1e6, rel=0.01
    )
    by_layout = [len(arrange(f"block{n}", 256).place) / 256 for n in (4, 16)]
    slots = sum(
        m * (full + four * by_layout[0] + more * by_layout[1]) for m, full, four, more in phases
    )
    assert b.diffusion["tokens_seen"] / 1e6 == pytest.approx(slots, rel=0.04)
    card = (hub.WEIGHTS / "gpt2-small-wikitext" / "README.md").read_text()
    assert f"120.2 against {slots:.1f} million slots" in card
    assert a.hidden_dropout_prob == b.resid_pdrop == b.embd_pdrop == 0
    assert a.attention_probs_dropout_prob == b.attn_pdrop == 0


def test_the_two_of_stories_have_one_shape_and_have_seen_as_much(stories):
    a, b = same_shape(stories, load_causal_writer("gpt2-small-stories", dtype="float32"))
    seen = [config.diffusion["tokens_seen"] for config in (a, b)]
    assert seen[0] <= seen[1] <= 1.01 * seen[0]


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_what_its_config_says(name):
    folder = hub.WEIGHTS / name
    card = (folder / "README.md").read_text()
    settings = json.loads((folder / "config.json").read_text())["diffusion"]
    assert settings["objective"] == ("causal" if "gpt2" in folder.name else "diffusion")
    assert "test split" in card
    assert f"{settings['tokens_seen']:,}" in card
    assert f"{settings['bound_nats_per_token']:.4f} ±" in card
    assert "python finetune.py" in card
