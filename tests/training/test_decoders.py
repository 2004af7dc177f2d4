"""A decoder becomes a denoiser: a GPT-2 sees both sides, gets a mask, and writes in blocks."""

import json
import shutil

import pytest
import torch
from helpers.families import tiny
from helpers.training import losses
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from diffusion.cli.options import Access
from diffusion.data.corpus import load_documents
from diffusion.generate import load_writer
from diffusion.models.backbone import Backbone
from diffusion.models.tokenizers import train_tokenizer
from diffusion.options import GenerationOptions

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, text):
    """As GPT-2 is published: one special token for beginning and end, no mask, no padding."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train([text], BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=2, n_head=2,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_gpt2_learns_to_fill_masks_in_every_layout(run, gpt2):
    out, err = run("--layouts", "causal=1,block4=1,full=1", "--max_steps", 60, "--learning_rate", "1e-2",
                   start=["--model", gpt2])  # fmt: skip
    assert "gets a <mask> token" in err
    curve = list(losses(out).values())
    assert sum(curve[-15:]) < 0.9 * sum(curve[:15])  # five of each layout
    config = json.loads((out / "config.json").read_text())
    assert config["diffusion"]["shift"] is True and config["vocab_size"] == 301
    assert json.loads((gpt2 / "config.json").read_text())["vocab_size"] == 300

    writer = load_writer(str(out))
    tokenizer = writer.tokenizer
    assert writer.trained and writer.blocks and tokenizer.mask_token_id == 300
    # The logits are those of the weights with nothing hidden, one slot to the left.
    ids = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    asked = torch.ones_like(ids, dtype=torch.bool)
    asked[:, 0] = False
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=torch.zeros(2, 1, 12, 12)).logits
        ours = Backbone(writer.denoiser.backbone.model)(ids, asked)
        torch.testing.assert_close(ours, expected[:, :-1].flatten(0, 1), rtol=1e-4, atol=1e-4)
    for options in (
        {"block_length": 4, "sampler": "confidence"},
        {"sampler": "causal"},
        {"sampler": "speculative"},
        {"attention": "full", "sampler": "remdm"},
    ):
        options = GenerationOptions(length=9, max_len=30, **options)
        *_, last = writer.generate(["abc", "abcdefg ab"], options, [0, 1])
        assert not last.masked.any() and not (last.ids == 300).any()


def test_next_token_prediction_needs_no_mask(run, gpt2, tmp_path):
    """Weights of the hub have no prefix, and old buffers beside them."""
    tensors = load_file(gpt2 / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    hub = shutil.copytree(gpt2, tmp_path / "hub")
    save_file(old, hub / "model.safetensors", metadata={"format": "pt"})
    run("--objective", "causal", "--max_steps", 1, start=["--model", hub])


def test_a_mask_begins_as_the_mean_of_all_tokens(run, gpt2):
    out, _ = run("--max_steps", 1, "--learning_rate", 0, start=["--model", gpt2])
    before = load_file(gpt2 / "model.safetensors")["transformer.wte.weight"]
    after = load_file(out / "model.safetensors")["transformer.wte.weight"]
    torch.testing.assert_close(after[:300], before)
    torch.testing.assert_close(after[300], before.mean(0))


def test_a_model_that_looks_ahead_is_not_trained_causally(refused, text, tmp_path):
    tokenizer = train_tokenizer(load_documents(text, "train", None, None), 280)
    for kind in ("fnet", "deberta-v2"):
        folder = tmp_path / kind
        tiny(kind, vocab=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        flags = ["--objective", "causal", "--max_steps", 1]
        refused(flags, "cannot read from left to right", start=["--model", folder])


def test_code_of_others_is_trained_when_it_is_asked_for(run, refused, of_others):
    name, trace = of_others
    flags, start = ["--block_size", 24, "--max_steps", 2], ["--model", name]
    refused(flags, "--trust_remote_code", start=start)
    assert not trace.exists()
    out, _ = run(*flags, "--trust_remote_code", start=start)
    writer = load_writer(str(out), access=Access(trust_remote_code=True))
    assert writer.trained and writer.denoiser.noise.mask_id == 280
