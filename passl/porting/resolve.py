"""From what a user calls weights to a file: a path, an address, or a name of the model zoo."""

from __future__ import annotations

from pathlib import Path

from passl.io.download import cache_folder, fetch_file, fetch_url
from passl.logging import get_logger
from passl.porting.weight_file import SUFFIXES
from passl.porting.zoo import Entry, find, is_known


def locate(weights: str | Path) -> Path:
    """The file of some weights; downloaded, verified and cached if it is not here.

    Args:
        weights: a path (`~` is the home folder); an address, https only; or a name of the model
            zoo, which comes before a file or folder of that name: `./NAME` means that one.

    Raises:
        ConfigError: it is none of them.
        RunError: it cannot be had from here.
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
    """The file of a variant's default entry of the model zoo.

    Raises:
        ConfigError: there is no such variant.
        RunError: it cannot be had from here.
    """
    return fetch(find(variant))


def zoo_entry(weights: str | Path) -> Entry | None:
    """The entry of the model zoo that is meant; None for a path or an address. No name of the zoo
    ends as a readable file does, so a file or folder of that name is never what is meant.

    Raises:
        ConfigError: it looks like a name of the zoo, but is none.
    """
    path, text = Path(weights), str(weights)
    if isinstance(weights, Path) or path.suffix in SUFFIXES or path.name != text or "://" in text:
        return None
    return find(text) if is_known(text) or not path.exists() else None


def fetch(entry: Entry, home: str | Path | None = None) -> Path:
    """Return the file of a zoo entry: from the cache, else downloaded.

    Args:
        entry: an entry of the model zoo. A file that was put by hand where this function's error
            says is used too.
        home: folder of the cache, by default that of `cache_folder`.

    Raises:
        RunError: the file is not there and cannot be downloaded, or the download is not the file.
    """
    path = cache_folder(home) / "weights" / entry.name / entry.file
    return fetch_file(
        entry.name, entry.url, path, sha256=entry.sha256, size=entry.size, note=entry.note
    )
