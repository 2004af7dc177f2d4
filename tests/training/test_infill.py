"""finetune.py --infill: only blanks are learned, by both objectives; what it refuses."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from diffusion.data.blanks import pack_blanks
from diffusion.data.packing import ANSWER, PADDING
from diffusion.errors import UserError

TEXTS = [["the ", "old", " town"], ["", "the river", "\nand the ", "mill"], ["a"]]
ROWS = [{"parts": parts} for parts in (*TEXTS[:2], *TEXTS[:2], *TEXTS[:2])]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_blocks_and_kinds(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    packed = pack_blanks(TEXTS[:2], tokenizer, 40)
    learned = [tokenizer.decode(row[kinds == ANSWER]) for row, kinds in _both(packed)]
    assert learned == [" old", "the river mill"]  # the space before a blank is part of it
    whole = [tokenizer.decode(row[kinds != PADDING][1:]) for row, kinds in _both(packed)]
    assert whole == ["".join(parts) for parts in TEXTS[:2]]
    assert packed.blocks.shape == (2, 40) and (packed.blocks[:, 0] == tokenizer.bos_token_id).all()
    short = int((packed.kinds[0] != PADDING).sum())
    assert len(pack_blanks(TEXTS[:2], tokenizer, short)) == 1
    with pytest.raises(UserError, match="no text of at most 2 tokens"):
        pack_blanks(TEXTS[:2], tokenizer, 2)


def _both(packed):
    return zip(packed.blocks, packed.kinds, strict=True)


@pytest.mark.parametrize("objective", ["diffusion", "causal"])
def test_blanks_alone_are_learned(run, tiny_model, texts, seen, objective):
    shape = "layers=1,width=16,heads=2,vocab=300"
    start = ["--config", shape + ",type=gpt2" * (objective == "causal"), "--tokenizer", tiny_model]
    flags = ["--objective", objective, "--infill", "--dataset", texts, "--eval_dataset", texts]
    out, _ = run(*flags, "--max_steps", 4, start=start)
    tokenizer, learned = AutoTokenizer.from_pretrained(out), 0
    packed = pack_blanks(TEXTS[:2], tokenizer, 32)
    for batch in seen:
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            here = labels != -100
            texts = torch.where(here, labels, ids) == packed.blocks
            kinds = packed.kinds[(texts | (packed.kinds == PADDING)).all(1)][0]
            assert not (here & (kinds != ANSWER)).any()
            assert objective == "diffusion" or torch.equal(here, kinds == ANSWER)
            learned += here.sum()
    assert learned > 10
    config = json.loads((out / "config.json").read_text())
    assert config["diffusion"]["prefix_len"] == 1 and "chat" not in config["diffusion"]
    assert "| learned | only the blanks of texts |" in (out / "README.md").read_text()


def test_what_cannot_be_is_refused(refused, tiny_model, texts, text):
    model = ["--model", tiny_model]
    for flags, words in {
        ("--dataset", texts, "--chat"): ["--infill reads texts with blanks", "--chat"],
        ("--dataset", texts, "--layouts", "causal"): ["masks blanks on the full canvas"],
        ("--dataset", texts, "--block_size", 8, "--text_column", "no"): ["no column 'no'"],
        ("--dataset", text): ["no texts with blanks", '{"parts": ['],
    }.items():
        refused(["--infill", *flags], *words, start=model)
    refused(["--infill", "--dataset", texts], "needs a tokenizer that knows its parts")
