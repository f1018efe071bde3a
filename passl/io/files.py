"""Files that are there complete, or not at all."""

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
from typing import Any

_UNFINISHED = re.compile(r"\.(.+)\.([1-9][0-9]{0,6})\.tmp", re.DOTALL)


def write_atomically(
    path: Path,
    write: Callable[[Path], object],
    first: Sequence[Path] = (),
    previous: Path | None = None,
) -> None:
    """Let `write` fill a temporary file, flush it to the disk, and rename it to `path`.

    Whatever happens on the way, `path` holds either what it held before or all of the new content.
    Who may read it follows from the umask, as with any new file.

    Args:
        path: the file; its folder exists.
        write: is given the temporary path, of the same name in a folder of its own beside `path`,
            and creates that file.
        first: other names in the same folder that get the same content before `path` does.
        previous: another name in the same folder for what `path` held, once the new content is on
            the disk.

    Raises:
        OSError: it cannot be written; the error names `path`.
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
    except UnicodeEncodeError:  # safetensors and Paddle take names of UTF-8 only
        raise OSError(errno.EILSEQ, "a name that is not UTF-8; choose another", str(path)) from None


def _follow_umask(path: Path) -> None:
    """Let the file have the mode of any new file. Some writers, such as safetensors', make one that
    only its owner can read.

    Args:
        path: in a folder that was made by this process.
    """
    mode = path.parent.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        with suppress(OSError):  # a file system that has no modes
            path.chmod(mode)


def duplicate(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, or a copy where there are no hard links. It is
    replaced at once, complete.
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
    """A new folder beside `path`, `.NAME.PID.tmp`, for what shall be moved there once it is
    complete. The folder is removed at the end, and so is what processes that were killed have left
    for the same `path`.
    """
    remove_unfinished(path.parent, path.name)
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what processes that were killed have left: files and folders called `.NAME.PID.tmp`
    whose process this machine does not have any more, or is this one.

    Args:
        name: what was to be written; null for anything.
    """
    for path in folder.glob(".*.tmp"):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None or match[1] != (name or match[1]) or _is_another(int(match[2])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # another user's; it is in nobody's way
                path.unlink()


def _is_another(pid: int) -> bool:
    """Whether another process than this one has that number."""
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


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by the text, atomically.

    In UTF-8; file names that are not UTF-8 keep their bytes (PEP 383), so that a list of files can
    be read back.
    """
    try:
        content = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which is made if need be. A last line that was cut short stays alone.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON that is always valid UTF-8: letters stand as they are, and the bytes of a
    file name that is not UTF-8 as escapes, which `json.loads` and `os.fsencode` turn back.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode(errors="backslashreplace").decode()
