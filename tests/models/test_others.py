"""Checkpoints of other people: LLaDA and Dream read natively, code of their own only when asked for,
and what a hub has told in a sentence that says what to do."""

import contextlib
import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from helpers.others import TEXT, VOCAB
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from diffusion.cli.options import Access
from diffusion.errors import UserError
from diffusion.generate import load_writer
from diffusion.models import loading, tokenizers
from diffusion.models.backbone import Backbone
from diffusion.options import GenerationOptions


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_tokenizer([TEXT * 9], VOCAB)


def some_ids(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(5, VOCAB, (rows, length), generator=torch.Generator().manual_seed(3))


def everywhere(ids: torch.Tensor) -> torch.Tensor:
    query_mask = torch.ones_like(ids, dtype=torch.bool)
    query_mask[:, 0] = False
    return query_mask


def save(folder: Path, config: dict, tensors: dict, tokenizer) -> str:
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


# ------------------------------------------------------------ LLaDA and Dream

LLADA = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig",
                 "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 24,
    "embedding_size": VOCAB, "vocab_size": VOCAB, "max_sequence_length": 40, "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5, "weight_tying": False, "include_bias": False, "include_qkv_bias": False,
    "mask_token_id": 4, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llada_tensors() -> dict[str, torch.Tensor]:
    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=generator) * 0.4

    generator, front = torch.Generator().manual_seed(0), "model.transformer."
    tensors = {f"{front}wte.weight": matrix(VOCAB, 16), f"{front}ff_out.weight": matrix(VOCAB, 16)}
    tensors[f"{front}ln_f.weight"] = 1 + matrix(1, 16)[0]
    for layer in range(2):
        own = f"{front}blocks.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            tensors[f"{own}{name}.weight"] = matrix(16, 16)
        for name, shape in {"ff_proj": (24, 16), "up_proj": (24, 16), "ff_out": (16, 24)}.items():
            tensors[f"{own}{name}.weight"] = matrix(*shape)
        for name in ("attn_norm", "ff_norm"):
            tensors[f"{own}{name}.weight"] = 1 + matrix(1, 16)[0]
    return tensors


