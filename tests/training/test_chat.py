"""finetune.py --chat: what it learns, what its bound is of, what it refuses."""

import itertools
import json

import pytest
import torch
from helpers.chat import TOKENS, save_chat, talk, write_jsonl
from helpers.training import SIZE, assert_same_weights, losses, state
from transformers import AutoModelForMaskedLM, AutoTokenizer

from diffusion.training.trainer import DiffusionTrainer

CHAT = ["--chat", "--prefix_len", 16, "--max_eval_blocks", 4]  # of a text, not of answers


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    return save_chat(tiny_model, tmp_path_factory.mktemp("chat") / "model", TOKENS)


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """Questions whose answer is their last word, and one more turn."""
    words = ["river", "town", "bridge", "rain", "roof", "mill"]
    found = [talk(f"the {a} {b}", b, "again", b) for a, b in itertools.permutations(words, 2)]
    return write_jsonl(tmp_path_factory.mktemp("talks") / "talks.jsonl", found)


@pytest.mark.slow
def test_a_run_sees_and_learns_answers(run, model, talks, seen):
    out, _ = run(*CHAT, "--dataset", talks, "--num_train_epochs", 7, "--learning_rate", "1e-2",
                 "--block_size", 40, "--ema", 0.9, start=["--model", model])  # fmt: skip
    curve = list(losses(out).values())
    assert sum(curve[-9:]) < 0.7 * sum(curve[:9])
    config = json.loads((out / "config.json").read_text())
    assert config["diffusion"]["chat"] is True and config["diffusion"]["prefix_len"] == 1
    assert "| learned | only the answers of conversations |" in (out / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == TOKENS

    # Found by the tokens around them: answers stand from <|assistant|> to <|end|>.
    opens, ends = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    masked = 0
    for batch in seen:
        labels, ids = batch["labels"], batch["input_ids"]
        text = torch.where(labels == -100, ids, labels)
        for row, hidden, read in zip(text, labels != -100, batch["attention_mask"], strict=True):
            answer, inside = [], False
            for token in row.tolist():
                answer.append(inside)
                inside = token == opens or (inside and token != ends)
            assert not (hidden & ~torch.tensor(answer)).any()
            masked += hidden.sum()
            assert not read[row == tokenizer.pad_token_id].any()
            assert read[row != tokenizer.pad_token_id].all()
    assert masked > 500


def test_padding_is_not_attended_to(run, model, talks, monkeypatch):
    """A run whose padding holds something else is the same run."""
    prepare = DiffusionTrainer._prepare_inputs

    def spoiled(self, inputs):
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 77)
        return prepare(self, inputs)

    flags, start = (
        [*CHAT, "--dataset", talks, "--max_steps", 3, "--block_size", 40],
        ["--model", model],
    )
    one, _ = run(*flags, name="one", start=start)
    monkeypatch.setattr(DiffusionTrainer, "_prepare_inputs", spoiled)
    two, _ = run(*flags, name="two", start=start)
    assert losses(one) == losses(two)
    assert_same_weights(one / "model.safetensors", two / "model.safetensors")


@pytest.mark.slow
def test_the_bound_is_of_answers_on_a_canvas_of_a_block(run, model, tmp_path):
    """Against the sum over all mask patterns, with logits of the library's own model."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    talks = [talk("the river", "a"), talk("the old", "b")]
    path = write_jsonl(tmp_path / "talks.jsonl", talks)
    out, _ = run(*CHAT, "--dataset", path, "--eval_dataset", path, "--shift", "no", "--eval_draws", 64,
                 "--block_size", 24, "--max_steps", 1, "--learning_rate", 0,
                 start=["--model", model])  # fmt: skip
    network, expected = AutoModelForMaskedLM.from_pretrained(out).eval(), []
    for messages in talks:
        ids = tokenizer.apply_chat_template(messages)["input_ids"][:-1]  # without the last newline
        answer = [len(ids) - 2, len(ids) - 1]
        bound = 0.0
        for k in (1, 2):
            for hidden in itertools.combinations(answer, k):
                canvas = torch.tensor([ids + [tokenizer.mask_token_id] * (24 - len(ids))])
                canvas[0, list(hidden)] = tokenizer.mask_token_id
                with torch.no_grad():
                    log_p = network(input_ids=canvas).logits[0].log_softmax(-1)
                nats = -sum(log_p[i, ids[i]].item() for i in hidden)
                bound += nats / k / (2 if k == 1 else 1)
        expected.append(bound / 2)
    found = state(out)["log_history"][-1]["eval_nats_per_token"]
    assert found == pytest.approx(sum(expected) / 2, rel=0.02)


def test_soft_masking_may_remember_the_end_of_an_answer(run, model, talks, monkeypatch):
    seen = []
    reader = DiffusionTrainer.reader

    def record(self, backbone):
        found = reader(self, backbone)
        seen.append(set(found.forbidden.tolist()))
        return found

    monkeypatch.setattr(DiffusionTrainer, "reader", record)
    run(*CHAT, "--dataset", talks, "--soft_masking", "--max_steps", 2, "--block_size", 40,
        start=["--model", model])  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    user, end = tokenizer.convert_tokens_to_ids(["<|user|>", "<|end|>"])
    assert all(end not in forbidden and user in forbidden for forbidden in seen)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--block_size", 8], ["no conversation with an answer that fits into 8 tokens"]),
        (["--text_column", "talk"], ["no column 'talk'"]),
    ],
)
def test_what_cannot_be_is_refused(refused, model, talks, flags, words):
    refused([*CHAT, "--dataset", talks, *flags], *words, start=["--model", model])


def test_a_tokenizer_without_a_template_is_refused(refused, tiny_model, talks):
    for start, said in ((["--model", tiny_model], str(tiny_model)), (SIZE, "--tokenizer")):
        refused([*CHAT, "--dataset", talks], "chat template", said, start=start)
