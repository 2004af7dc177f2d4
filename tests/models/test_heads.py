"""Encoders without a language-model head: the head that training makes, and what refuses them."""

import pytest
import torch
from helpers.families import marked, tiny
from helpers.models import SENTENCES
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.activations import ACT2FN

from diffusion.errors import UserError
from diffusion.generate import Writer, load_writer
from diffusion.models.families import FAMILIES
from diffusion.models.heads import output_bias
from diffusion.models.loading import load_masked_lm
from diffusion.models.tokenizers import load_tokenizer, train_tokenizer

BARE = ("xlm", "flaubert", "eurobert")  # whose head is the output matrix alone
SMALL = {  # whose embeddings are smaller than hidden states: the map between them
    "albert": "encoder.embedding_hidden_mapping_in",
    "electra": "embeddings_project",
}
ENCODERS = [name for name, row in FAMILIES.items() if not row.decoder]


def save_encoder(name: str, folder):
    """A random encoder as `AutoModel` saves it, and a tokenizer; returns the encoder."""
    torch.manual_seed(0)
    config = tiny(name, vocab=300).config
    encoder = AutoModel.from_config(config).eval()
    encoder.save_pretrained(folder)
    train_tokenizer(SENTENCES, 300).save_pretrained(folder)
    return encoder


@pytest.mark.parametrize("name", marked(ENCODERS, alike=False))
def test_logits_are_similarities_to_embeddings(name, tmp_path, capfd):
    encoder = save_encoder(name, tmp_path)
    capfd.readouterr()
    model = load_masked_lm(str(tmp_path), base=True)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "has no language-model head and gets one" in err
    parts = dict(model.base_model.named_parameters())
    left = [name for name, _ in encoder.named_parameters() if name not in parts]
    assert all("pooler" in part and part in err for part in left)
    assert ("left out" in err) == bool(left)
    ids = torch.tensor([[0, *range(7, 27), 2]])
    with torch.no_grad():
        hidden, found = encoder(input_ids=ids).last_hidden_state, model(input_ids=ids).logits
        table = encoder.get_input_embeddings().weight
        if name in BARE:
            expected = hidden @ table.T
        else:
            if name in SMALL:
                into = encoder.get_submodule(SMALL[name]).weight
                hidden = torch.linalg.lstsq(into, hidden[0].T).solution.T[None]
            activation = ACT2FN[getattr(model.config, "hidden_act", "gelu")]
            expected = F.layer_norm(activation(hidden), hidden.shape[-1:], eps=1e-12)
            expected = expected[..., : table.shape[1]] @ table.T
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    bias = output_bias(model)
    if bias is not None:  # what is added to it is added to the logits
        with torch.no_grad():
            bias += torch.arange(300)
            more = model(input_ids=ids).logits
        torch.testing.assert_close(more, expected + torch.arange(300), rtol=1e-3, atol=1e-3)
    model.save_pretrained(tmp_path / "whole")  # nothing is missing any more
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not info["missing_keys"]


def test_what_cannot_be_made_into_a_head_is_refused(tmp_path):
    encoder = save_encoder("bert", tmp_path)
    with pytest.raises(UserError, match=r"without a language-model head.*finetune.py --model /"):
        load_writer(str(tmp_path))
    with pytest.raises(UserError, match="without a language-model head"):
        Writer.from_model(encoder, load_tokenizer(str(tmp_path)))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer.0.output.dense.weight"]  # of the body
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 7 tensors"):
        load_masked_lm(str(tmp_path), base=True)
    tiny("bert", vocab=300).save_pretrained(tmp_path)
    tensors = load_file(path)
    del tensors["cls.predictions.transform.dense.weight"]  # a part of a head
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 1 tensors"):
        load_masked_lm(str(tmp_path), base=True)
