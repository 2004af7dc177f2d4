"""Checkpoints of other people: code of their own runs only when asked for, and what a hub has is
refused in a sentence that says what to do."""

import contextlib
import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from helpers import families
from helpers.others import TEXT, VOCAB, name_no_mask
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from diffusion.cli.options import Access
from diffusion.errors import UserError
from diffusion.generate import Writer, load_writer
from diffusion.models import hub, loading, tokenizers
from diffusion.options import GenerationOptions


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_tokenizer([TEXT * 9], VOCAB)


def test_a_mask_that_only_the_model_knows(tokenizer, tmp_path):
    """A tokenizer may have its mask as one token among others."""
    model = families.tiny("llama", VOCAB)
    model.config.mask_token_id = 4
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    name_no_mask(tmp_path)
    writer = load_writer(str(tmp_path))
    assert writer.tokenizer.mask_token_id == 4 and writer.trained and writer.positions == 64
    *_, last = writer.generate(["The cat"], GenerationOptions(length=5, max_len=20), [0])
    assert not last.masked.any()


# ------------------------------------------------------------ code that comes with a model


def test_code_of_others_runs_when_it_is_asked_for_and_only_then(of_others):
    name, trace = of_others
    with pytest.raises(UserError, match="--trust_remote_code") as error:
        load_writer(name)
    assert "\n" not in str(error.value) and not trace.exists()
    writer = load_writer(name, access=Access(trust_remote_code=True))
    assert trace.exists()
    # The mask is the one token that the tokenizer had not.
    assert writer.denoiser.noise.mask_id == VOCAB and writer.positions == 24
    weights = load_file(Path(name) / "model.safetensors")
    ids = torch.randint(5, VOCAB, (2, 9), generator=torch.Generator().manual_seed(3))
    ids[:, 4] = VOCAB
    query_mask = ids == VOCAB
    with torch.no_grad():
        x = weights["table.weight"][ids]
        x = F.linear(x + x.mean(1, keepdim=True), weights["mix.weight"], weights["mix.bias"])
        expected = F.linear(x, weights["out.weight"], weights["out.bias"])[query_mask]
        torch.testing.assert_close(writer.denoiser.backbone(ids, query_mask), expected)
    options = GenerationOptions(length=5, max_len=20, sampler="confidence")
    *_, last = writer.generate(["The cat"], options, [0])
    assert not last.masked.any()


# ------------------------------------------------------------ what cannot work


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("t5", {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16},
         "has a decoder"),
        ("nystromformer", {"hidden_size": 16, "num_attention_heads": 2, "num_landmarks": 8},
         "do not read text as"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_used_say_why(kind, more, words, tokenizer, tmp_path):
    config = AutoConfig.for_model(kind, vocab_size=VOCAB, pad_token_id=1, **more)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForMaskedLM
    auto.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        load_writer(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_start_for_a_denoiser_is_no_denoiser(tokenizer, tmp_path):
    families.tiny("roberta", VOCAB, objective="causal", shift=True).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="was trained with --objective causal"):
        load_writer(str(tmp_path))


def test_a_type_without_a_row_reads_what_its_own_model_does(tokenizer):
    """All positions, by its own forward."""
    model = families.tiny("fnet", VOCAB)
    model.config.model_type = "odd"
    writer = Writer.from_model(model, tokenizer)
    ids = torch.tensor([[0, 5, 4, 7]])
    with torch.no_grad():
        ours = writer.denoiser.backbone(ids, ids == 4)
        torch.testing.assert_close(ours, model(ids).logits[:, 2])


# ------------------------------------------------------------ what a hub has


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hub of which the cache holds one model, "some/model"; the files go into what is given."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for module in ("transformers.utils.hub", "huggingface_hub.file_download"):
        for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
            monkeypatch.setattr(f"{module}.{name}", str(tmp_path), raising=False)
    snapshot = tmp_path / "models--some--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    return snapshot


def test_a_model_of_the_hub_is_read_from_the_cache(cached, tokenizer):
    families.tiny("bert", VOCAB).save_pretrained(cached)
    tokenizer.save_pretrained(cached)
    assert load_writer("some/model").positions == 64
    (cached / "model.safetensors").rename(cached / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \*.safetensors file.*save_pretrained"):
        load_writer("some/model")


def test_code_on_the_hub(cached):
    hub.ask_hub_once.cache_clear()
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (cached / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"comes with Python code of its own.*--trust_remote_code"):
        load_writer("some/model")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE .* was not downloaded before; unset that"):
        load_writer("some/other")
    (cached / "config.json").write_text("{")  # of what was downloaded the cause is said
    with pytest.raises(UserError, match=r"is not a valid JSON file: "):
        load_writer("some/model")


# ------------------------------------------------------------ tokenizers


def test_a_vocabulary_of_bert_is_enough(tmp_path):
    bert = BertWordPieceTokenizer()
    bert.train_from_iterator(["the cat sat on the mat"] * 9, vocab_size=60, show_progress=False)
    bert.save_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vocab.txt"]
    families.tiny("bert", bert.get_vocab_size()).save_pretrained(tmp_path)
    loaded = tokenizers.load_tokenizer(str(tmp_path))
    assert (
        loaded("the cat")["input_ids"][1:-1] == bert.encode("the cat", add_special_tokens=False).ids
    )
    assert loaded.bos_token == "[CLS]" and loaded.mask_token == "[MASK]"


def test_a_sentencepiece_model_names_what_it_needs(tmp_path):
    families.tiny("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "albert"}))
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x0b nothing real")
    with pytest.raises(UserError, match="pip install sentencepiece"):
        tokenizers.load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(("size", "fits"), [(251_000, True), (256_000, False)])
def test_rows_to_spare_grow_with_the_vocabulary(size, fits):
    """mDeBERTa's model has 898 more rows than its tokenizer has tokens."""

    config, refused = AutoConfig.for_model("deberta-v2", vocab_size=size), contextlib.nullcontext()
    if not fits:
        refused = pytest.raises(UserError, match="250102 tokens")
    with refused:
        loading.check_vocabulary(config, range(250_102), "x")
