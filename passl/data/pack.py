"""Write a dataset into tar shards that are faster to read: the images are resized once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.fingerprint import fingerprint
from passl.data.datasets.images import FORMATS
from passl.data.datasets.index import write_index
from passl.data.datasets.remote_shards import INDEX, INDEX_KEY, MANIFEST, digest_of
from passl.data.datasets.tar_shards import IMAGE_KEYS, TarShards
from passl.data.transforms.evaluation import resize
from passl.errors import ConfigError, RunError
from passl.io.files import sha256_of, to_json, write_atomically, write_text
from passl.io.lock import locked
from passl.io.pool import map_in_processes

PLAN, CLASSES = "plan.json", "classes.txt"
_RECORDS = ".records"
_ORIENTATION = 0x0112
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Suffixes of Pillow's formats; those of others are their names in lower case."""
_ENCODED: Mapping[str, tuple[str, str]] = {
    "jpeg": ("JPEG", "jpg"),
    "png": ("PNG", "png"),
    "raw": ("PPM", "ppm"),
}
"""Pillow's format and the suffix of each `Packing.format`."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How images are written.

    Args:
        short_side: pixels of the shorter side; smaller images keep their size. Null keeps all.
        interpolation: Pillow's filter, as of the transform `Resize`.
        format: `jpeg`; `png`, without loss; `raw`, the pixels in a PPM file; or `copy`, the content
            of the original files.
        quality: of JPEG, from 1 to 100.
        exif: keep the EXIF block of the original file.
        metadata: also write `KEY.json`, with name, label, class, width and height of the original.
        shuffled: write the samples in a random order, always the same one. Training reads shards
            nearly in order, so neighbors must not be of one class.
        samples: in a shard.
        skip_bad: leave out images that cannot be read, rather than end.

    Raises:
        ConfigError: options do not go together.
    """

    short_side: int | None = 256
    interpolation: str = "bicubic"
    format: Literal["jpeg", "png", "raw", "copy"] = "jpeg"
    quality: int = 90
    exif: bool = False
    metadata: bool = False
    shuffled: bool = True
    samples: int = 1000
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.format == "copy" and self.short_side is not None:
            raise ConfigError(
                f"format copy keeps the files as they are, so short_side {self.short_side} does "
                "not go with it; leave one of them out"
            )
        if self.exif and self.format == "raw":
            raise ConfigError("format raw has no EXIF block; choose jpeg or png, or no EXIF")


