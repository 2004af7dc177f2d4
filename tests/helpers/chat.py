"""Tiny models that have a chat template, and conversations for them."""

import json
from pathlib import Path

from transformers import AutoModelForMaskedLM, AutoTokenizer

# Special tokens.
TOKENS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Words, where the space before an answer is the model's to write.
WORDS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] | trim }}{{ '\\n' }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}!{{ '\\n' }}{% else %}"
    "A: {{ m['content'] }} END{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)


def save_chat(source: Path, folder: Path, template: str | None) -> Path:
    """The model and the tokenizer of a folder with the tokens of `TOKENS` and a template."""
    model = AutoModelForMaskedLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = [f"<|{name}|>" for name in ("system", "user", "assistant", "end")]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.chat_template = template
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation of a user and an assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": c} for role, c in zip(roles, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


def write_jsonl(path: Path, conversations: list) -> Path:
    path.write_text("".join(json.dumps({"messages": c}) + "\n" for c in conversations))
    return path
