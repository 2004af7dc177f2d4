"""The scripts with models whose tokenizers are not byte-level: given text comes back."""

import html
import json
import re
from types import SimpleNamespace

import pytest
import torch
from helpers.kinds import tokenizer_of
from helpers.models import save_model
from helpers.terminals import records
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

import compare
import diffusion
import gpt2_inference
import inference
from diffusion.generate import load_writer
from diffusion.options import GenerationOptions
from diffusion.views.frames import written_text
from diffusion.views.record import unpack
from studies.board.board import write_batch

TEXT = "It's  5,000 m, 日本 (3 ft) old."
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32, "max_position_embeddings": 80}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("families")
    save_model(base / "bert", BertForMaskedLM, BertConfig, tokenizer_of("wordpiece"), **SHAPE)
    save_model(
        base / "albert", AlbertForMaskedLM, AlbertConfig, tokenizer_of("unigram, uncased"),
        embedding_size=8, **SHAPE,
    )  # fmt: skip
    save_model(
        base / "gpt2", GPT2LMHeadModel, GPT2Config, tokenizer_of("unigram"),
        n_embd=16, n_layer=2, n_head=2, n_positions=80, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return base


@pytest.fixture(params=["bert", "albert"])
def name(request):
    return request.param


@pytest.fixture
def call(run_script, kept_models, folders, name):
    def call(*arguments, **typed):
        flags = ["--model", folders / name, "--max_len", "60", "--dtype", "float32"]
        code, out, err = run_script(inference, *flags, *arguments, **typed)
        assert code == 0, err
        return out, err

    return call


def test_every_way_in_gives_the_text_back(call, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{TEXT}\nThe river 日本.\nThe river\n", encoding="utf-8")
    for task in (
        [TEXT, "--length", "3"],
        ["--infill", TEXT + " <mask:2>"],
        ["--interpolate", TEXT, "The river.", "--points", "2"],
        ["--score", lines],
    ):
        assert TEXT in call(*task)[0]
    out, err = call("--rewrite", TEXT, "--strength", "0")
    assert out == TEXT + "\n\n" and "nothing changed" in err


def test_json_page_and_python_show_one_text(call, folders, name, tmp_path):
    target = tmp_path / "text.html"
    given = '  The  "river" (3 ft), naïve'
    out, _ = call(given, "--length", "12", "--json", "--save_animation", target)
    (record,) = records(out)
    assert record["prompt"] == given and record["text"].startswith(given)
    (body,) = re.findall(
        r'<div class="text"[^>]*>(.*?)</div>', target.read_text("utf-8"), re.DOTALL
    )
    shown = html.unescape(re.sub("<[^>]*>", "", body))
    assert shown == record["text"].lstrip(" ")  # no room at the beginning of a line
    writer = diffusion.load(str(folders / name), dtype="float32")
    (text,) = diffusion.write(writer, [given], length=12, max_len=60)
    assert text == record["text"]


def test_the_loop(call):
    typed = ["/set length 3", TEXT, "/infill  The  <mask:1> 日本 ", "/set strength 0",
             f"/rewrite {TEXT} "]  # fmt: skip
    first, second, third, _ = call(typed=typed)[0].split("\n\n")
    assert first.startswith(TEXT)
    assert second.startswith(" The  ") and second.endswith(" 日本 ")
    assert third == TEXT + " "


def test_gpt2_keeps_prompts_of_different_lengths(run_script, folders):
    lines = f"{TEXT}\nThe  river\n".encode()
    flags = ["--model", folders / "gpt2", "--length", "4", "--json", "--max_len", "70"]
    code, out, err = run_script(gpt2_inference, *flags, stdin=lines)
    assert code == 0, err
    for record in records(out):
        assert record["text"].startswith(record["prompt"])
        assert len(record["text"]) > len(record["prompt"])


def test_a_comparison_has_the_prompt_on_both_sides(run_script, folders):
    flags = ["--model", folders / "bert", "--baseline", folders / "gpt2", "--length", "3"]
    code, out, err = run_script(
        compare, TEXT, *flags, "--repeats", "1", "--json", "--max_len", "70"
    )
    assert code == 0, err
    for side in json.loads(out)["sides"]:
        frames = unpack(side["frames"])
        assert frames[0].text == TEXT
        assert frames[-1].text == side["text"] and side["text"].startswith(TEXT)


def test_the_texts_of_a_scoreboard_are_what_stands_behind_the_prompt(folders):
    writer, prompts = load_writer(str(folders / "bert"), dtype="float32"), [TEXT, "The  river "]
    options = GenerationOptions(length=8, max_len=60, sampler="confidence")
    row = SimpleNamespace(options=options, model="bert")
    for window in (8, 3):
        board = SimpleNamespace(
            prompts=lambda row: prompts, window=lambda row, n=window: n, writers={"bert": writer}
        )
        samples = write_batch(board, row, range(2))
        *_, last = writer.generate(prompts, options, [0, 1])
        texts = [written_text(writer.tokenizer, last, i) for i in range(2)]
        assert [len(sample["ids"]) for sample in samples] == [window] * 2
        for sample, text in zip(samples, texts, strict=True):
            assert text.startswith(sample["prompt"] + sample["text"])
            assert (text == sample["prompt"] + sample["text"]) == (window == 8)


def test_a_model_that_writes_in_order_begins_a_text_with_a_word(folders):
    """Speculation reads the rule of the first token, too."""
    tokenizer = tokenizer_of("wordpiece")
    writer = load_writer(str(folders / "bert"), dtype="float32")
    pieces = [t.startswith("##") for t in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    seen = []
    for sampler in ("speculative", "causal", "confidence"):
        options = GenerationOptions(
            length=5, max_len=60, sampler=sampler, attention="block", top_k=0, top_p=1.0
        )
        *_, last = writer.generate([""] * 40, options, range(40))
        continues = torch.tensor(pieces)[last.ids[:, 1:]]
        assert not continues[:, 0].any()
        seen.append(continues[:, 1:].any().item())
    assert all(seen)  # they are forbidden there alone
