"""An encoder without a language-model head is trained as a denoiser, and then writes."""

import pytest
import torch
from helpers.families import save_family
from helpers.training import one_sentence
from transformers import AutoModel

from diffusion.data import corpus, packing
from diffusion.generate import load_writer
from diffusion.models.heads import output_bias
from diffusion.models.tokenizers import load_tokenizer

KINDS = ["bert", "roberta", "distilbert", "modernbert", "mpnet"]


def headless(kind: str, folder):
    """A folder as sentence encoders have it."""
    AutoModel.from_pretrained(save_family(kind, folder)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_starts_at_the_frequencies_of_the_text(run, text, tmp_path, kind):
    folder = headless(kind, tmp_path / "encoder")
    out, err = run("--max_steps", 1, "--learning_rate", 0, start=["--model", folder])
    assert err.count("has no language-model head") == 1
    tokenizer = load_tokenizer(str(folder))
    blocks = packing.pack(corpus.load_documents(text), tokenizer, 32)
    held_out = max(2, len(blocks) // 50)
    counts = torch.bincount(blocks[:-held_out].flatten().long(), minlength=300) + 0.5
    writer = load_writer(str(out))  # with nothing missing
    bias = output_bias(writer.denoiser.backbone.model)
    torch.testing.assert_close(bias.detach(), (counts / counts.sum()).log(), rtol=1e-4, atol=1e-4)


def test_a_new_vocabulary_goes_with_a_new_head(run, tmp_path):
    start = ["--model", headless("bert", tmp_path / "encoder")]
    out, err = run("--max_steps", 2, "--new_vocabulary", 310, start=start)
    assert "has no language-model head" in err
    bias = output_bias(load_writer(str(out)).denoiser.backbone.model)
    assert bias.max() - bias.min() > 2 and bias.exp().sum() == pytest.approx(1, abs=0.1)


def test_a_resumed_run_is_the_whole_one(resumed, tmp_path):
    resumed(at=1, steps=2, start=["--model", headless("bert", tmp_path / "encoder")])


def test_it_is_not_evaluated_before(train, text, tmp_path):
    folder = headless("bert", tmp_path / "encoder")
    code, err = train("--model", folder, "--dataset", text, "--evaluate_only", "--block_size", 32,
                      "--use_cpu")  # fmt: skip
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], str(folder), "leave out --evaluate_only")
