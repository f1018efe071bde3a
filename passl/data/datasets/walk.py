"""Find the images below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from passl.errors import ConfigError
from passl.logging import get_logger

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Folder(NamedTuple):
    """The direct content of one folder.

    Args:
        path: the folder, as it was reached.
        real: its path without links.
        images: paths of the images, sorted.
        unusable: paths of broken links, and of pipes and sockets that are named like images.
        modified: nanoseconds since 1970, when the folder was last modified before it was listed.
    """

    path: str
    real: str
    images: list[str]
    unusable: list[str]
    modified: int


def walk_images(folder: str) -> Iterator[Folder]:
    """Iterate over a folder and all folders below it, sorted. Links are followed, but no folder is
    visited twice.

    Raises:
        ConfigError: a folder cannot be listed.
    """
    waiting, seen = [folder], set()
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        found, folders = Folder(path, real, [], [], _modified(path)), []
        for entry in list_folder(path):
            if _is(entry.is_dir):
                folders.append(entry.path)
                continue
            is_image, is_file = entry.name.lower().endswith(SUFFIXES), _is(entry.is_file)
            if is_image and is_file:
                found.images.append(entry.path)
            elif not is_file and (is_image or entry.is_symlink()):
                found.unusable.append(entry.path)
        yield found
        waiting += reversed(folders)


def _modified(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0  # `list_folder` says what is wrong


def list_folder(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name.

    Raises:
        ConfigError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder cannot be listed: {error.strerror}") from None


def has_image(folder: str) -> bool:
    """Return whether there is an image below a folder, usually after a look at a few entries."""
    with suppress(OSError), os.scandir(folder) as entries:
        if any(e.name.lower().endswith(SUFFIXES) and _is(e.is_file) for e in entries):
            return True
    return any(found.images for found in walk_images(folder))


def warn_unusable(folder: str, unusable: Sequence[str]) -> None:
    """Log a warning if paths below a folder were left out because they are unusable."""
    if unusable:
        get_logger().warning(
            "%s: %d broken links or special files are left out; the first is %s",
            folder,
            len(unusable),
            unusable[0],
        )


def _is(kind: Callable[[], bool]) -> bool:
    """Call a test of a directory entry; false for a circular or forbidden link."""
    try:
        return kind()
    except OSError:
        return False
