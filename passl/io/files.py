"""Atomic writes: a file is complete, or it is absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

HOME = "PASSL_HOME"
_UNFINISHED = re.compile(r"\.(.+)\.([1-9][0-9]{0,6})\.tmp", re.DOTALL)


def write_atomically(
    path: Path,
    write: Callable[[Path], object],
    first: Sequence[Path] = (),
    previous: Path | None = None,
) -> None:
    """Write a temporary file, flush it to the disk, and rename it to `path`.

    Whatever happens, `path` has either its old content or all of the new one. Its mode follows the
    umask, as that of any new file.

    Args:
        path: the file; its folder exists.
        write: creates the file at the path that it is called with, which has the same name and is
            in a new folder beside `path`.
        first: other names in the same folder that get the same content before `path` does.
        previous: another name in the same folder for the old content of `path`, once the new
            content is on the disk.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    try:
        with unfinished(path) as folder:
            temporary = folder / path.name
            write(temporary)
            _follow_umask(temporary)
            sync(temporary)
            for other in first:
                duplicate(temporary, other)
            if previous is not None and path.exists():
                duplicate(path, previous)
            os.replace(temporary, path)
            sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None  # not the temporary name
    except UnicodeEncodeError:  # safetensors and Paddle accept UTF-8 names only
        raise OSError(errno.EILSEQ, "a name that is not UTF-8; choose another", str(path)) from None


def _follow_umask(path: Path) -> None:
    """Give the file the mode of any new file. Some writers, such as safetensors', create one that
    only its owner can read.
    """
    # The folder is of this process, too.
    mode = path.parent.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        with suppress(OSError):  # a file system without modes
            path.chmod(mode)


def duplicate(source: Path, target: Path) -> None:
    """Replace `target` atomically by a hard link to `source`, or by a copy if the file system has
    no hard links.
    """
    with unfinished(target) as folder:
        temporary = folder / target.name
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            sync(temporary)
        os.replace(temporary, target)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Create a folder beside `path`, `.NAME.PID.tmp`, for what is moved there when it is complete.
    The folder is removed at the end, and so are those that killed processes left for `path`.
    """
    remove_unfinished(path.parent, path.name)
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left: files and folders called `.NAME.PID.tmp` whose process has
    ended on this machine, or is this one.

    Args:
        name: what was to be written; None for anything.
    """
    for path in folder.glob(".*.tmp"):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None or match[1] != (name or match[1]) or _is_another(int(match[2])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # another user's, which does no harm
                path.unlink()


def _is_another(pid: int) -> bool:
    """Return whether a process other than this one has that number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def obstacles(path: Path | None) -> Iterator[str]:
    """Why a new file or folder cannot be written at that path, as rules for an error message."""
    if path is not None and path.exists():
        yield "is there already and is not overwritten; choose another name"
    elif path is not None and not path.absolute().parent.is_dir():
        yield f"the folder {path.parent} does not exist; make it first"


def open_regular(path: str | Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a file to read, but not a pipe, which could block. A shell's own, /dev/stdin or <(...),
    has a writer.

    Raises:
        OSError: it cannot be opened; its `strerror` is the reason.
    """
    if os.path.exists(path) and not os.path.isfile(path) and Path(path).parts[:2] != ("/", "dev"):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return open(path, mode, **options)  # noqa: SIM115 (the caller closes it)


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file by the text in UTF-8, atomically.

    File names that are not UTF-8 keep their bytes (PEP 383), so that a list of files can be read
    back.
    """
    try:
        content = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, which is created if necessary. A last line that was cut short stays
    a line of its own.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """Return the value as JSON that is valid UTF-8. Letters are not escaped; the bytes of a file
    name that is not UTF-8 are, and `json.loads` and `os.fsencode` restore them.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode(errors="backslashreplace").decode()


def cache_folder() -> Path:
    """Return PASSL_HOME, by default `passl` in the user's cache folder."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get(HOME) or caches / "passl").expanduser().absolute()
