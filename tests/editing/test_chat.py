"""Conversations of inference.py --chat, with chat templates set on tiny models."""

import re
from types import SimpleNamespace

import pytest
import torch
from helpers.chat import TOKENS, WORDS, save_chat, talk
from helpers.terminals import records, refused
from transformers import AutoModelForMaskedLM, AutoTokenizer

import diffusion
import inference
from diffusion import rng
from diffusion.canvas import Canvas, encode
from diffusion.denoise import denoise
from diffusion.editing.chat import Chat
from diffusion.editing.options import EditingOptions
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.views.frames import Framer

SMALL = ["--max_len", "64", "--length", "8", "--dtype", "float32"]


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_model):
    """Folder of a model with the template `WORDS`."""
    return save_chat(tiny_model, tmp_path_factory.mktemp("chat") / "words", WORDS)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, tiny_model):
    """Folder of somebody else's model with the template `TOKENS`, and a liking for the end of an
    answer."""
    folder = save_chat(tiny_model, tmp_path_factory.mktemp("chat") / "tokens", TOKENS)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    del model.config.diffusion
    model.lm_head.bias.data[-1] = 7
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def call(run_script, kept_models, words):
    def call(*arguments, **typed):
        return run_script(inference, "--chat", *arguments, "--model", words, *SMALL, **typed)

    return call


def chat_of(folder, system=None, **options) -> Chat:
    """A `Chat` without a script around it."""
    generation = GenerationOptions(**{"max_len": 64, **options})
    job = SimpleNamespace(writer=diffusion.load(str(folder)), generation=generation)
    return Chat(job, EditingOptions(chat=True, system=system))


# ---------------------------------------------------------------- what stands before an answer


def test_the_conversation_is_what_the_template_makes_of_it(tokens):
    chat = chat_of(tokens, system="Be kind")
    messages = talk("The river?", "Yes.", "And she?", system="Be kind")
    theirs = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert chat.template.prompt(messages) == theirs["input_ids"]


def test_the_oldest_turns_go_and_the_system_stays(words):
    turns = talk(*(f"The river {i}" for i in range(8)))
    chat = chat_of(words, system="Be", max_len=64, length=8)
    messages, ids = chat.fit(turns, "She?")
    assert messages[0]["content"] == "Be" and messages[-1] == talk("She?")[0]
    kept = messages[1:-1]
    assert 0 < len(kept) < 8 and kept == turns[-len(kept) :] and len(kept) % 2 == 0
    assert len(ids) == len(chat.template.prompt(messages)) <= 56
    assert len(chat.template.prompt([messages[0], *turns[-len(kept) - 2 :], messages[-1]])) > 56
    # Without a length a quarter is kept free while there are turns to leave out; then any will do.
    chat = chat_of(words, max_len=64)
    assert len(chat.fit(turns, "She?")[1]) <= 48
    long = "river " * 24
    assert chat.fit(turns, long)[0] == talk(long)
    assert 48 < len(chat.template.prompt(talk(long))) < 64


# ---------------------------------------------------------------- what is written


def test_an_answer_is_the_model_s_own_behind_that_text(call, words):
    """The same by hand: the text of the template, its tokens, masks, the loop."""
    question = "And the  bridge?"
    code, out, _ = call(question, "--json", "--sampler", "confidence", "--n_steps", "3")
    (record,) = records(out)
    writer = diffusion.load(str(words))
    tokenizer = writer.tokenizer
    masks = [tokenizer.mask_token_id] * 8
    ids = torch.tensor([[*encode(tokenizer, f"Q: {question}\nA:"), *masks]])
    given = ids != tokenizer.mask_token_id
    canvas, sampler = Canvas(ids, given, torch.zeros_like(given)), make_sampler("confidence", 3)
    *_, last = denoise(
        canvas, writer.denoiser, sampler, Sampling(1.0, 50, 0.95), rng.row_keys(0, [0])
    )
    answer = last.ids[0, -8:].tolist()
    if tokenizer.eos_token_id in answer:
        answer = answer[: answer.index(tokenizer.eos_token_id) + 1]
    assert code == 0 and record["ids"] == answer
    text = tokenizer.decode(answer, skip_special_tokens=True).partition("END")[0].strip()
    assert record["text"] == text and record["nfe"] == 3
    assert record["messages"] == talk(question, text)
    # What is shown is the answer alone.
    assert call(question, "--sampler", "confidence", "--n_steps", "3")[1] == text + "\n\n"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("causal", ["--attention", "block"]),
        ("remdm", ["--block_length", "3"]),
        ("wino", ["--attention", "block", "--block_length", "3"]),
    ],
)
def test_every_sampler_answers(call, name, more):
    code, out, err = call("The river?", "--json", "--sampler", name, *more)
    (record,) = records(out)
    assert code == 0, err
    assert 1 <= len(record["ids"]) <= 8 and 4 not in record["ids"]
    assert len(record["ids"]) == 8 or record["ids"][-1] == 2


