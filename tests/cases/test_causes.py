"""What a library says is passed on: the innermost cause, whole, with the flags that it is about."""

import itertools
import sys

import pytest
from helpers.chat import talk, write_jsonl
from helpers.training import RUN, SIZE, train_here

from diffusion.data.conversations import load_conversations
from diffusion.data.report import Report
from diffusion.errors import UserError, cause
from diffusion.training.checks import parse, reported


def raised(*errors: Exception, explicit: bool = True) -> Exception:
    """The last of errors, each of which causes the next one."""
    for inner, outer in itertools.pairwise(errors):
        if explicit:
            outer.__cause__ = inner
        else:
            outer.__context__ = inner
    return errors[-1]


LONG = "The first sentence says what is wrong. The second one says where. " + "It goes on. " * 99
CAUSES = [
    (raised(ValueError("a comma\nin row 7."), RuntimeError("An error occurred.")),
     "An error occurred: a comma in row 7"),
    (raised(OSError("disk"), ValueError("read"), RuntimeError("table")), "table: read: disk"),
    (raised(ValueError("inner"), RuntimeError("outer"), explicit=False), "outer: inner"),
    (raised(KeyError("x"), ValueError("no split 'x'"), explicit=False), "no split 'x'"),
    (raised(ValueError("the same"), RuntimeError("says the same")), "says the same"),
    (KeyError("x"), "KeyError 'x'"),
    (ValueError(), "ValueError"),
    (ValueError(f"x is none of {['item'] * 99}; or y"), f"x is none of [{', '.join([repr('item')] * 13)}, ...]; or y"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "said"), CAUSES, ids=lambda x: str(x)[:20])
def test_the_innermost_cause_is_named(error, said):
    assert cause(error) == said


def test_what_is_cut_is_whole_sentences():
    said = cause(ValueError(LONG))
    assert said.startswith(
        "The first sentence says what is wrong. The second one says where. It goes on"
    )
    assert len(said) < 320 and said.endswith("It goes on")
    suppressed = RuntimeError("said")
    suppressed.__context__, suppressed.__suppress_context__ = ValueError("unsaid"), True
    assert cause(suppressed) == "said"


