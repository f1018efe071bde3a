"""The checkpoints of a run at an address, such as s3://bucket/run.

Files are stored once, under the SHA-256 of their content: `objects/SHA256`. What is there under a
name does not change, so a file that was cut short is written again, and a complete one stays. A
manifest says which files the folder of the run has:

    last.json       {"format", "id", "generation", "files": {NAME: {"sha256", "size"}}}
    previous.json   the manifest before

A manifest is written when all its objects are there, and objects are removed when neither manifest
has them. So whenever a run is killed, one of them is complete, and it is found without a listing,
which may be late. `remote.json` in the local folder has the id of the run and the generation that
it has published or restored: a higher one at the address is that of another machine.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import BaseModel, StringConstraints, ValidationError

from passl.engine.run_files import METRICS, STARTS
from passl.engine.run_folder import (
    BEST,
    CONFIG,
    CONFIG_OF_RESUME,
    KEPT,
    LAST,
    PREVIOUS,
    RECENT,
    has_checkpoint,
    outdated,
)
from passl.errors import ConfigError, RunError
from passl.io.files import duplicate, sha256_of, write_atomically, write_text
from passl.io.lock import locked
from passl.io.remote import (
    fetch,
    is_url,
    make_folder,
    names_at,
    read_url,
    remove_url,
    upload,
    write_url,
)
from passl.logging import get_logger

LOCAL = "remote.json"
_LAST, _PREVIOUS, _OBJECTS = "last.json", "previous.json", "objects"
_PUBLISHED = (LAST, PREVIOUS, BEST, METRICS, CONFIG, STARTS)
_NUMBERED = (CONFIG_OF_RESUME, KEPT, RECENT)
_SHA256 = r"[0-9a-f]{64}"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"


class _File(BaseModel):
    sha256: Annotated[str, StringConstraints(pattern=f"^{_SHA256}$")]
    size: Annotated[int, Ge(0)]


class _Manifest(BaseModel):
    format: Literal[1]
    id: str
    generation: int
    files: dict[Annotated[str, StringConstraints(pattern=f"^{_NAME}$")], _File]

    @property
    def objects(self) -> set[str]:
        return {file.sha256 for file in self.files.values()}


class RemoteFolder:
    """The files of a run at an address, and the local folder that they are those of.

    Args:
        folder: of the run.
        url: of a folder that no other run uses.
        keep_last: see `Saver`.

    Raises:
        ConfigError: it is not an address.
    """

    def __init__(self, folder: Path, url: str, keep_last: int | None = None):
        if not is_url(url):
            raise ConfigError(
                f"checkpoint.url: {url} is not an address such as s3://bucket/run; output_dir is "
                "the folder on a disk"
            )
        self.folder, self.url, self.keep_last = folder, url.rstrip("/"), keep_last
        self._sums: dict[tuple[int, int, int], _File] = {}
        self._is_cleaned = False

    @property
    def is_known(self) -> bool:
        """Whether the folder is that of the run at the address."""
        return self._own() is not None

    def check_unused(self) -> None:
        """Raise ConfigError if a run has files there."""
        manifest, _ = self._manifests()
        if manifest is not None or names_at(f"{self.url}/{_OBJECTS}"):
            raise ConfigError(
                f"checkpoint.url: {self.url} holds a run already; continue it by --resume auto, or "
                "choose another with -o checkpoint.url=..."
            )

    def restore(self) -> None:
        """Bring the files of the address into the folder, if it has not published or restored them.
        Every machine calls it; its processes take turns.

        Raises:
            ConfigError: the folder has checkpoints of another run.
            RunError: the address cannot be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCAL, quiet=True):
            manifest, _ = self._manifests()
            own = self._own()
            self._check_id(manifest, own)
            known = own[1] if own is not None and has_checkpoint(self.folder) else 0
            if manifest is None or known >= manifest.generation:
                return
            get_logger().info("restoring generation %d from %s", manifest.generation, self.url)
            for name in (BEST, PREVIOUS, LAST, METRICS, CONFIG, STARTS):
                if name in manifest.files:
                    self._restore(name, manifest.files[name])
            if not has_checkpoint(self.folder):
                raise RunError(
                    f"{self.url}: its manifest names checkpoints, but none of them is there; "
                    "restore them, or start a new run with another checkpoint.url"
                )
            self._note(manifest.id, manifest.generation)

    def publish(self, step: int) -> None:
        """Bring the files of the folder to the address.

        Args:
            step: after which the last state is.

        Raises:
            RunError: another run writes there.
            OSError: they cannot be written; those that were there before are complete.
        """
        try:
            self._publish(step)
        except FileNotFoundError as error:  # no such bucket, or no such folder around it
            raise OSError(f"{self.url}: {error}; make what it is in first") from None
        except _UnreachableError as error:
            raise OSError(str(error)) from None

    def _publish(self, step: int) -> None:
        try:
            manifest, before = self._manifests()
        except RunError as error:
            raise _UnreachableError(str(error)) from None
        own = self._own()
        self._check_id(manifest, own)
        generation = 0 if own is None else own[1]
        if manifest is not None and manifest.generation > generation:
            raise RunError(
                f"{self.url}: another process has written generation {manifest.generation} there, "
                f"after this run's {generation}; let one run at a time use it"
            )
        local = {path.name: path for path in self._local_files()}
        files = self._carried(manifest, local, step)
        files |= {name: self._file(path) for name, path in local.items()}
        if manifest is not None and files == manifest.files:
            return
        new = _Manifest(
            format=1,
            id=own[0] if own else manifest.id if manifest else uuid.uuid4().hex,
            generation=1 + max(generation, manifest.generation if manifest else 0),
            files=files,
        )
        if not self._is_cleaned:
            make_folder(self.url)
            make_folder(f"{self.url}/{_OBJECTS}")
        try:
            for name, path in local.items():
                upload(path, self._object(files[name]))
            if manifest is not None:
                write_url(f"{self.url}/{_PREVIOUS}", manifest.model_dump_json().encode())
            self._note(new.id, new.generation - 1)
            write_url(f"{self.url}/{_LAST}", new.model_dump_json().encode())
        except RunError as error:
            raise _UnreachableError(str(error)) from None
        self._note(new.id, new.generation)
        self._clean(new.objects | (manifest.objects if manifest else set()), before)

    def _clean(self, wanted: set[str], before: _Manifest | None) -> None:
        """Remove objects that neither manifest has; at first also those of killed runs."""
        unwanted = set() if before is None else before.objects - wanted
        if not self._is_cleaned:
            names = names_at(f"{self.url}/{_OBJECTS}")
            unwanted |= {name for name in names if re.fullmatch(_SHA256, name)} - wanted
            self._is_cleaned = True
        for name in sorted(unwanted):
            remove_url(f"{self.url}/{_OBJECTS}/{name}")

    def _carried(
        self, manifest: _Manifest | None, local: dict[str, Path], step: int
    ) -> dict[str, _File]:
        """Kept checkpoints that were not restored into this folder."""
        names = [] if manifest is None else [name for name in manifest.files if name not in local]
        recent = {_number(name): name for name in (*names, *local) if _is(RECENT, name)}
        old = {recent[number] for number in outdated(recent, step, self.keep_last)}
        kept = [n for n in names if _is(KEPT, n) or (_is(RECENT, n) and n not in old)]
        return {} if manifest is None else {name: manifest.files[name] for name in kept}

    def _local_files(self) -> list[Path]:
        found = [self.folder / name for name in _PUBLISHED]
        for name in _NUMBERED:
            found += sorted(self.folder.glob(name.format("*")))
        return [path for path in found if path.is_file()]

    def _file(self, path: Path) -> _File:
        """Hash and size of a file. Hard links and unchanged files are read once."""
        stat = path.stat()
        key = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if key not in self._sums:
            self._sums[key] = _File(sha256=sha256_of(path), size=stat.st_size)
        return self._sums[key]

    def _restore(self, name: str, file: _File) -> None:
        path = self.folder / name
        for other in self._local_files():
            if self._file(other) == file:
                if other != path:
                    duplicate(other, path)
                return
        try:
            url = self._object(file)
            write_atomically(path, lambda temporary: fetch(url, temporary, file.size, file.sha256))
        except FileNotFoundError:
            path.unlink(missing_ok=True)  # of an earlier generation
            get_logger().warning("%s: %s, is missing there", url, name)

    def _manifests(self) -> tuple[_Manifest | None, _Manifest | None]:
        """The last manifest that is complete, null if there is none; and the one before."""
        found, damaged = [], ""
        for name in (_LAST, _PREVIOUS):
            try:
                found.append(_Manifest.model_validate_json(read_url(f"{self.url}/{name}")))
            except FileNotFoundError:
                continue
            except ValidationError:
                damaged = f"{self.url}/{name} is damaged, or of another version of passl"
                get_logger().warning("%s", damaged)
        if damaged and not found and self._own() is None:
            raise ConfigError(f"{damaged}; restore it, or choose another checkpoint.url")
        return (found[0] if found else None), (found[1] if len(found) > 1 else None)

    def _own(self) -> tuple[str, int] | None:
        try:
            stored: dict[str, Any] = json.loads((self.folder / LOCAL).read_text(encoding="utf-8"))
            if stored["url"] != self.url:
                return None
            return str(stored["id"]), int(stored["generation"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.folder / LOCAL}: cannot be read: {error}") from None

    def _note(self, run: str, generation: int) -> None:
        stored = {"url": self.url, "id": run, "generation": generation}
        write_text(self.folder / LOCAL, json.dumps(stored) + "\n")

    def _check_id(self, manifest: _Manifest | None, own: tuple[str, int] | None) -> None:
        if manifest is None:
            return
        is_other = own is not None and own[0] != manifest.id
        if is_other or (own is None and has_checkpoint(self.folder)):
            raise ConfigError(
                f"checkpoint.url: {self.url} holds another run than output_dir {self.folder}; "
                "choose the output_dir of that run, a new one, or another checkpoint.url"
            )

    def _object(self, file: _File) -> str:
        return f"{self.url}/{_OBJECTS}/{file.sha256}"


class _UnreachableError(Exception):
    """The address cannot be read or written now."""


def _is(pattern: str, name: str) -> bool:
    before, after = pattern.split("{}")
    return name.startswith(before) and name.endswith(after) and _number(name) >= 0


def _number(name: str) -> int:
    """N of step_N.safetensors or recent_N.safetensors; -1 for another name."""
    number = name.rpartition(".")[0].rpartition("_")[2]
    return int(number) if number.isdecimal() else -1
