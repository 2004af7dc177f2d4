"""What finetune.py says of itself; its runs are in tests/training."""

import subprocess
import sys
from pathlib import Path

import finetune

SCRIPT = Path(finetune.__file__).resolve()


def test_help_is_short_and_loads_neither_torch_nor_the_trainer():
    code = (
        "import runpy, sys; sys.argv = ['finetune.py', '--ema', 'x', '--help']\n"
        "try: runpy.run_path({!r}, run_name='__main__')\n"
        "finally: print({{'torch', 'transformers'}} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code.format(str(SCRIPT))]
    end = subprocess.run(command, capture_output=True, text=True)
    assert end.returncode == 0
    assert end.stderr == "set()\n"
    lines = end.stdout.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 100
    assert end.stdout.startswith(finetune.__doc__.strip())
    for part in ("--objective", "[diffusion]", "--learning_rate", "[5e-05]", "[wikitext-2]"):
        assert part in end.stdout
    assert "[X" not in end.stdout


def test_help_of_all_flags_has_those_of_the_trainer(run_script):
    code, out, _ = run_script(finetune, "--help_all")
    assert code == 0
    for flag in ("--ema", "--lr_scheduler_kwargs", "--optim", "--adam_epsilon", "--soft_k"):
        assert f"  {flag}" in out
