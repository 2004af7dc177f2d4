"""Files and folders are written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from diffusion.errors import UserError, cause

LOCK, STAGING, MODEL_STAGING = ".lock", ".writing", ".writing-model"
LEFT = {LOCK, STAGING, MODEL_STAGING}  # names that a killed process may leave behind


def given_path(name: str, what: str = "") -> Path:
    """The path that a user gave, with ~ expanded; a name that no file could have is refused: too long,
    a null byte, an unknown user."""
    try:
        path = Path(name).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or cause(error)
        raise UserError(f"{what}{name!r} names no file ({why}); give another") from None
    return path


def check_output_dir(path: str, overwrite: bool, resume: bool, overwrite_flag: str) -> Path:
    """An output folder that can be written to, empty unless the user said otherwise."""
    folder = given_path(path, "--output_dir ")
    if folder.is_file():
        raise UserError(f"--output_dir {path} is a file; give a folder")
    existing = next(p for p in [folder, *folder.absolute().parents] if os.path.lexists(p))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output_dir {path} cannot be written to; give a folder that can")
    # The rest of a first checkpoint of a killed run cannot be resumed.
    used = folder.is_dir() and not set(os.listdir(folder)) <= LEFT
    if used and not (overwrite or resume):
        raise UserError(
            f"--output_dir {path} exists and is not empty; continue it with "
            f"--resume_from_checkpoint, replace its model with {overwrite_flag}, or give another"
        )
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No two processes in a folder: the system releases the lock when its process dies."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"--output_dir {folder} is being written by another process; wait for it, or give "
            "another folder"
        ) from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder atomically, file by file: ``write`` fills a temporary folder in ``target``, whose
    files then take their places by renaming."""
    staging = target / MODEL_STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
        staging.mkdir(parents=True)
        write(staging)
        for path in sorted(staging.iterdir()):
            os.replace(path, target / path.name)
    except Exception as error:  # safetensors, tokenizers and torch each raise their own kind
        raise UserError(
            f"cannot write {target}: {cause(error)}; check its free space and permissions"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file such that it is there whole or not at all."""
    # A name of a file that is not UTF-8 may stand in it.
    write_atomically(target, text.encode("utf-8", "backslashreplace"))


def write_atomically(target: Path, content: bytes) -> None:
    with unfinished(target) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``target`` when all is written and vanishes otherwise."""
    target = target.resolve()  # a link stays one; what it points to is written
    temporary = target.with_name(f".{os.getpid()}.writing{target.suffix.lower()}")
    try:
        if target.exists() and not target.is_file():  # a pipe or a device has no atomic form
            yield target
            return
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_file(flag: str, path: str) -> None:
    """Refuse a name to which no file can be written, before any work."""
    file = given_path(path, f"{flag} ")
    folder = file.absolute().parent
    if not path or path.endswith("/") or file.is_dir():
        raise UserError(f"{flag} {path!r} is a folder; give the name of a file")
    if not folder.is_dir():
        raise UserError(f"{flag} {path!r}: the folder {folder} does not exist; make it first")
    for place in (folder, file):  # the folder alone would allow it: a file is replaced whole
        if place.exists() and not os.access(place, os.W_OK):
            raise UserError(f"{flag} {path!r}: {place} is read-only; give another file")


def check_apart(outputs: dict[str, str | None], inputs: dict[str, str | None]) -> None:
    """Refuse an output that would replace an input or another output of the command, or lie in a
    folder that is read, unless that is the current one. Flags with their values, or None; an input may
    be no file, or a device: /dev/stdin may go to /dev/stdout."""
    taken = {Path(p).resolve(): flag for flag, p in inputs.items() if p and os.path.exists(p)}
    folders = {place for place in taken if place.is_dir() and place != Path.cwd()}
    for flag, path in outputs.items():
        place = Path(path or os.devnull).resolve()
        for folder in folders & set(place.parents):
            raise UserError(
                f"{flag} {path!r} lies in the folder of {taken[folder]}; give another place"
            )
        if place in taken and (place.is_file() or not place.exists()):
            raise UserError(f"{taken[place]} and {flag} are both {path!r}; give two files")
        taken[place] = flag


ANIMATIONS = (".gif", ".mp4", ".html", ".png")


def check_animation_path(path: str | os.PathLike) -> None:
    """Refuse a name to which no animation can be written, before any work."""
    suffix = Path(path).suffix.lower()
    if suffix not in ANIMATIONS:
        raise UserError(f"{path}: an animation ends in one of {', '.join(ANIMATIONS)}")
    check_file("--save_animation", str(path))
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise UserError(f"{path}: MP4 needs the program ffmpeg; install it, or write a .gif")