FLAGS = [
    (["--load_best_model_at_end", "--eval_strategy", "steps"],
     "--load_best_model_at_end needs a checkpoint of each evaluation, and --eval_strategy is steps and "
     "--save_strategy epoch; give the same to both"),
    (["--load_best_model_at_end", "--save_strategy", "no"], "--eval_strategy is epoch and --save_strategy no"),
    (["--load_best_model_at_end", "--eval_strategy=steps", "--save_strategy=steps", "--eval_steps=3",
      "--save_steps=4"], "--load_best_model_at_end needs a checkpoint of an evaluation, and --save_steps 4 is no multiple of "
     "--eval_steps 3"),
    (["--load_best_model_at_end", "--eval_strategy=steps", "--save_strategy=steps", "--logging_steps=7"],
     "--save_steps 500 is no multiple of --eval_steps 7"),
    (["--lr_scheduler_kwargs", "x"], "--lr_scheduler_kwargs 'x' must be a JSON object"),
    (["--eval_strategy", "sometimes"], "--eval_strategy sometimes: sometimes is not a valid"),
    (["--optim", "adam"], "--optim adam: adam is not a valid"),
    (["--accelerator_config", '{"a": 1}'], "--accelerator_config {\"a\": 1}: AcceleratorConfig"),
    (["--lr_scheduler_kwargs", '{"a":'], "--lr_scheduler_kwargs {\"a\":: Expecting value"),
    (["--load_best_model_at_end", "--eval_strategy=steps", "--save_strategy=steps", "--eval_steps=0.2",
      "--save_steps=0.3"], "--eval_steps 0.2 --save_steps 0.3: --load_best_model_at_end requires"),
    (["--lr_scheduler_kwargs", "3"], "--lr_scheduler_kwargs '3' must be a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "words"), FLAGS, ids=lambda x: str(x)[:40])
def test_flags_are_named_with_their_values(monkeypatch, flags, words):
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--use_cpu", *flags])
    with pytest.raises(UserError) as error:
        parse("")
    assert words in str(error.value)


def test_errors_of_what_is_built_name_the_flags_that_were_typed(monkeypatch):
    words = ["--lr_scheduler_type=cosine", "--lr_scheduler_kwargs", '{"foo": 1}', "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words])
    with pytest.raises(UserError) as error, reported("lr_scheduler_type", "lr_scheduler_kwargs"):
        raise TypeError("unexpected keyword argument 'foo'")
    assert str(error.value) == (
        "--lr_scheduler_type cosine --lr_scheduler_kwargs {\"foo\": 1}: unexpected keyword argument 'foo'; see "
        "--help and --help_all"
    )


# ---------------------------------------------------------------- every run says what it read


@pytest.mark.parametrize(
    "more", [[], ["--streaming", "--max_train_samples", "20"]], ids=["all", "stream"]
)
def test_a_run_and_its_card_say_what_was_read(tmp_path, capfd, more):
    rows = [f'{{"story": "A sentence about hill {i} and the river below."}}\n' for i in range(150)]
    (tmp_path / "a.jsonl").write_text("".join([*rows, '{"story": " "}\n', '{"story": 3}\n']) * 2)
    (tmp_path / "b.txt").write_text("One more river.\n\nAnd a hill. " * 40)
    start = SIZE
    if more:  # a stream is read once, and the tokenizer of another model is needed
        from helpers.models import save_roberta

        start = ["--model", save_roberta(tmp_path / "tiny")]
    code = train_here(
        *RUN, *start, "--max_steps", 1, "--dataset", tmp_path / "a.jsonl", "--eval_dataset", tmp_path / "b.txt",
        "--text_column", "story", "--output_dir", tmp_path / "out", *more,
    )  # fmt: skip
    said = capfd.readouterr().err
    assert code == 0, said
    card = (tmp_path / "out" / "README.md").read_text()
    read = next(line for line in said.splitlines() if 'from column "story" of' in line)
    evaluated = next(line for line in said.splitlines() if "from 1 text file" in line)
    if more:
        assert "as far as it was needed" in read and "read 300" not in read
    else:
        assert read == (
            'read 300 documents from column "story" of 304 rows in 1 file; 2 rows empty; 2 rows left out, '
            f"the first: line 152 of {tmp_path / 'a.jsonl'} has a number in column 'story', and not text"
        )
        assert f"| what was read | {read} |" in card
        assert evaluated == (
            "validation text: read 1 document from 1 text file; 40 blank lines inside documents became line breaks"
        )
    assert "| what was read | read " in card and "| what was read of it | read 1 document" in card


def test_conversations_are_counted_by_the_same_rules(tmp_path):
    talks = [talk("a", "b")] * 150
    report = Report()
    path = write_jsonl(tmp_path / "a.ndjson", [*talks, None, [], "x"])
    assert load_conversations(str(path), report=report) == talks
    assert str(report) == (
        'read 150 conversations from column "messages" of 153 rows in 1 file; 2 rows empty; 1 row left out, the '
        f'first: line 153 of {path} is not a conversation, {{"messages": [{{"role": "user", "content": "..."}}, ...]}}'
    )
    path = write_jsonl(tmp_path / "b.jsonl", [*talks, "x", "y"])
    with pytest.raises(UserError, match=r"2 of 152 rows .* line 151 of"):
        load_conversations(str(path))
    assert load_conversations(str(path), report=Report(skip_bad=True)) == talks
    for name in ("a.csv", "b.md", "c.txt.gz", "d.xml"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=r"--chat reads JSON lines|is unknown"):
            load_conversations(str(tmp_path / name))
