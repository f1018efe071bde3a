"""The file that a path, an address or a name of the model zoo means."""

from __future__ import annotations

from pathlib import Path

from passl.errors import CheckpointError, ConfigError
from passl.io.download import fetch_file, fetch_url, problem_of
from passl.io.files import cache_folder
from passl.logging import get_logger
from passl.porting.weight_file import SUFFIXES
from passl.porting.zoo import OWN, PACKAGED, Entry, find, is_known


def locate(weights: str | Path) -> Path:
    """Return the file of weights, after downloading it if necessary.

    Args:
        weights: a path (`~` is the home folder); an https address; or a name of the model zoo,
            which has priority over a file or folder of that name: `./NAME` means the latter.

    Raises:
        ConfigError: it is none of them.
        RunError: it cannot be downloaded.
    """
    if "://" in str(weights):
        return fetch_url(str(weights))
    entry = zoo_entry(weights)
    if entry is None:
        return Path(weights).expanduser()
    if Path(weights).exists():
        get_logger().warning(
            "%s: the weights %s of the model zoo, not the %s of that name here: write ./%s for it",
            *(weights, entry.name, "folder" if Path(weights).is_dir() else "file", weights),
        )
    return fetch(entry)


def fetch_default(variant: str) -> Path:
    """Return the file of a variant's default entry of the model zoo.

    Raises:
        ConfigError: there is no such variant.
        RunError: it cannot be downloaded.
    """
    return fetch(find(variant))


def zoo_entry(weights: str | Path) -> Entry | None:
    """Return the entry of the model zoo that is meant, or None for a path or an address.

    Raises:
        ConfigError: it looks like a name of the zoo, but is none.
    """
    path, text = Path(weights), str(weights)
    if isinstance(weights, Path) or path.suffix in SUFFIXES or path.name != text or "://" in text:
        return None
    if path.exists() and not is_known(text):
        return None
    try:
        return find(text)
    except ConfigError as error:
        raise ConfigError(f"{text}: there is no such file or folder, and {error}") from None


def fetch(entry: Entry) -> Path:
    """Return the file of a zoo entry: of this package, from the cache, or downloaded.

    Args:
        entry: an entry of the model zoo. A file that was put by hand where this function's error
            says is used too.

    Raises:
        CheckpointError: a file of this package is missing or damaged.
        RunError: the file is not there and cannot be downloaded, or the download is not the file.
    """
    if entry.source == OWN:
        path = PACKAGED / entry.file
        problem = problem_of(path, entry.sha256) if path.is_file() else "it is missing"
        if problem:
            raise CheckpointError(f"{path}: {problem}; install passl again")
        return path
    path = cache_folder() / "weights" / entry.name / entry.file
    return fetch_file(
        entry.name, entry.url, path, sha256=entry.sha256, size=entry.size, note=entry.note
    )
