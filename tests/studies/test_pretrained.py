"""The study of four starts: its pieces against what is known, and the whole of it small."""

import argparse
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.kinds import tokenizer_of
from helpers.models import SENTENCES
from helpers.training import train_here
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from diffusion.models.loading import load_masked_lm
from studies import pretrained


def test_the_factor_is_how_many_times_as_many_tokens():
    fast = [[n, 3 - math.log(n)] for n in (1, 2, 4, 8)]
    slow = [[n, 3 - math.log(n / 3)] for n in (3, 12, 15)]
    assert pretrained.factor(fast, slow) == pytest.approx(3)
    assert pretrained.factor(fast, fast) == pytest.approx(1)
    assert pretrained.factor(slow, [[16, 0.0]]) is None  # it never gets there
    assert pretrained.factor(fast, [[6, 3.5]]) == 6  # before its first point: at least


def test_neighbours_are_of_one_text_and_others_are_not():
    texts = [" ".join(f"Text {n} has part {m}." for m in range(4)) for n in range(20)]
    pairs = pretrained.neighbours(texts, argparse.Namespace(seed=0, pairs=12))
    assert len(pairs) == 12 and sum(label for *_, label in pairs) == 6
    for a, b, label in pairs:
        (x, i), (y, j) = ((int(s.split()[1]), int(s[-2])) for s in (a, b))
        assert (x == y) == bool(label) and (not label or j == i + 1)


class Bag(torch.nn.Module):
    """Hidden states that are rows of a table, whatever stands beside them."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    @property
    def base_model(self):
        return self

    def forward(self, input_ids):
        return SimpleNamespace(last_hidden_state=self.table[input_ids])


def test_the_probe_finds_what_is_there_and_nothing_else():
    """Two sentences of one text share their words, in hidden states of words or of nothing."""
    words = [f"w{n}" for n in range(400)]
    ids = {word: n for n, word in enumerate(words)}
    draw = np.random.default_rng(0)

    def tokenizer(text, **_):
        return {"input_ids": [0, *(ids[word] for word in text.split()), 0]}

    pairs = []
    for n in range(240):
        a, b = (draw.choice(words[i::2], 6) for i in (0, 0 if n % 2 else 1))
        pairs.append((" ".join(a), " ".join(a if n % 2 else b), n % 2))
    table = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    accuracy, low, _ = pretrained.probe(Bag(table), tokenizer, pairs, 64)
    assert accuracy > 0.9 and low > 0.8
    accuracy, low, high = pretrained.probe(Bag(table * 0 + 1), tokenizer, pairs, 64)
    assert low <= 0.5 <= high


@pytest.fixture
def encoder(tmp_path):
    tokenizer = tokenizer_of("wordpiece")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.slow
def test_four_starts_from_flags_to_a_figure(encoder, tmp_path, monkeypatch, tiny_gpt2, capsys):
    text = tmp_path / "text.txt"
    turned = (SENTENCES[i % 4 :] + SENTENCES[: i % 4] for i in range(40))
    text.write_text(
        "\n\n\n".join(" ".join(f"{s[:-1]}, {i} times." for s in t) for i, t in enumerate(turned))
    )
    out, work = tmp_path / "out.json", tmp_path / "work"
    (tmp_path / "recipe.toml").write_text(
        "learning_rate = 1e-3\nuse_cpu = true\nmax_eval_blocks = 4\n"
    )
    flags = [encoder, "--dataset", text, "--eval_dataset", text, "--work", work, "--steps", 4,
             "--points", 2, "--warm", 0.5, "--block_size", 32, "--vocabulary", 300, "--batch_size", 2,
             "--head_steps", 2, "--passages", 4, "--pairs", 20, "--spans", 1, "--scorers", tiny_gpt2,
             "--recipe", tmp_path / "recipe.toml", "--output", out]  # fmt: skip
    commands = []

    def run_here(command):
        commands.append(command)
        return SimpleNamespace(returncode=train_here(*command[2:]))

    monkeypatch.setattr(pretrained.subprocess, "run", run_here)
    monkeypatch.setattr(sys, "argv", ["pretrained.py", *map(str, flags)])
    pretrained.main()
    rows = json.loads(out.read_text())["results"]
    assert [row["start"] for row in rows] == list(pretrained.STARTS) and len(commands) == 5
    for row in rows:
        tokens = [x for x, _ in row["curve"]]
        assert tokens == ([256] if row["start"] == "warm" else [128, 256])
        assert row["by_mask_rate"] and row["seconds_a_step"] > 0
        for name in ("probe_before", "probe_after", "accuracy_before", "accuracy_after"):
            value, low, high = row[name]
            assert 0 <= low <= value <= high <= 1
        assert set(row["spans"]["1"]) >= {"ROUGE-L", "exact", f"a token by {tiny_gpt2}"}
    assert rows[0]["factor"] == pytest.approx(1) and out.with_suffix(".png").exists()
    saved = {n: load_file(work / f"start-{n}/model.safetensors") for n in pretrained.STARTS}
    table, layer = "embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"
    bert = load_file(encoder / "model.safetensors")
    assert torch.equal(saved["pretrained"][layer], bert[layer])
    assert torch.equal(saved["embeddings"][table], saved["pretrained"][table])
    assert torch.equal(saved["embeddings"][layer], saved["random"][layer])
    assert torch.equal(saved["warm"][table], saved["random"][table])
    assert not torch.equal(saved["random"][table], saved["pretrained"][table])
    # Causal steps make it predict one slot to the left, which the others do not.
    shifts = {s: load_masked_lm(str(work / s)).config.diffusion["shift"] for s in pretrained.STARTS}
    assert shifts == {"pretrained": False, "random": False, "warm": True, "embeddings": False}
    first = capsys.readouterr().out
    assert first.count("python finetune.py") == 5 and "probe of the encoder itself" in first
    pretrained.main()  # nothing is trained twice
    assert len(commands) == 5
