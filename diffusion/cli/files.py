"""Files and folders are written whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from diffusion.errors import UserError, first_line

# ---------------------------------------------------------------- writing


def check_output_dir(path: str, overwrite: bool, resume: bool, overwrite_flag: str) -> Path:
    """An output folder that can be written to, empty unless the user said otherwise."""
    folder = Path(path)
    if os.path.isfile(folder):
        raise UserError(f"--output_dir {path} is a file; give a folder")
    existing = next(p for p in [folder, *folder.absolute().parents] if os.path.exists(p))
    try:
        # Permissions do not tell all (a full or read-only disk, root): try. It has no name on disk.
        tempfile.TemporaryFile(dir=existing).close()
        used = os.path.isdir(folder) and os.listdir(folder)
    except OSError as error:
        raise UserError(
            f"--output_dir {path} cannot be written to ({error.strerror}); give a folder that can"
        ) from None
    if used and not (overwrite or resume):
        raise UserError(
            f"--output_dir {path} exists and is not empty; continue it with "
            f"--resume_from_checkpoint, replace its model with {overwrite_flag}, or give another"
        )
    return folder


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder atomically, file by file: ``write`` fills a temporary folder beside
    ``target``, whose files then take their places in it by renaming."""
    staging = target / ".writing-model"
    try:
        shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
        staging.mkdir(parents=True)
        write(staging)
        for path in sorted(staging.iterdir()):
            os.replace(path, target / path.name)
    except Exception as error:  # safetensors, tokenizers and torch each raise their own kind
        raise UserError(
            f"cannot write {target}: {first_line(error)}; check its free space and permissions"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(target, text.encode("utf-8"))


def write_atomically(target: Path, content: bytes) -> None:
    """Write a file such that it is there whole or not at all."""
    target = target.resolve()  # a link stays one; what it points to is written
    temporary = target.with_name(f".{secrets.token_hex(4)}.writing")
    try:
        if target.exists() and not target.is_file():  # a pipe or a device has no atomic form
            target.write_bytes(content)
            return
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None


def same_file(one: str, other: str) -> bool:
    """Whether two names, of which a file may not exist yet, are of one file."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return Path(one).resolve() == Path(other).resolve()
