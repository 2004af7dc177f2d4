"""The options of scoreboard.py, and the rows that it measures by default."""

from dataclasses import dataclass, field
from pathlib import Path

from diffusion.cli.checks import check_values
from diffusion.cli.files import check_apart, check_file, check_output_dir
from diffusion.cli.flags import flag
from diffusion.cli.options import PairOptions
from diffusion.errors import UserError
from studies.board.rows import Grid, read_grid

# Held-out text that is in the repository; assets/README.md says what it is.
PASSAGES = str(Path(__file__).parent / "assets" / "passages.txt")

# What --quick and the default run measure, where a flag does not say otherwise. A scorer should be
# none of the compared models, and better than them. gpt2-large takes longer than four minutes on
# two cores, so --quick has a small one that has read other text.
DEFAULTS = {
    True: {"num_samples": 64, "length": 32, "likelihood_blocks": 16, "scorer": "gpt2-small-books"},
    False: {"num_samples": 500, "length": 64, "likelihood_blocks": 128, "scorer": "gpt2-large"},
}


@dataclass
class ScoreOptions(PairOptions):
    """What is measured"""

    settings: str | None = flag(None, "A TOML file of rows, instead of the two models above.")
    quick: bool = flag(False, "A few rows of few and short texts.")
    scorer: str | None = flag(
        None, "The causal LM that judges: folder, name in weights/, hub name, GGUF file, or smollm2. "
        "Default: "
        f"{DEFAULTS[False]['scorer']}; with --quick {DEFAULTS[True]['scorer']}.",
    )  # fmt: skip
    dataset: str | None = flag(
        None, "Source of prompts and real text, as in finetune.py; default wikitext-2, with --quick and "
        "no --dataset_dir passages of the repository.",
    )  # fmt: skip
    dataset_dir: str | None = flag(None, "Folder with local WikiText-2 files (else: the hub).")
    split: str = flag(
        "test", "The split of prompts and likelihoods.", choices=["validation", "test"]
    )
    num_samples: int | None = flag(
        None, "Texts of each row; default 500, with --quick 64.", range=(2, None)
    )
    prompt_len: int = flag(
        16, "Tokens of a prompt; 0: the first sentence of a document.", range=(0, None)
    )
    length: int | None = flag(
        None, "New tokens of a text, at most; default 64, with --quick 32.", range=(4, None)
    )
    likelihood_blocks: int | None = flag(
        None, "Blocks of text for the likelihood; default 128, with --quick 16; 0: leave it out.",
        range=(0, None),
    )  # fmt: skip
    block_size: int = flag(256, "Tokens of such a block.", range=(8, None))
    draws: int = flag(4, "Mask patterns a block in the bound.", range=(1, None))
    batch_size: int = flag(16, "Texts written or judged at once.", range=(1, None))
    seed: int = flag(0, "Of rows that do not name one.")
    output_dir: str = flag("runs/scoreboard", "Folder for results, texts and pictures.")
    results: list[str] = field(
        default_factory=list,
        metadata={"help": "Show the results.json of other runs; measure nothing."},
    )
    markdown: str | None = flag(None, "Write the tables to this file, too, such as tables.md.")

    def check_flags(self) -> None:
        """Everything that can be refused before a model is loaded; fills in `DEFAULTS`."""
        if self.markdown is not None:
            check_file("--markdown", self.markdown)
            for path in self.results:
                check_apart({"--markdown": self.markdown}, {"--results": path})
            read = {"--settings": self.settings, "--dataset": self.dataset,
                    "--dataset_dir": self.dataset_dir}  # fmt: skip
            check_apart({"--markdown": self.markdown}, read)
        if self.results:
            if self.settings or self.quick:
                raise UserError("--results measures nothing; leave out --settings and --quick")
            return
        if self.settings is not None and self.quick:
            raise UserError("--quick has rows of its own; leave out --quick or --settings")
        for name, value in DEFAULTS[self.quick].items():
            if getattr(self, name) in (None, ""):
                setattr(self, name, value)
        if self.dataset is None:
            self.dataset = PASSAGES if self.quick and not self.dataset_dir else "wikitext-2"
        check_values(self)
        if self.likelihood_blocks == 1:
            raise UserError("--likelihood_blocks 1 has no interval; use 2 or more, or 0 for none")
        if self.prompt_len >= self.block_size:
            raise UserError(
                f"--prompt_len {self.prompt_len} must be below --block_size {self.block_size}"
            )
        # A folder that exists belongs to a run that was stopped.
        check_output_dir(self.output_dir, False, True, "")

    def grid(self) -> Grid:
        """The rows to measure, each with a seed."""
        if self.settings:
            grid = read_grid(self.settings)
        else:
            grid = Grid(self.default_tables(), "Diffusion against GPT-2")
        return Grid([{"seed": self.seed, **t} for t in grid.tables], grid.title, grid.about)

    def default_tables(self) -> list[dict]:
        """The rows that are measured without --settings."""
        masked, causal = {"model": self.model}, {"model": self.baseline}
        if self.quick:
            return [
                causal | {"temperature": [1.0, 0.8]},
                masked | {"sampler": "random-remask"},
                masked | {"sampler": "confidence:alg_temp=0.3", "n_steps": [8, 16]},
                masked | {"temperature": [1.0, 0.8]},
                causal | {"conditional": False},
                masked | {"conditional": False, "sampler": "ancestral", "n_steps": 16},
            ]
        return [
            causal | {"temperature": [1.0, 0.85, 0.7]},
            masked | {"sampler": "random-remask", "n_steps": [4, 8, 16, 32, 64]},
            masked | {"sampler": "ancestral", "n_steps": [8, 16, 64, 256]},
            masked | {"sampler": "remdm", "n_steps": [32, 128]},
            masked | {"sampler": "confidence:alg_temp=0.3", "n_steps": [4, 8, 16, 32]},
            masked | {"sampler": "p2", "n_steps": 32},
            masked | {"sampler": "entropy-bound:entropy_bound=1.0"},
            masked | {"temperature": [1.0, 0.85, 0.7]},
            causal | {"conditional": False},
            masked | {"conditional": False},
        ]
