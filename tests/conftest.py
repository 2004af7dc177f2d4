"""A tiny model in a folder, as finetune.py leaves it; its text is noise, its interfaces are real."""

import io
import os
import sys

import pytest

# Tiny tensors: a second thread costs more than it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SENTENCES = [
    "The river runs through the old town and under the stone bridge.",
    "She opened the window and listened to the rain on the roof.",
    "In 1887 the railway reached the valley, and the mill was built.",
    'He said: "We never saw the ship again," and closed the book.',
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a random 2-layer RoBERTa with 64 positions and its own tokenizer."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    from diffusion.models.tokenizers import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer(SENTENCES * 3, 320)
    torch.manual_seed(0)
    model = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=320,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64 + 2,
            type_vocab_size=1,
            initializer_range=0.3,  # large, so that predictions differ from each other
        )
    )
    model.config.diffusion = {"objective": "diffusion", "shift": True, "prefix_len": 1}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, tiny_model):
    """Folder of a random 2-layer GPT-2 with 64 positions and the tokenizer of `tiny_model`."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=320,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=2,
        )
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script in this process: (module, its arguments) -> (exit code, standard output,
    standard error)."""
    from diffusion.errors import run

    def run_script(script, *arguments, stdin: bytes = b"", typed: list[str] | None = None):
        """``typed``: lines of somebody who sits at a terminal, instead of ``stdin`` from a pipe."""
        stream = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        if typed is not None:
            stream.isatty = lambda: True
            lines = iter([*typed, "", ""])
            monkeypatch.setattr("builtins.input", lambda *_: next(lines))
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", stream)
        code = 0
        try:
            run(script.main)
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run_script
