"""The shape of the house: three parts, few floors, no circle, light `--help`, folders that stay small."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffusion"
SCRIPTS = sorted(ROOT.glob("*.py"))
MOST_FLOORS = 9

# These answer --help and refuse mistakes: they never load torch.
TORCH_FREE = [
    *("errors", "options", "text", "samplers.catalog", "training.arguments"),
    *(f"cli.{name}" for name in ("checks", "console", "files", "flags", "options", "reading")),
    *(f"editing.{name}" for name in ("options", "templates")),
]
HEAVY = {"torch", "transformers", "accelerate", "peft", "datasets", "safetensors"}
BOARD = ["metrics", "options", "pictures", "plotting", "processes", "report", "results", "rows"]


def sources() -> dict[str, Path]:
    """Name -> file of every module of the three parts, and of every script."""
    files = [*SCRIPTS, *PACKAGE.rglob("*.py"), *(ROOT / "studies").rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, known: set[str], top: bool = False) -> set[str]:
    """What a file imports, but for type checkers alone: modules of the ``known`` ones, and others.

    Args:
        top: only what is imported when the file itself is, not what its functions import.
    """
    found, nodes = set(), [parsed(path)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
        if not (top and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            nodes += ast.iter_child_nodes(node)
    return {f"{name}.__init__" if f"{name}.__init__" in known else name for name in found}


def room(module: str) -> str:
    """The folder of a module, or itself where it is a loose file; `studies` is one room."""
    part, *rest = module.split(".")
    return part if part == "studies" else ".".join([part, *rest[:1]])


def rooms() -> dict[str, set[str]]:
    """What each room imports, as a map of the whole tree has it."""
    files = sources()
    found: dict[str, set[str]] = {room(name): set() for name in files}
    for name, path in files.items():
        found[room(name)] |= {room(other) for other in imports(path, set(files)) & set(files)} - {
            room(name)
        }
    return found


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room, one above the highest that it imports.

    Raises:
        ValueError: a circle, one arrow of which runs back up.
    """
    found: dict[str, int] = {}

    def floor(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ValueError(f"a circle: {' -> '.join((*path[path.index(name) :], name))}")
        if name not in found:
            below = (floor(other, (*path, name)) for other in graph[name])
            found[name] = 1 + max(below, default=0)
        return found[name]

    for name in graph:
        floor(name, ())
    return found


def test_there_are_few_floors_and_no_circle():
    found = floors(rooms())
    assert max(found.values()) <= MOST_FLOORS, sorted(found.items(), key=lambda pair: pair[1])


def test_no_circle_of_modules():
    """Late imports count, too."""
    files = sources()
    floors({name: imports(path, set(files)) & set(files) - {name} for name, path in files.items()})


def test_the_check_sees_a_circle_and_counts():
    assert floors({"a": set(), "b": {"a"}, "c": {"a", "b"}}) == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(ValueError, match="a -> b -> a"):
        floors({"a": {"b"}, "b": {"a"}})


def test_nothing_that_writes_imports_what_measures():
    files = sources()
    for name, path in files.items():
        measured = {
            other for other in imports(path, set(files)) & set(files) if room(other) == "studies"
        }
        assert name.startswith("studies") or not measured, (name, measured)


def test_folders_stay_small_and_packages_hold_a_docstring_only():
    for folder in (PACKAGE, ROOT / "studies"):
        for path in folder.glob("*/__init__.py"):
            (docstring,) = parsed(path).body
            assert isinstance(docstring, ast.Expr) and docstring.value.value


def test_what_answers_help_loads_no_torch():
    files = sources()
    names = [name for name in files if name.startswith("diffusion.views.")]
    names += [f"diffusion.{name}" for name in TORCH_FREE] + [
        f"studies.board.{name}" for name in BOARD
    ]
    names += ["diffusion.__init__", "inference", "gpt2_inference", "compare", "finetune", "demo"]
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in files and name not in seen:
            names += imports(files[name], set(files), top=True)
        seen.add(name)
    assert not {name.partition(".")[0] for name in seen} & HEAVY, seen


# A function may import what its script has put off until all mistakes are refused, what few runs
# need, and what the torch-free modules above must not load.
LATE = {
    *("inference", "gpt2_inference", "finetune", "compare", "demo"),
    *("diffusion.__init__", "diffusion.cli.flags", "diffusion.data.corpus", "diffusion.hardware"),
    *("diffusion.models.loading", "diffusion.options"),
    *("diffusion.cli.console", "diffusion.cli.files", "diffusion.cli.reading", "diffusion.job"),
    *("studies.claims", "studies.pretrained"),
    *("studies.scoreboard", "studies.board.metrics", "studies.board.plotting"),
    *("studies.board.processes", "studies.board.rows"),
}


def test_imports_stand_at_the_top():
    late = set()
    for name, path in sources().items():
        for function in ast.walk(parsed(path)):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
                isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(function)
            ):
                late.add(name)
    assert late <= LATE, late - LATE
