"""gpt2_inference.py: the outputs of inference.py, and exactly the text that a plain loop over a causal
model would draw."""

import dataclasses
import functools
import itertools

import pytest
import torch
from helpers.exact import sharpen
from helpers.terminals import records, refused
from transformers import AutoModelForCausalLM, AutoTokenizer

import gpt2_inference
from diffusion import hardware, rng
from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import written_ids
from diffusion.options import SamplingOptions
from diffusion.proposal import Sampling
from diffusion.views.frames import Framer, State, written_text

SMALL = ["--max_len", "24"]


@pytest.fixture
def call(run_script, kept_models, tiny_gpt2):
    def call(*arguments, model=tiny_gpt2, **stdin):
        return run_script(gpt2_inference, "--model", model, *arguments, **stdin)

    return call


@pytest.fixture(scope="module")
def writer(tiny_gpt2):
    return load_causal_writer(str(tiny_gpt2), dtype="float32")


@functools.cache
def loaded(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


def by_hand(folder, prompt, n, seed, sample, temperature, top_k, top_p, banned, penalty=1.0):
    """One text by a plain loop without a cache; the filters are those of `exact`."""
    tokenizer, model = loaded(folder)
    ids = [0, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    key = rng.fold_in(rng.seed_key(seed), torch.tensor([sample]))
    for step in range(1, n + 1):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        for token in set(ids):
            logits[token] *= 1 / penalty if logits[token] > 0 else penalty
        logits[banned] = -torch.inf
        p = sharpen(logits.softmax(-1).tolist(), temperature, top_k, top_p)
        u = rng.uniform(rng.fold_in(rng.fold_in(key, step), rng.TOKENS), 1).item()
        # Tokens are laid on the line from 0 to 1 from the most probable one down.
        order, below = sorted(range(len(p)), key=lambda i: -p[i]), 0.0
        for token in order:
            below += p[token]
            if u < below:
                break
        ids.append(token)
    return ids


@pytest.mark.parametrize(
    "temperature, top_k, top_p", [(1.0, 50, 0.95), (0.7, 0, 0.5), (1.3, 7, 1.0), (0.0, 0, 1.0)]
)
def test_it_writes_what_a_plain_loop_would(writer, tiny_gpt2, temperature, top_k, top_p):
    options = SamplingOptions(
        length=20, max_len=64, temperature=temperature, top_k=top_k, top_p=top_p, seed=3
    )
    prompts = ["The river", "She opened the window and"]
    *_, last = writer.generate(prompts, options, [0, 5])
    banned = [0, 1, 2, 3, 4]  # the specials; </s> too, since exactly 20 tokens are asked for
    for row, (prompt, sample) in enumerate(zip(prompts, [0, 5], strict=True)):
        expected = by_hand(tiny_gpt2, prompt, 20, 3, sample, temperature, top_k, top_p, banned)
        assert written_ids(last, row) == expected


def test_repetition_is_penalised_and_word_pairs_are_not_repeated(writer, tiny_gpt2):
    base = SamplingOptions(length=25, max_len=64, top_k=50, top_p=0.95)
    options = dataclasses.replace(base, repetition_penalty=1.7)
    last = list(writer.generate(["The river"], options, [0]))[-1]
    expected = by_hand(tiny_gpt2, "The river", 25, 0, 0, 1.0, 50, 0.95, [0, 1, 2, 3, 4], 1.7)
    assert written_ids(last, 0) == expected
    options = dataclasses.replace(base, no_repeat_ngram_size=2, temperature=0.0)
    ids = written_ids(list(writer.generate(["The river"], options, [0]))[-1], 0)
    pairs = list(itertools.pairwise(ids))
    assert len(set(pairs)) == len(pairs)
    free = written_ids(
        list(writer.generate(["The river"], dataclasses.replace(base, temperature=0.0), [0]))[-1], 0
    )
    assert len(set(itertools.pairwise(free))) < len(free) - 1


def test_a_text_ends_at_its_own_end_of_text(writer, monkeypatch):
    """Rows of a batch end at different steps; what is drawn after them does not exist."""
    ends = torch.tensor([[2, 9, 9, 9], [9, 9, 2, 9], [9, 9, 9, 9]])
    calls = itertools.chain(ends.T, itertools.repeat(torch.tensor([9, 9, 9])))

    def scripted(self, logits, u):
        return next(calls), u

    monkeypatch.setattr(Sampling, "draw", scripted)
    prompts = ["The", "The river runs", "She"]
    start = [len(writer.tokenizer(p, add_special_tokens=False)["input_ids"]) + 1 for p in prompts]
    options = SamplingOptions(max_len=max(start) + 3)
    steps = list(writer.generate(prompts, options, [0, 1, 2]))
    last = steps[-1]
    assert [written_ids(last, row)[start[row] :] for row in range(2)] == [[2], [9, 9, 2]]
    room = options.max_len - start[2]
    assert written_ids(last, 2)[start[2] :] == [9] * room
    assert last.nfe.tolist() == [1, 3, room]
    assert written_text(writer.tokenizer, last, 0) == "The"
    frames = [Framer(writer.tokenizer).frame(step, row=1) for step in steps]
    assert [len(f.states) for f in frames[:4]] == [start[1] - 1 + n for n in range(4)]
    assert frames[3].states[-1] is State.FRESH and frames[-1].text == "The river runs" + "".join(
        writer.tokenizer.convert_ids_to_tokens([9, 9])
    )


def test_every_row_fills_its_own_room_or_has_exactly_so_many_tokens(call):
    out = records(call("--json", *SMALL, "--num_samples", "4", stdin=b"He\nShe opened the\n")[1])
    assert all(len(r["ids"]) == 24 or r["ids"][-1] == 2 for r in out)
    assert any(len(r["ids"]) == 24 for r in out[:4]) and any(len(r["ids"]) == 24 for r in out[4:])
    out = records(call("--length", "9", "--json", "--max_len", "64", stdin=b"He\nShe opened\n")[1])
    for record, prompt in zip(out, ["He", "She opened"], strict=True):
        assert record["text"].startswith(prompt)
        assert record["nfe"] == 9 and 2 not in record["ids"]


def test_only_the_time_in_the_model_is_measured(writer, monkeypatch):
    """Each reading of this clock is a second later: from a forward pass to the draw is one."""
    clock = itertools.count()
    monkeypatch.setattr(hardware, "now", lambda device: float(next(clock)))
    options = SamplingOptions(length=5, max_len=40)
    seconds = []
    for step in writer.generate(["The"], options, [0]):
        seconds.append(step.seconds)
        for _ in range(10):  # a reader who takes his time
            next(clock)
    assert seconds == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_full_row_waits_for_a_shorter_prompt_up_to_the_last_position(writer):
    """Its own positions would run on beyond those that the model has."""
    options = SamplingOptions(max_len=writer.positions, seed=5)
    prompts = ["The", "The river runs through the old town and under the"]
    *_, together = writer.generate(prompts, options, [0, 1])
    for row, prompt in enumerate(prompts):
        *_, alone = writer.generate([prompt], options, [row])
        assert written_ids(together, row) == written_ids(alone, 0)
        assert len(written_ids(alone, 0)) == writer.positions  # it has not ended before


def test_a_mistake_gets_one_sentence_and_exit_code_2(call, tiny_model):
    for arguments, named in (
        (["He", "--sampler", "confidence"], "unrecognized arguments: --sampler"),
        (["He", "--max_len", "65"], "64 positions"),
        (["river " * 80, "--max_len", "64"], "64 positions"),
        (["He", *SMALL, "--model", tiny_model], "model, which does not write from left to right"),
    ):
        refused("gpt2_inference", call(*arguments), named)


def test_notes_of_a_space_at_the_end_and_of_samples_that_are_one_text(call):
    more = ["--temperature", 0, "--num_samples", 3, *SMALL]
    _, out, err = call("The river ", *more)
    assert len(set(out.strip().split("\n\n"))) == 1
    assert "a prompt ends in a space" in err and err.count("one and the same text") == 1
    _, _, err = call("The river", "--temperature", 1, *more[2:])
    assert "note: " not in err
