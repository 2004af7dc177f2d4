"""A model that comes with Python code of its own."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusion.models.tokenizers import train_tokenizer

TEXT = "The cat sat on the mat.\nAnd looked  at the other cat, 12 times!\n"
VOCAB = 280
CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

open({trace!r}, "a").close()


class TinyConfig(PretrainedConfig):
    model_type = "tiny-mdlm"

    def __init__(self, vocab_size=281, model_length=24, **more):
        self.vocab_size, self.model_length = vocab_size, model_length
        super().__init__(**more)


class TinyMDLM(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, 8)
        self.mix = torch.nn.Linear(8, 8)
        self.out = torch.nn.Linear(8, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, timesteps):
        assert timesteps.shape == input_ids.shape[:1]
        x = self.table(input_ids)
        x = self.mix(x + x.mean(1, keepdim=True))
        return MaskedLMOutput(logits=self.out(x))
"""


def save_mdlm(folder: Path, trace: Path) -> str:
    """A folder as MDLM's is: a model with a time input, and one more token than its tokenizer has,
    which is the mask. Its code makes the file ``trace`` when it is run."""
    folder.mkdir()
    (folder / "modeling_tiny.py").write_text(CODE.replace("{trace!r}", repr(str(trace))))
    generator = torch.Generator().manual_seed(0)
    shapes = {"table.weight": (281, 8), "mix.weight": (8, 8), "mix.bias": (8,),
              "out.weight": (281, 8), "out.bias": (281,)}  # fmt: skip
    tensors = {n: torch.randn(*shape, generator=generator) for n, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code = {
        "AutoConfig": "modeling_tiny.TinyConfig",
        "AutoModelForMaskedLM": "modeling_tiny.TinyMDLM",
    }
    config = {"model_type": "tiny-mdlm", "vocab_size": 281, "model_length": 24, "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config))
    train_tokenizer([TEXT * 9], VOCAB).save_pretrained(folder)
    name_no_mask(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<mask>", "<other>"))
    return str(folder)


def name_no_mask(folder: Path) -> None:
    """The tokenizer of a folder no longer says which of its tokens is the mask."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["mask_token"]
    path.write_text(json.dumps(settings))