def pack(
    dataset: ImageDataset,
    folder: Path,
    name: str,
    packing: Packing,
    workers: int,
    done: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Write a dataset into shards `FOLDER/NAME-000000.tar`, with a class file, a manifest and
    indexes. A call that was interrupted is continued by the same call, which keeps whole shards.

    Each shard is read back and compared before it gets its name.

    Args:
        folder: new, or of an earlier call with the same arguments.
        name: the beginning of the shards' names.
        workers: processes; 0 writes in this one.
        done: called with the number of samples written since the last call.

    Returns:
        The manifest.

    Raises:
        ConfigError: the folder has something else, or the dataset cannot be written in this form.
        RunError: an image cannot be read, or the disk has returned other bytes than were written.
    """
    _check(dataset, packing)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / PLAN):
        plan = {"packing": asdict(packing), "name": name, "data": fingerprint(dataset)}
        plan = json.loads(json.dumps(plan))  # as it is read
        _check_folder(folder, plan)
        _write_classes(folder / CLASSES, dataset.classes)
        (folder / _RECORDS).mkdir(exist_ok=True)
        order = np.arange(len(dataset))
        if packing.shuffled:
            order = np.random.default_rng(0).permutation(order)
        count = -(-len(order) // packing.samples)
        shards: list[dict[str, Any]] = []
        write = partial(_shard, dataset, order, folder, name, packing)
        try:
            for record in map_in_processes(write, range(count), workers):
                shards.append(record)
                done(record["samples"] + len(record["skipped"]))
        except BrokenProcessPool:
            raise RunError(
                "a process has died; SIGKILL often means that the machine is out of memory: use "
                "fewer --workers. Finished shards are kept: the same call continues"
            ) from None
        return _finish(dataset, folder, name, plan, shards)


def dataset_node(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `dataset` node of a config that reads the shards."""
    last = len(manifest["shards"]) - 1
    node = {
        "name": "TarShards",
        "shards": str(folder / f"{manifest['name']}-{{000000..{last:06d}}}.tar"),
        "class_file": str(folder / CLASSES),
    }
    if not set(manifest["image_keys"]) <= set(IMAGE_KEYS):
        node["image_keys"] = manifest["image_keys"]
    return node


def verify(folder: Path) -> list[str]:
    """Return what differs between the files of a folder and its manifest: nothing if it is whole.

    Raises:
        ConfigError: there is no manifest.
    """
    manifest = _read_json(folder / MANIFEST)
    if manifest is None:
        raise ConfigError(f"{folder}: has no complete {MANIFEST}; is it a folder of passl pack?")
    problems = []
    index = [manifest["index"]] if "index" in manifest else []  # earlier versions wrote none
    for file in [*manifest["shards"], *index]:
        path = folder / file["name"]
        if not path.is_file():
            problems.append(f"{path}: is missing")
        elif path.stat().st_size != file["bytes"] or sha256_of(path) != file["sha256"]:
            problems.append(f"{path}: differs from the manifest; copy or pack it again")
    return problems


# --------------------------------------------------------------------------------------------------
# The folder
# --------------------------------------------------------------------------------------------------
def _check(dataset: ImageDataset, packing: Packing) -> None:
    if dataset.task != "classification":
        raise ConfigError(f"only data with one label per image can be packed, not {dataset.task}")
    if packing.format == "copy" and dataset.source(0) is None:
        raise ConfigError("the samples of this dataset are not files to copy; choose jpeg or png")
    if dataset.mode == "RGBA" and packing.format in ("jpeg", "raw"):
        raise ConfigError(f"format {packing.format} has no opacity; choose png for mode RGBA")


def _check_folder(folder: Path, plan: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the folder is new or of this plan; write the plan."""
    before = _read_json(folder / PLAN)
    if before is None:
        others = [path.name for path in folder.iterdir() if not path.name.startswith(PLAN)]
        if others:
            raise ConfigError(
                f"{folder}: has {others[0]!r} and is not a folder of passl pack; name a new one"
            )
        write_text(folder / PLAN, to_json(plan, indent=1) + "\n")
    elif before != plan:
        different = [key for key in plan if before.get(key) != plan[key]]
        raise ConfigError(
            f"{folder}: was packed with other options or data ({', '.join(different)}); name "
            "another folder, or remove this one"
        )


def _write_classes(path: Path, classes: Sequence[str]) -> None:
    write_text(path, "".join(f"{name}\n" for name in classes))
    if read_class_file(str(path)) != list(classes):
        raise ConfigError(
            f"{path}: the class names cannot be lines of a class file, which would read them "
            "otherwise; rename the classes"
        )


def _finish(
    dataset: ImageDataset,
    folder: Path,
    name: str,
    plan: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the indexes and the manifest."""
    kept = np.array([index for shard in shards for index in shard["indices"]], np.int64)
    counts = np.bincount(dataset.labels[kept], minlength=len(dataset.classes))
    keys = sorted({suffix for shard in shards for suffix in shard["suffixes"]})
    facts = ("name", "samples", "bytes", "sha256")
    manifest = {
        "format": 1,
        **plan,
        "samples": len(kept),
        "classes": dict(zip(dataset.classes, counts.tolist(), strict=True)),
        "image_keys": keys,
        "label_key": "cls",
        "skipped": [skipped for shard in shards for skipped in shard["skipped"]],
        "shards": [{fact: shard[fact] for fact in facts} for shard in shards],
    }
    if not len(kept):
        raise RunError(f"{folder}: no image could be read")
    digests = np.array([digest for shard in shards for digest in shard["digests"]], "<i8")
    manifest["index"] = _write_index(folder, dataset_node(folder, manifest), digests)
    write_text(folder / MANIFEST, to_json(manifest, indent=1) + "\n")
    return manifest


def _write_index(folder: Path, node: Mapping[str, Any], digests: np.ndarray) -> dict[str, Any]:
    """Write the index that starts on this machine use, and the one for readers elsewhere, with the
    digests of the samples. Return name, size and hash of the latter.
    """
    index = TarShards.keep_index(**{key: value for key, value in node.items() if key != "name"})
    arrays = {**index.arrays, "digests": digests}
    index = replace(index, arrays=arrays, sources=())
    path = folder / INDEX
    write_atomically(path, partial(write_index, index=index, key=INDEX_KEY))
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _record_of(shard: Path) -> Path:
    """Return the file that says what a finished shard has, by which a later call knows it."""
    return shard.parent / _RECORDS / f"{shard.name}.json"


def _read_json(path: Path) -> Any:
    """Return the content of a file of ours; null if it is missing or was cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# --------------------------------------------------------------------------------------------------
# A shard
# --------------------------------------------------------------------------------------------------
def _shard(
    dataset: ImageDataset, order: np.ndarray, folder: Path, name: str, packing: Packing, number: int
) -> dict[str, Any]:
    """Write a shard unless it is there, and return its record."""
    path = folder / f"{name}-{number:06d}.tar"
    record = _read_json(_record_of(path))
    is_complete = record is not None and "digests" in record  # earlier versions wrote none
    if is_complete and path.is_file() and sha256_of(path) == record["sha256"]:
        return record
    indices = order[number * packing.samples : (number + 1) * packing.samples].tolist()
    record = {"name": path.name, "indices": [], "digests": [], "suffixes": [], "skipped": []}
    write_atomically(path, lambda file: _write_shard(file, dataset, indices, packing, record))
    write_text(_record_of(path), to_json(record))
    return record


def _write_shard(
    path: Path,
    dataset: ImageDataset,
    indices: Sequence[int],
    packing: Packing,
    record: dict[str, Any],
) -> None:
    with path.open("wb") as opened:
        file = _Hashed(opened)
        out = cast(BinaryIO, file)
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            for index in indices:
                try:
                    suffix, content = _encoded(dataset, index, packing)
                    about = _about(dataset, index) if packing.metadata else None
                except RunError as error:
                    if not packing.skip_bad:
                        raise
                    record["skipped"].append({"name": dataset.name(index), "error": str(error)})
                    continue
                members = {suffix: content, "cls": b"%d" % dataset.labels[index]}
                if about is not None:
                    members["json"] = about
                for ending, data in members.items():
                    member = tarfile.TarInfo(f"{index:09d}.{ending}")  # of time 0 and user 0
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                record["indices"].append(index)
                record["digests"].append(digest_of(content))
                record["suffixes"] = sorted({*record["suffixes"], suffix})
        opened.flush()
        os.fsync(opened.fileno())
    record["samples"] = len(record["indices"])
    record["bytes"], record["sha256"] = path.stat().st_size, file.digest.hexdigest()
    if sha256_of(path) != record["sha256"]:
        raise RunError(f"{path.name}: the disk returns other bytes than were written")


class _Hashed:
    """A file that hashes what is written."""

    def __init__(self, file: Any):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _encoded(dataset: ImageDataset, index: int, packing: Packing) -> tuple[str, bytes]:
    """Return the suffix and the content of an image's file."""
    if packing.format == "copy":
        dataset.load_image(index)  # raises for an image that cannot be read
        return _copied(dataset, index)
    image, _ = dataset[index]
    side = packing.short_side
    if side is not None and min(image.size) > side:
        image = resize(image, size=side, interpolation=packing.interpolation)
    kind, suffix = _ENCODED[packing.format]
    options: dict[str, Any] = {"quality": packing.quality} if kind == "JPEG" else {}
    if packing.exif:
        options["exif"] = _exif(dataset, index)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return suffix, file.getvalue()


def _copied(dataset: ImageDataset, index: int) -> tuple[str, bytes]:
    source = dataset.source(index)
    content = source if isinstance(source, bytes) else Path(str(source)).read_bytes()
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        kind = str(image.format)
    return _SUFFIXES.get(kind, kind.lower()), content


def _exif(dataset: ImageDataset, index: int) -> bytes:
    """Return the EXIF block of the original; without its orientation if the pixels are turned."""
    source = dataset.source(index)
    if source is None:
        return b""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            found = image.getexif()
            if getattr(_innermost(dataset), "exif_turn", False):
                found.pop(_ORIENTATION, None)
            return found.tobytes()
    except Exception as error:
        raise RunError(f"{dataset.name(index)}: its EXIF block cannot be read: {error}") from None


def _innermost(dataset: Any) -> Any:
    """Return the dataset that a `Subset` is of."""
    return getattr(dataset, "dataset", dataset)


def _about(dataset: ImageDataset, index: int) -> bytes:
    width, height = dataset.load_image(index).size
    label = int(dataset.labels[index])
    facts = {"name": dataset.name(index), "label": label, "class": dataset.classes[label]}
    return to_json({**facts, "width": width, "height": height}).encode()