def llada(ids: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """LLaDA's forward pass from its description, (B, L, V): a Llama without a causal mask."""

    def norm(x, name):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weights[f"{name}.weight"]

    def turn(x):  # rotary positions, by halves
        half = x.shape[-1] // 2
        rates = 500000.0 ** (-torch.arange(half) / half)
        angle = torch.arange(x.shape[2])[:, None] * rates
        a, b = x[..., :half], x[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    front = "model.transformer."
    x = weights[f"{front}wte.weight"][ids]
    for layer in range(2):
        own = f"{front}blocks.{layer}."
        y = norm(x, f"{own}attn_norm")
        q, k, v = (
            (y @ weights[f"{own}{n}_proj.weight"].T).view(*ids.shape, 2, 8).transpose(1, 2)
            for n in "qkv"
        )
        scores = (turn(q) @ turn(k).transpose(2, 3) / 8**0.5).softmax(-1)
        x = x + (scores @ v).transpose(1, 2).flatten(2) @ weights[f"{own}attn_out.weight"].T
        y = norm(x, f"{own}ff_norm")
        gate = F.silu(y @ weights[f"{own}ff_proj.weight"].T)
        x = x + (gate * (y @ weights[f"{own}up_proj.weight"].T)) @ weights[f"{own}ff_out.weight"].T
    return norm(x, f"{front}ln_f") @ weights[f"{front}ff_out.weight"].T


def test_llada_is_read_without_its_code(tokenizer, tmp_path):
    weights = llada_tensors()
    name = save(tmp_path, LLADA, weights, tokenizer)
    model = loading.load_masked_lm(name, tokenizer)
    ids = some_ids()
    query_mask = everywhere(ids)
    with torch.no_grad():
        ours = Backbone(model)(ids, query_mask)
    torch.testing.assert_close(ours, llada(ids, weights)[query_mask], rtol=1e-4, atol=1e-4)


def test_a_mask_that_only_the_model_knows(tokenizer, tmp_path):
    """LLaDA's tokenizer has its mask as one token among others."""
    name = save(tmp_path, LLADA, llada_tensors(), tokenizer)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["mask_token"]
    path.write_text(json.dumps(config))
    writer = load_writer(name)
    assert writer.tokenizer.mask_token_id == 4 and writer.trained and writer.positions == 40
    options = GenerationOptions(length=5, max_len=20)
    *_, last = writer.record(["The cat"], options, [0])
    assert not last.masked.any()


def test_dream_is_a_qwen_that_reads_one_slot_to_the_left(tokenizer, tmp_path):
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=24, max_position_embeddings=40,
        initializer_range=0.5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    qwen = Qwen2ForCausalLM(config).eval()
    own = {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 4}
    own["auto_map"] = {"AutoModel": "modeling_dream.DreamModel"}
    tensors = {name: tensor.contiguous() for name, tensor in qwen.state_dict().items()}
    tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()
    name = save(tmp_path, config.to_dict() | own, tensors, tokenizer)
    model, ids = loading.load_masked_lm(name, tokenizer), some_ids()
    with torch.no_grad():
        whole = torch.zeros(2, 1, 9, 9)  # nothing is hidden
        expected = qwen(input_ids=ids, attention_mask=whole).logits[:, :-1]
        ours = Backbone(model)(ids, everywhere(ids))
    torch.testing.assert_close(ours, expected.flatten(0, 1), rtol=1e-4, atol=1e-4)


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
    weights, ids = load_file(Path(name) / "model.safetensors"), some_ids()
    ids[:, 4] = VOCAB
    query_mask = ids == VOCAB
    with torch.no_grad():
        x = weights["table.weight"][ids]
        x = F.linear(x + x.mean(1, keepdim=True), weights["mix.weight"], weights["mix.bias"])
        expected = F.linear(x, weights["out.weight"], weights["out.bias"])[query_mask]
        torch.testing.assert_close(writer.denoiser.backbone(ids, query_mask), expected)
    options = GenerationOptions(length=5, max_len=20, sampler="confidence")
    *_, last = writer.record(["The cat"], options, [0])
    assert not last.masked.any()


# ------------------------------------------------------------ what cannot work


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (
            "t5",
            {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16},
            "encoder and a decoder",
        ),
        ("funnel", {"block_sizes": [1, 1], "d_model": 16, "n_head": 2}, "shorten a text"),
        ("nystromformer", {"hidden_size": 16, "num_attention_heads": 2}, "one fixed length"),
    ],
)
def test_models_that_cannot_be_used_say_why(kind, more, words, tokenizer, tmp_path):
    config = AutoConfig.for_model(kind, vocab_size=VOCAB, pad_token_id=1, **more)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForMaskedLM
    auto.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        load_writer(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


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


def tiny_bert(folder: Path, vocab: int):
    config = AutoConfig.for_model(
        "bert", vocab_size=vocab, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=40,
    )  # fmt: skip
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)


def test_a_model_of_the_hub_is_read_from_the_cache(cached, tokenizer):
    tiny_bert(cached, VOCAB)
    tokenizer.save_pretrained(cached)
    assert load_writer("some/model").positions == 40


def test_code_on_the_hub(cached):
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (cached / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"comes with Python code of its own.*--trust_remote_code"):
        load_writer("some/model")
    with pytest.raises(UserError, match="unreachable, or no such name"):
        load_writer("some/other")


def test_pickles_on_the_hub(cached, tokenizer):
    tiny_bert(cached, VOCAB)
    tokenizer.save_pretrained(cached)
    torch.save({}, cached / "pytorch_model.bin")
    (cached / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no safetensors on the hub.*save_pretrained"):
        load_writer("some/model")


# ------------------------------------------------------------ tokenizers


def test_a_vocabulary_of_bert_is_enough(tmp_path):
    bert = BertWordPieceTokenizer()
    bert.train_from_iterator(["the cat sat on the mat"] * 9, vocab_size=60, show_progress=False)
    bert.save_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vocab.txt"]
    tiny_bert(tmp_path, bert.get_vocab_size())
    loaded = tokenizers.load_tokenizer(str(tmp_path))
    assert (
        loaded("the cat")["input_ids"][1:-1] == bert.encode("the cat", add_special_tokens=False).ids
    )
    assert loaded.bos_token == "[CLS]" and loaded.mask_token == "[MASK]"


def test_a_sentencepiece_model_names_what_it_needs(tmp_path):
    tiny_bert(tmp_path, 60)
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
