"""studies/puzzles: generated puzzles against another solver, and what the evaluation counts."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import RobertaConfig

from diffusion.collator import AnswerCollator
from diffusion.data.blanks import pack_blanks
from diffusion.data.packing import ANSWER
from diffusion.generate import Writer
from diffusion.noise import Absorbing
from diffusion.objective import IGNORE
from studies.board import metrics
from studies.puzzles import evaluate, make
from studies.puzzles.boards import BLANK, KINDS, canonical, puzzles, relabelled, test_class

SUDOKU = [name for name in KINDS if name.startswith("sudoku")]
SIDES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


def some(name, test=False, seed=1):
    return list(puzzles(KINDS[name], test, {"sudoku9": 2, "sudoku6": 6}.get(name, 20), seed, 2))


def count_covers(puzzle: str) -> int:
    """The number of solutions of a Sudoku as an exact cover (Knuth's algorithm X)."""
    lines = puzzle.split("\n")
    n = len(lines)
    height, width = SIDES[n]
    choices, columns = {}, {}
    for r, c, d in itertools.product(range(n), repeat=3):
        if lines[r][c] in (BLANK, str(d + 1)):
            box = (r // height, c // width)
            choices[r, c, d] = [("cell", r, c), ("row", r, d), ("column", c, d), ("box", box, d)]
    for choice, met in choices.items():
        for need in met:
            columns.setdefault(need, set()).add(choice)
    if len(columns) < 4 * n * n:
        return 0

    def search(columns) -> int:
        if not columns:
            return 1
        need = min(columns, key=lambda need: len(columns[need]))
        total = 0
        for choice in columns[need]:
            gone = {other for met in choices[choice] for other in columns[met]}
            rest = {k: v - gone for k, v in columns.items() if k not in choices[choice]}
            total += search(rest)
        return total

    return search(columns)


def test_all_boards_of_four_are_those_of_all_lines():
    lines = list(itertools.permutations((1, 2, 3, 4)))
    pairs = itertools.product(lines, repeat=2)
    bands = [(a, b) for a, b in pairs if len({*a[:2], *b[:2]}) == len({*a[2:], *b[2:]}) == 4]
    boards = set()
    for upper, lower in itertools.product(bands, repeat=2):
        if all(len(set(column)) == 4 for column in zip(*upper, *lower, strict=True)):
            boards.add(tuple(itertools.chain(*upper, *lower)))
    found = list(map(tuple, KINDS["sudoku4"].solutions([0] * 16)))
    assert len(found) == 288 and set(found) == boards


@pytest.mark.parametrize("name", SUDOKU)
def test_a_sudoku_has_one_solution_and_few_clues(name):
    found = some(name)
    assert found == some(name) != some(name, seed=2)
    for puzzle, solved in found:
        cells = puzzle.replace("\n", "")
        clues = len(cells) - cells.count(BLANK)
        assert 0.3 * len(cells) <= clues <= 0.45 * len(cells)
        assert count_covers(puzzle) == 1
        assert [len(line) for line in puzzle.split("\n")] == [KINDS[name].size] * KINDS[name].size
        first = puzzle.index(BLANK)
        other = next(d for d in KINDS[name].symbols if d != solved[first])
        assert count_covers(puzzle[:first] + other + puzzle[first + 1 :]) == 0
    assert count_covers(BLANK * 4 + "\n" + "\n".join([BLANK * 4] * 3)) == 288


def test_a_path_is_the_only_one():
    for puzzle, solved in some("path"):
        arrows, path = puzzle.split("\n")
        first, *blanks, last = path
        assert set(blanks) == {BLANK} and 0.45 * len(path) >= 2
        walks = [first]
        for _ in [*blanks, last]:
            walks = [w + b for w in walks for a, b in arrows.split(",") if a == w[-1]]
        assert [w for w in walks if w[-1] == last] == [solved.split("\n")[1]]
        assert len(walks) == 3


@pytest.mark.parametrize("name", KINDS)
def test_no_class_is_in_both(name):
    """Two boards are of one class if the same cells are equal to each other."""

    def pattern(text):
        return tuple(text.index(c) if c in KINDS[name].symbols else c for c in text)

    train, test = (({pattern(solved) for _, solved in some(name, test)}) for test in (False, True))
    assert train and test and not train & test
    draw, symbols = random.Random(0), KINDS[name].symbols
    for _, solved in some(name):
        other = relabelled(solved, symbols, draw)
        assert pattern(other) == pattern(solved) and not test_class(other, symbols)
        assert canonical(other, symbols) == canonical(solved, symbols)


@pytest.mark.parametrize("name", KINDS)
def test_the_checker_refuses_every_other_text(name):
    kind, draw = KINDS[name], random.Random(3)
    for puzzle, solved in some(name):
        assert kind.solves(puzzle, solved) and not kind.solves(puzzle, puzzle)
        for i, c in enumerate(solved):
            other = draw.choice([s for s in kind.symbols + ",\n" if s != c])
            assert not kind.solves(puzzle, solved[:i] + other + solved[i + 1 :])
        assert not kind.solves(puzzle, solved[:-1]) and not kind.solves(puzzle, solved + "1")
        assert kind.assembled(puzzle, kind.answer(solved)) == solved
        renamed = relabelled(solved, kind.symbols, draw)  # a right board that loses the clues
        assert renamed == solved or not kind.solves(puzzle, renamed)


@pytest.mark.parametrize("name", KINDS)
def test_tokens_parts_and_blocks(name):
    tokenizer, found = make.tokenizer_of(KINDS[name]), some(name)
    texts = [make.parts(*pair) for pair in found]
    packed = pack_blanks(texts, tokenizer, 1 + len(found[0][0]))
    for (puzzle, solved), parts, row, kinds in zip(
        found, texts, packed.blocks, packed.kinds, strict=True
    ):
        assert "".join(parts) == solved == tokenizer.decode(row[1:])
        assert row[0] == tokenizer.bos_token_id and len(row) == 1 + len(solved)
        assert (kinds == ANSWER).tolist() == [False, *(c == BLANK for c in puzzle)]
    assert tokenizer("x!")["input_ids"][2] == tokenizer.unk_token_id
    fixed = [tokenizer.bos_token_id, tokenizer.pad_token_id]
    collate = AnswerCollator(Absorbing.of(tokenizer), fixed, 1, loss="mean", global_batch=8)
    rows = [packed[i % len(found), i] for i in range(200)]
    batch = collate(rows)
    answer = torch.stack([row["kinds"] for row in rows]) == ANSWER
    clean = torch.stack([row["input_ids"] for row in rows])
    assert (batch["input_ids"] == clean)[~answer].all()
    assert ((batch["labels"] != IGNORE) & ~answer).sum() == 0
    assert 0.4 < (batch["labels"] != IGNORE)[answer].double().mean() < 0.6


# ---------------------------------------------------------------- evaluation


class Knowing:
    """A denoiser that knows the solutions, and errs on some of the rows."""

    soft, passes, device = None, 1, torch.device("cpu")

    def __init__(self, tokenizer, pairs, errs):
        self.tokenizer, self.noise = tokenizer, Absorbing.of(tokenizer)
        config = RobertaConfig(max_position_embeddings=64)
        self.backbone = SimpleNamespace(config=config, model=None)
        puzzles, solved = zip(*pairs, strict=True)
        shown = evaluate.canvas(tokenizer, puzzles).ids.tolist()
        right = [tokenizer(text)["input_ids"][:-1] for text in solved]
        for i in errs:
            blank = shown[i].index(tokenizer.mask_token_id)
            right[i][blank] = tokenizer.convert_tokens_to_ids("," if i % 2 else "1")
            if i % 2 == 0 and solved[i][blank - 1] == "1":
                right[i][blank] += 1
        self.known = {tuple(a): b for a, b in zip(shown, right, strict=True)}

    def forbidding(self, token):
        return self

    def start(self, canvas):
        self.right = torch.tensor([self.known[tuple(row)] for row in canvas.ids.tolist()])
        return self

    def slots(self, query):
        return torch.full_like(query.ids[:, 0], query.ids.shape[1])

    def __call__(self, query):
        right = self.right if query.rows is None else self.right[query.rows]
        return (
            30.0 * torch.nn.functional.one_hot(right[query.query_mask], len(self.tokenizer)).float()
        )


class Guessing:
    """Instead of GPT-2: greedy text solves the first puzzle, sample n those with i % 4 = n - 1."""

    positions = 100

    def __init__(self, tokenizer, kind, pairs):
        self.tokenizer, self.kind, self.pairs = tokenizer, kind, pairs

    def generate(self, prompts, options, samples):
        rows = []
        for prompt, i in zip(prompts, samples, strict=True):
            puzzle, solved = self.pairs[i]
            assert prompt == puzzle + "\n\n" and options.length == len(self.kind.answer(solved))
            right = i == 0 if options.temperature == 0 else i % 4 == options.seed - 1
            text = solved if right else puzzle.replace(BLANK, "1")
            rows.append(self.tokenizer(prompt + self.kind.answer(text))["input_ids"][:-1])
        yield SimpleNamespace(ids=torch.tensor(rows), slots=torch.full((len(rows),), 83))


def test_the_evaluation_counts_right(tmp_path, monkeypatch):
    each = {setting[0]: setting for setting in evaluate.GRID} | {
        evaluate.RANDOM[0]: evaluate.RANDOM
    }
    monkeypatch.setattr(evaluate, "GRID", [*each.values(), evaluate.ORDERED])
    kind, pairs = KINDS["sudoku4"], some("sudoku4")
    tokenizer, errs = make.tokenizer_of(kind), [0, 3, 4, 11]
    writer = Writer(Knowing(tokenizer, pairs, errs), tokenizer, "knows", True, False, {})
    args = SimpleNamespace(
        model=str(tmp_path), baseline=str(tmp_path), batch_size=12, curve_count=1000, seed=0
    )
    names = [puzzle for puzzle, _ in pairs]
    load = lambda name: writer  # noqa: E731
    causal = lambda name: Guessing(tokenizer, kind, pairs)  # noqa: E731
    (tmp_path / "checkpoint-20").mkdir()
    state = tmp_path / "checkpoint-20" / "trainer_state.json"
    state.write_text('{"global_step": 20, "train_batch_size": 4}')
    table, curve = evaluate.measure(args, kind, names, load, causal)
    blanks = sum(puzzle.count(BLANK) for puzzle in names) / len(names)
    for row in table:
        if "GPT-2" not in row["sampler"]:
            assert row["solved"][0] == pytest.approx(0.8), row
            assert (row["passes"] >= 1 and row["slots"] == pytest.approx(20 * row["passes"])) or (
                row["sampler"] == "wino"
            )
    by_name = {row["sampler"]: row for row in table}
    assert by_name["first-hitting"]["passes"] == pytest.approx(blanks)
    assert by_name["GPT-2, greedy"]["solved"][0] == 1 / len(names)
    shares = [by_name[f"GPT-2, best of {n}"]["solved"][0] for n in (1, 2, 5)]
    assert shares == [0.25, 0.5, 1.0]
    assert (
        by_name["GPT-2, best of 5"]["passes"] == 5 * 19 and by_name["GPT-2, greedy"]["slots"] == 83
    )
    assert [row["seen"] for row in curve] == [20 * 4 * 20, 20 * 4 * 20, 20 * 4 * 41]
    found = evaluate.against(table)
    assert found[-1]["difference"][0] == pytest.approx(0.8 - 1)
    record = {"results": table, "differences": found, "curve": curve}
    assert "80.0" in evaluate.markdown(record)
    drawn = evaluate.figure(record | {"kind": "sudoku4", "puzzles": 20})
    assert len(drawn.axes) == 2


def test_the_interval_of_a_difference_is_newcombes():
    """56 of 70 against 48 of 80, from his paper."""
    shares = ([e.value, e.low, e.high] for e in (metrics.share(56, 70), metrics.share(48, 80)))
    found = evaluate.difference(*shares)
    assert found == pytest.approx([0.2, 0.0524, 0.3339], abs=1e-4)


def test_the_folder_of_make(monkeypatch, tmp_path):
    flags = ["make.py", "sudoku4", str(tmp_path), "--train", "6", "--test", "3"]
    monkeypatch.setattr("sys.argv", flags)
    make.main()
    found = evaluate.read_puzzles(str(tmp_path / "test.jsonl"), 2)
    assert len(found) == 2 and {kind for kind, _ in found} == {"sudoku4"}
    assert found == [("sudoku4", p) for p, _ in puzzles(KINDS["sudoku4"], True, 2, 0)]
    assert len((tmp_path / "train-gpt2.jsonl").read_text().splitlines()) == 6
