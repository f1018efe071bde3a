"""Feature files: the features of a dataset, with the labels and names of its samples and the names
of its classes. Imports no paddle.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import ConfigError, no_file
from passl.io.files import obstacles, sha256_of, sync, to_json, write_atomically, write_text

ENDINGS = (".npy", ".npz")
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Features:
    """The features of N samples, in the order of their dataset.

    Attributes:
        values: float16 or float32 [N, D], or [N, C, Y, X] for feature maps.
        labels: int64 [N].
        names: the name of each sample.
        classes: class names in the order of their labels.
        about: what the features were computed from, see `features.describe`.
    """

    values: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    classes: list[str]
    about: Mapping[str, Any]


def labels_beside(path: Path) -> Path:
    """The file with the labels and names that belong to a `.npy` file."""
    return path.with_suffix(".labels.npz")


def output_problems(out: Path) -> Iterator[str]:
    """Why features cannot be written to a path, as rules for an error message."""
    if out.suffix not in ENDINGS:
        yield f"{out}: must end in {' or '.join(ENDINGS)}"
        return
    yield from (f"{out}: {rule}" for rule in obstacles(out))
    # An unfinished output may have written its labels already.
    if out.suffix == ".npy" and labels_beside(out).exists() and not _partial(out).is_dir():
        yield from (f"{labels_beside(out)}: {rule}" for rule in obstacles(labels_beside(out)))


class Unfinished:
    """Features that are being computed: the folder `OUT.partial`, with the rows, and a record of
    how many of them are complete. The folder is removed when the output is written.

    Args:
        out: `.npy` or `.npz`.
        shape: of all features, [N, ...].
        dtype: float16 or float32.
        about: what they are computed from, as plain data. A folder that exists must agree.

    Attributes:
        done: number of complete rows, counted from the first.

    Raises:
        ConfigError: the folder is damaged, or holds features of something else.
    """

    def __init__(self, out: Path, shape: Sequence[int], dtype: str, about: Mapping[str, Any]):
        self.done = 0
        self._out, self._folder = out, _partial(out)
        self._rows, self._record = self._folder / "features.npy", self._folder / "record.json"
        self._about = json.loads(to_json(dict(about)))
        self._row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        self._folder.mkdir(exist_ok=True)
        if self._record.exists():
            self._continue(tuple(shape), dtype)
        else:
            np.lib.format.open_memmap(self._rows, "w+", dtype, tuple(shape))
            self._write_record()
        self._offset = np.load(self._rows, mmap_mode="r").offset

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows to the disk, and record them."""
        # Not through a memory map: on a full disk that would kill the process by a signal.
        try:
            with self._rows.open("r+b") as file:
                file.seek(self._offset + self.done * self._row_bytes)
                file.write(np.ascontiguousarray(rows).tobytes())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._rows)) from None
        sync(self._rows)
        self.done += len(rows)
        self._write_record()

    def finish(self, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> None:
        """Write the output from the complete rows, and remove the folder."""
        about, out = self._about, self._out
        arrays = {
            "labels": np.asarray(labels, np.int64),
            "names": np.array(names, np.str_),
            "classes": np.array(classes, np.str_),
        }
        if out.suffix == ".npz":
            arrays["features"] = np.load(self._rows, mmap_mode="r")
            _write_arrays(out, about, arrays)
        else:
            _write_arrays(labels_beside(out), {**about, "sha256": sha256_of(self._rows)}, arrays)
            os.replace(self._rows, out)
            sync(out.parent)
        shutil.rmtree(self._folder)

    def _continue(self, shape: tuple[int, ...], dtype: str) -> None:
        way_out = f"remove {self._folder} to begin again"
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            about, done = record["about"], record["done"]
            rows = np.load(self._rows, mmap_mode="r")
            if not (type(done) is int and 0 <= done <= len(rows)):
                raise ValueError(f"{done} rows of {len(rows)} are complete")
            differing = [key for key in self._about if about.get(key) != self._about[key]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self._folder}: is damaged ({error}); {way_out}") from None
        if differing or (rows.shape, rows.dtype) != (shape, np.dtype(dtype)):
            raise ConfigError(
                f"{self._folder}: holds unfinished features of something else; it differs in "
                f"{', '.join(differing) or 'shape'}; call it as before to continue, choose another "
                f"--out, or {way_out}"
            )
        self.done = done

    def _write_record(self) -> None:
        record = {"done": self.done, "about": self._about}
        write_text(self._record, to_json(record, indent=1) + "\n")


def read_features(path: Path) -> Features:
    """Read a feature file; the values of a `.npy` file are a memory map.

    Raises:
        ConfigError: the file is missing, unfinished, damaged or something else.
    """
    if path.suffix not in ENDINGS:
        raise ConfigError(f"{path}: must end in {' or '.join(ENDINGS)}, as `passl features` writes")
    if not path.is_file():
        if _partial(path).is_dir():
            raise ConfigError(f"{path}: is unfinished; call `passl features` as before to continue")
        raise ConfigError(f"{path}: {no_file(path, 'feature file')}; write it by `passl features`")
    beside = path if path.suffix == ".npz" else labels_beside(path)
    if not beside.is_file():
        raise ConfigError(f"{path}: has no labels; {beside} is missing, which belongs to it")
    try:
        with beside.open("rb") as stream, np.load(stream) as file:
            arrays = dict(file)
        about = json.loads(arrays["about"].item())
        if path.suffix == ".npy":
            arrays["features"] = np.load(path, mmap_mode="r")
            if about.pop("sha256") != sha256_of(path):
                raise ValueError(f"its SHA-256 is not the one in {beside.name}")
        found = Features(
            values=arrays["features"],
            labels=arrays["labels"],
            names=arrays["names"],
            classes=arrays["classes"].tolist(),
            about=about,
        )
        _check(found)
    except Exception as error:  # NumPy and zipfile raise many
        raise ConfigError(
            f"{path}: is damaged, or was not written by `passl features` ({error}); write it again"
        ) from None
    return found


def _check(found: Features) -> None:
    """Raise a ValueError if the arrays do not belong together."""
    count = len(found.labels)
    if found.values.dtype.name not in DTYPES or found.values.ndim < 2:
        raise ValueError(f"features of shape {found.values.shape} and {found.values.dtype}")
    if found.labels.dtype != np.int64 or found.labels.shape != (count,):
        raise ValueError(f"labels of shape {found.labels.shape} and {found.labels.dtype}")
    if not len(found.values) == len(found.names) == count:
        raise ValueError(f"{len(found.values)} features, {len(found.names)} names, {count} labels")


def _write_arrays(path: Path, about: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    text = np.array(to_json(about))
    write_atomically(path, lambda temporary: np.savez(temporary, about=text, **arrays))


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")
