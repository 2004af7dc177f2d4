"""Models and tokenizers are found, refused in one sentence, or loaded whole."""

import json
import math
import shutil
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from helpers.families import tiny
from helpers.others import name_no_mask
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, GPT2Config, GPT2LMHeadModel

from diffusion.cli import files
from diffusion.data import corpus
from diffusion.errors import UserError
from diffusion.models import hub, loading, tokenizers

TEXT = ["The cat sat on the mat.\nAnd looked  at the other cat, 12 times!\n" * 10]
VOCABULARY = 280


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_tokenizer(TEXT, VOCABULARY)


@pytest.fixture(scope="module")
def good(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / "good"
    tiny("roberta", VOCABULARY).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the good model to spoil."""
    return Path(shutil.copytree(good, tmp_path / "model"))


def load(name):
    tokenizer = tokenizers.load_tokenizer(str(name))
    return loading.load_masked_lm(str(name), tokenizer), tokenizer


def refusal(name, capfd) -> str:
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        load(name)
    assert capfd.readouterr() == ("", "")  # the one sentence is all there is to read
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


# ---------------------------------------------------------------- what loads


def test_a_good_folder_loads_silently(folder, capfd):
    model, tokenizer = load(folder)
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    saved = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, saved[name])
    assert tokenizer.mask_token_id == 4


def test_half_precision_is_loaded_as_float32(folder, good):
    model = AutoModelForMaskedLM.from_pretrained(good).half()
    model.save_pretrained(folder)
    loaded, _ = load(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.lm_head.dense.weight, model.lm_head.dense.weight.float())


def test_names_in_weights_are_found(folder, monkeypatch):
    monkeypatch.setattr(hub, "WEIGHTS", folder.parent)
    assert hub.resolve("model") == (str(folder), True)
    assert hub.resolve(str(folder)) == (str(folder), True)
    assert hub.resolve("roberta-base") == ("roberta-base", False)
    assert hub.resolve("someone/model") == ("someone/model", False)


# ---------------------------------------------------------------- what is refused


def changed_config(**changes):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def changed_head(value):
    """``value``: of one number in a matrix of the head; None: there is no such matrix."""

    def spoil(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        head = tensors.pop("lm_head.dense.weight")
        if value is not None:
            head[3, 5] = value
            tensors["lm_head.dense.weight"] = head
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def written(name, content):
    return lambda folder: (folder / name).write_text(content)


def cut(size):
    def spoil(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def causal(folder):
    size = {"n_positions": 20, "n_embd": 8, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **size)).save_pretrained(folder)


SPOILED = [
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    *[(written("config.json", text), "cannot read the")
      for text in ("{", "[]", "{}", '{"model_type": "no-such-model"}')],
    (changed_config(num_hidden_layers=10**9), "its num_hidden_layers is larger"),
    (changed_config(hidden_size=8), "cannot read the weights"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    (written("tokenizer.json", '{"version": '), "cannot read the tokenizer"),
    (name_no_mask, "no mask token"),
    (causal, "a 'gpt2' model, which was not trained to fill masks; train it"),
    *[(cut(size), "cannot read the weights") for size in (0, 500, -1)],
    *[(changed_head(value), "NaN or infinity (lm_head.dense.weight)")
      for value in (math.nan, math.inf)],
    (changed_head(None), "lack 1 tensors"),
    (lambda folder: save_file({"a": torch.ones(2)}, folder / "model.safetensors",
                              metadata={"format": "pt"}), "lack"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors file"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_a_spoiled_folder_is_refused_in_one_sentence(folder, spoil, words, capfd):
    spoil(folder)
    assert words in refusal(folder, capfd)


def test_missing_folders(tmp_path, capfd):
    for name in (tmp_path / "nothing", "weights/nothing", "a/b/c"):
        assert "does not exist" in refusal(name, capfd)
    (tmp_path / "file").touch()
    assert "is a file" in refusal(tmp_path / "file", capfd)


@pytest.mark.parametrize("size", [270, 281, 700])
def test_a_tokenizer_of_another_size(folder, size, capfd):
    tiny("roberta", size).save_pretrained(folder)
    if 0 <= size - VOCABULARY < 128:  # as RoBERTa's rows of padding: never written
        assert load(folder)[0].config.vocab_size == size
    else:
        message = refusal(folder, capfd)
        assert f"has {VOCABULARY} tokens" in message and str(size) in message


def test_a_missing_shard(folder, capfd):
    model = AutoModelForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    load(folder)
    shards[-1].unlink()
    assert "cannot read the weights" in refusal(folder, capfd)


def test_pickled_weights_are_refused_and_never_opened(folder, good, tmp_path, capfd):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "opened"), "w")

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    message = refusal(folder, capfd)
    assert "pickled weights" in message and "save_pretrained" in message
    assert not (tmp_path / "opened").exists()
    # The command that the refusal gives.
    state = AutoModelForMaskedLM.from_pretrained(good).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "new")
    loading.load_masked_lm(str(tmp_path / "new"))


def test_an_unreachable_hub_is_one_sentence_and_soon(monkeypatch, capfd):
    """The hub is a port where nobody listens; it is asked once, then only the cache is used."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.ask_hub_once.cache_clear()
    started = time.monotonic()
    for load_one in (loading.load_config, tokenizers.load_tokenizer, loading.load_masked_lm):
        with pytest.raises(
            UserError, match=r"'no/such-model' from the hub: http\S* does not answer"
        ):
            load_one("no/such-model")
    with pytest.raises(UserError, match=r"cannot get data set .* does not answer"):
        corpus.load_documents("no/such-texts")
    assert time.monotonic() - started < 10
    assert huggingface_hub.is_offline_mode()
    assert datasets.config.HF_HUB_OFFLINE
    assert capfd.readouterr() == ("", "")
    hub.ask_hub_once.cache_clear()


# ---------------------------------------------------------------- tokenizer


def test_the_tokenizer_survives_its_folder(tokenizer, good):
    loaded = tokenizers.load_tokenizer(str(good))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in (*TEXT, " a <mask> b", "d\u00e9j\u00e0\u200d \u65e5\u672c\u8a9e\r\n\t\x00", ""):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    names = ("bos", "pad", "eos", "unk", "mask", "cls", "sep")
    ids = [getattr(loaded, f"{name}_token_id") for name in names]
    assert ids == [0, 1, 2, 3, 4, 0, 2]


def test_forbidden_ids(tokenizer):
    assert tokenizers.forbidden_ids(tokenizer, VOCABULARY) == [0, 1, 3, 4]  # </s> ends a text
    assert tokenizers.forbidden_ids(tokenizer, VOCABULARY + 2) == [0, 1, 3, 4, 280, 281]


def test_tokens_that_stand_for_no_text_are_forbidden():
    own = tokenizers.train_tokenizer(TEXT, VOCABULARY)
    fillers = ["madeupword0000", "[unused0]", "[unused99]", "<unused7>", "<extra_id_3>", "▁<extra_id_3>",
               "<s>NOTUSED", "<|reserved_special_token_5|>"]  # fmt: skip
    own.add_tokens([*fillers, "madeupword", "madeupwords", "[unused", "unused1", "reserved", "<b>"])
    own.add_tokens(["<image>"], special_tokens=True)  # special, though it has no part of its own
    forbidden = tokenizers.forbidden_ids(own, len(own))
    names = own.convert_ids_to_tokens(forbidden)
    assert names[:4] == ["<s>", "<pad>", "<unk>", "<mask>"]
    assert names[4:] == [*fillers, "<image>"]


# ---------------------------------------------------------------- writing


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "model"

    def write(folder):
        (folder / "a").write_text("new a")
        (folder / "b").write_text("new b")

    def fail(folder):
        write(folder)
        raise RuntimeError("No space left on device")

    def content():
        return {path.name: path.read_text() for path in target.iterdir()}

    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        files.write_folder(target, fail)
    assert content() == {}
    before = {"a": "old a", "other": "kept"}
    for name, text in before.items():
        (target / name).write_text(text)
    with pytest.raises(UserError):
        files.write_folder(target, fail)
    assert content() == before
    (target / ".writing-model").mkdir()  # by a process that was killed
    (target / ".writing-model" / "half").touch()
    files.write_folder(target, write)
    assert content() == {"a": "new a", "b": "new b", "other": "kept"}


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    files.write_text(target, "old é")

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        files.write_text(target, "new text")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old é"]
