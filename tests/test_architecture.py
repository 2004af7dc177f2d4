"""The shape of the house: floors without a circle, a light front door, folders that stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffusion"
SCRIPTS = [ROOT / f"{name}.py" for name in (
    "inference", "gpt2_inference", "finetune", "compare", "scoreboard")]  # fmt: skip
MOST_LAYERS, MOST_FILES = 8, 14

# These answer --help and refuse mistakes: they never load torch.
TORCH_FREE = [
    *("errors", "options", "samplers.catalog", "training.arguments", "training.recipe"),
    *(f"cli.{name}" for name in ("console", "files", "flags", "options", "prompts")),
    *(f"editing.{name}" for name in ("options", "session", "templates")),
    *("text.reading", "text.spelling"),
    *(f"views.{p.stem}" for p in sorted((PACKAGE / "views").glob("*.py")) if p.stem[0] != "_"),
    *(f"evaluation.{name}" for name in (
        "comparison", "metrics", "options", "pictures", "plotting", "processes", "record", "report", "results", "rows",
        "tables")),
]  # fmt: skip


def dependencies(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in it, but for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in only_types:
            continue
        assert node.level == 0, f"{path}: a relative import"
        if f"{node.module}.".startswith("diffusion."):
            inside = node.module.split(".")[1:]
            if PACKAGE.joinpath(*inside).is_dir():
                found |= {".".join([*inside, alias.name]) for alias in node.names}
            else:
                found.add(".".join(inside))
    return found


def modules() -> dict[str, set[str]]:
    """What each module and each script imports."""
    files = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    return {name: dependencies(path) for name, path in files.items()} | {
        path.name: dependencies(path) for path in SCRIPTS
    }


def layers(imports: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each module, one above the highest that it imports.

    Raises:
        ValueError: a circle.
    """
    floors: dict[str, int] = {}

    def floor(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ValueError(f"a circle: {' -> '.join((*path[path.index(name) :], name))}")
        if name not in floors:
            below = (floor(other, (*path, name)) for other in imports[name])
            floors[name] = 1 + max(below, default=0)
        return floors[name]

    for name in imports:
        floor(name, ())
    return floors


def test_there_are_few_layers_and_no_circle():
    floors = layers(modules())
    top = max(floors.values())
    assert top <= MOST_LAYERS, sorted(n for n, f in floors.items() if f > MOST_LAYERS)


def test_the_check_sees_a_circle_and_counts():
    assert layers({"a": set(), "b": {"a"}, "c": {"a", "b"}}) == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(ValueError, match="a -> b -> a"):
        layers({"a": {"b"}, "b": {"a"}})


def test_folders_stay_small_and_packages_hold_a_docstring_only():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES
    for path in PACKAGE.glob("*/__init__.py"):
        (docstring,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(docstring, ast.Expr) and docstring.value.value


def test_what_answers_help_loads_no_torch():
    names = "\n".join(f"import diffusion.{name}" for name in TORCH_FREE)
    code = f"import sys\n{names}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# A function may import what its script has put off until all mistakes are refused, what few runs
# need, and what the torch-free modules above must not load.
LATE = {
    *("inference.py", "gpt2_inference.py", "finetune.py", "compare.py", "scoreboard.py"),
    *(
        "cli.flags",
        "data.corpus",
        "evaluation.processes",
        "hardware",
        "models.loading",
        "training.lora",
    ),
    *("evaluation.metrics", "evaluation.plotting", "evaluation.rows"),
    *("views.animation", "views.stage", "__init__"),
}


def test_imports_stand_at_the_top():
    late = set()
    for path in [*PACKAGE.rglob("*.py"), *SCRIPTS]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
                isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(function)
            ):
                inside = PACKAGE in path.parents
                parts = path.relative_to(PACKAGE if inside else ROOT).with_suffix("").parts
                late.add(".".join(parts) if inside else path.name)
    assert late <= LATE, late - LATE