def test_questions_of_a_pipe_are_conversations_of_their_own(call):
    lines = b"The river?\nShe opened </s> the window, did she?\n"
    together = records(call("--json", "--num_samples", "2", stdin=lines)[1])
    assert [len(r["messages"]) for r in together] == [2] * 4
    assert [r["sample"] for r in together] == [0, 1, 0, 1]
    (alone,) = records(call("She opened </s> the window, did she?", "--json")[1])
    assert alone["ids"] == together[2]["ids"]
    assert alone["messages"] == together[2]["messages"]


def test_the_loop_goes_on_from_its_own_answers(call):
    typed = ["The river?", "And  she?", "/again", "/help", "/infill a <mask:2>", "/reset", "/again"]
    code, out, err = call("--json", "--system", "Be kind", typed=[*typed, "The river?"])
    first, second, again, anew = records(out)
    assert code == 0
    assert first["messages"] == talk("The river?", first["text"], system="Be kind")
    assert second["messages"] == first["messages"] + talk("And  she?", second["text"])
    assert again["messages"][:-1] == second["messages"][:-1] and again["sample"] == 1
    assert again["ids"] != second["ids"]
    assert (anew["ids"], anew["messages"]) == (first["ids"], first["messages"])
    assert re.search(r"/reset +begin a new conversation", err) and "/rewrite" not in err
    assert "/infill is no command" in err and "/again needs a text before it" in err
    # Written out, the conversation is a question of its own.
    told = f"The river?\nA: {first['text']} END\nQ: And  she?"
    assert records(call(told, "--json", "--system", "Be kind")[1])[0]["ids"] == second["ids"]


# ---------------------------------------------------------------- where an answer ends


def test_the_token_that_the_template_ends_an_answer_with_ends_it(run_script, tokens):
    options = ["--model", tokens, "--max_len", "40", "--dtype", "float32", "--json"]
    lines = b"The river?\nShe?\nHe?\nIt?\n"
    code, out, err = run_script(inference, "--chat", *options, stdin=lines)
    answers = records(out)
    assert code == 0 and "never trained" not in err
    assert all(r["ids"].count(323) <= 1 for r in answers)
    assert any(r["ids"][-1] == 323 for r in answers)
    assert all("<|" not in r["text"] and r["nfe"] == len(r["ids"]) for r in answers)
    chat = chat_of(tokens)
    assert chat.ends == {2, 323} and chat.tokenizer.eos_token_id == 323
    # Neither end is forbidden; the other specials are.
    forbidden = set(chat.job.writer.denoiser.forbidden.tolist())
    assert set(chat.tokenizer.all_special_ids) - forbidden == {2, 323}


@pytest.mark.parametrize(
    ("written", "text", "shown"),
    [
        (" Yes. END\nQ: more", "Yes.", " Yes. "),
        (" Yes.</s> END\nQ: more", "Yes.", " Yes."),
        (" Yes. It is", "Yes. It is", " Yes. It is"),
        ("END", "", ""),
    ],
)
def test_what_follows_the_end_is_not_shown(words, written, text, shown):
    chat = chat_of(words)
    prompt = chat.template.prompt(talk("The river?"))
    ids = prompt + chat.tokenizer(written, add_special_tokens=False)["input_ids"]
    given = (torch.arange(len(ids)) < len(prompt))[None]
    canvas = Canvas(torch.tensor([ids]), given, torch.zeros_like(given))
    sampler, keys, texts = make_sampler("first-hitting"), rng.row_keys(0, [0]), {}
    steps = denoise(canvas, chat.job.writer.denoiser, sampler, Sampling(), keys)
    (step,) = chat.alone(steps, [len(prompt)], texts)
    assert texts == {0: text}
    frame = Framer(chat.tokenizer).frame(step)
    assert frame.text.rstrip() == shown.rstrip()
    assert "END" not in frame.text and "river" not in frame.text


# ---------------------------------------------------------------- mistakes

# Combinations of options are in tests/cli/test_checks.py.


def test_a_mistake_gets_one_sentence_and_exit_code_2(call):
    for arguments, named in (
        (["He?", "--system", " "], "--system is empty"),
        (["river " * 60], "for the answer needs"),
    ):
        refused("inference", call(*arguments), named)


def test_what_only_the_loop_or_the_model_shows(call, run_script, tiny_model, words, tmp_path):
    code, _, err = run_script(inference, "--chat", "--model", tiny_model, *SMALL, typed=["He?"])
    assert code == 2 and f"the tokenizer of {tiny_model} has no chat template" in err
    tokenizer = AutoTokenizer.from_pretrained(words)
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    tokenizer.save_pretrained(tmp_path)
    asked = ["--chat", "He?", "--tokenizer", tmp_path, "--model", words, *SMALL]
    code, _, err = run_script(inference, *asked, "--system", "Be kind")
    assert code == 2 and "refuses the conversation: no system here" in err
