"""Conversations -> which tokens are learned, held against the text that a template makes of them."""

import json
import re

import datasets
import pytest
import torch
from helpers.chat import TOKENS, WORDS, talk, write_jsonl
from transformers import AutoTokenizer

from diffusion.data.conversations import load_conversations, pack_conversations
from diffusion.data.packing import ANSWER, CONTEXT, PADDING
from diffusion.errors import UserError

TALKS = [
    talk("the river?", "the old town"),
    talk("one", "two", "three", "the stone bridge.", system="be short"),
    talk(" spaces ", "She opened\nthe window"),
    talk("no answer to the last", "yes", "more?"),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    names = [f"<|{name}|>" for name in ("system", "user", "assistant", "end")]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    return tokenizer


@pytest.mark.parametrize(
    ("template", "answer"),
    [(TOKENS, r"<\|assistant\|>(.*?<\|end\|>)"), (WORDS, r"A:(.*? END)")],
    ids=["tokens", "words"],
)
def test_what_is_learned_is_what_the_template_has_an_assistant_write(tokenizer, template, answer):
    """Found by the characters of the whole conversation, as one text."""
    tokenizer.chat_template = template
    packed = pack_conversations(TALKS, tokenizer, 64)
    assert packed.blocks.shape == packed.kinds.shape == (len(TALKS), 64)
    for row, kinds, messages in zip(packed.blocks, packed.kinds, TALKS, strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        spans = [found.span(1) for found in re.finditer(answer, text, re.DOTALL)]
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        learned = [
            any(start <= left and right <= end for start, end in spans)
            for left, right in whole["offset_mapping"]
        ]
        length = max(i for i, found in enumerate(learned) if found) + 1  # the rest is left out
        kept = kinds != PADDING
        assert row[kept].tolist() == whole["input_ids"][:length]
        assert (kinds[kept] == ANSWER).tolist() == learned[:length]
        assert set(kinds[kept].tolist()) == {CONTEXT, ANSWER}
        assert (row[~kept] == tokenizer.pad_token_id).all() and kept.sum() == length
    assert packed.tokens == (packed.kinds != PADDING).sum()


def test_special_tokens_are_the_templates_alone(tokenizer):
    tokenizer.chat_template = TOKENS
    said = "write <mask>, <|end|> or </s>"
    packed = pack_conversations([talk(said, said)], tokenizer, 128)
    text = packed.blocks[0][packed.kinds[0] != PADDING]
    special = torch.isin(text, torch.tensor(tokenizer.all_special_ids))
    names = tokenizer.convert_ids_to_tokens(text[special].tolist())
    assert names == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
    assert tokenizer.decode(text) == f"<|user|>{said}<|end|>\n<|assistant|>{said}<|end|>"


def test_what_an_assistant_says_first_is_given(tokenizer):
    tokenizer.chat_template = TOKENS
    first = {"role": "assistant", "content": "I begin"}
    packed = pack_conversations([[first, *talk("and I", "you too")], [first, first]], tokenizer, 64)
    learned = [
        tokenizer.decode(b[k == ANSWER]) for b, k in zip(packed.blocks, packed.kinds, strict=True)
    ]
    assert learned == ["you too<|end|>", "I begin<|end|>"]


def test_what_is_too_long_is_cut_after_an_answer_or_left_out(tokenizer, capsys):
    tokenizer.chat_template = TOKENS
    short = talk("one", "two")
    long = talk("one", "two", "three", "the old town " * 9)
    hopeless = talk("the old town " * 9, "two")
    packed = pack_conversations([short, long, hopeless, talk("one")], tokenizer, 24)
    assert len(packed) == 2
    assert torch.equal(packed.blocks[0], packed.blocks[1])
    said = capsys.readouterr().err
    assert "of 4 conversations 1 were cut" in said and "2 left out" in said
    assert len(pack_conversations([short] * 5, tokenizer, 24, most=3)) == 3
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="validation set has no conversation with an answer"):
        pack_conversations([hopeless], tokenizer, 24, "validation set")


REFUSED = [
    (None, "has no chat template"),
    ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "writes nothing after an answer"),
    ("{{ raise_exception('no such role') }}", "refuses the conversation: no such role"),
    ("{% for m in messages %}{{ m['content'] }}{% if loop.last %} END{% endif %}{% endfor %}",
     "changes a conversation when it continues"),
    (TOKENS + "{% if add_generation_prompt %}<think>{% endif %}", "changes a conversation"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "said"), REFUSED)
def test_templates_that_cannot_be_learned_are_refused(tokenizer, template, said):
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=said) as error:
        pack_conversations([talk("one", "two", "three", "four")], tokenizer, 64)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- files


def test_conversations_are_read_from_lines_and_tables(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", TALKS)
    assert load_conversations(str(path)) == TALKS
    extra = [{**talk("a", "b")[0], "name": "x", "weight": 3}]
    (tmp_path / "b.jsonl").write_text("\n" + json.dumps({"chat": extra, "id": 1}) + "\n\n")
    assert load_conversations(str(tmp_path / "b.jsonl"), column="chat") == [talk("a")]
    datasets.Dataset.from_dict({"messages": TALKS}).to_parquet(tmp_path / "c.parquet")
    assert load_conversations(str(tmp_path / "c.parquet")) == TALKS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"messages": [\n', "line 1 of .*a.jsonl is no JSON"),
        (
            "a.jsonl",
            '{"messages": []}\n{"text": "x"}\n',
            "line 2 of .*a.jsonl has no column 'messages'",
        ),
        ("a.jsonl", "[1]\n", "line 1 of .*a.jsonl is a list"),
        ("a.jsonl", '{"messages": "hello"}', "is not a conversation"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "is not a conversation"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": [1]}]}', "is not a conversation"),
        ("a.jsonl", '{"messages": ["hello"]}', "is not a conversation"),
        ("a.jsonl", "", "cannot read|has no conversations in its train split"),
        ("a.txt", "Hello.", r"a.txt has no conversations; --chat reads JSON lines"),
        ("a.json", '[{"text": "x"}]', r"no column 'messages' \(it has text\).*--text_column"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as error:
        load_conversations(str(tmp_path / name))
    assert "\n" not in str(error.value)
