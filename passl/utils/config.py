"""Configs: YAML files read as plain data, with inheritance and overrides from the command line.

Numbers and booleans follow YAML 1.2 (`5e-4` is a number, `no` is a word), keys are unique, and
nothing is evaluated. A config keeps the file and line of each value, for errors and for
`tools/print_config.py`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from passl.errors import ConfigError
from passl.utils.imports import import_modules
from passl.utils.paths import escaped, expand, is_path
from passl.utils.yaml import MAX_DEPTH, Keys, parse, read

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configs are inside the package, in a checkout beside it.
CONFIG_ROOT = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
COMMAND_LINE = "-o"
DERIVED = "derived"
"""Origin of a value that is derived from others."""

Tree = tuple[dict[str, Any], dict[Keys, str]]
"""Data, and the origin of each of its leaves."""


class Config(Mapping):
    """A read-only mapping whose keys can be read as attributes. Lists are tuples, mappings are
    Configs.

    Args:
        data: plain data.
        origins: "FILE:LINE" or "-o" of each leaf. Only the root config has them.
        file: the file that was read, if any.
    """

    __slots__ = ("_data", "file", "origins")

    def __init__(
        self,
        data: Mapping[str, Any],
        origins: Mapping[Keys, str] | None = None,
        file: Path | None = None,
    ):
        object.__setattr__(self, "_data", {key: _frozen(value) for key, value in data.items()})
        object.__setattr__(self, "origins", dict(origins or {}))
        object.__setattr__(self, "file", file)

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, key: str) -> Any:
        try:
            return self._data[key]
        except KeyError:
            raise AttributeError(
                f"the config has no {key!r} here; it has {', '.join(self._data) or 'nothing'}"
            ) from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise TypeError(
            f"a config is read-only: {key!r} cannot be set. Change the file, or load it with "
            "overrides"
        )

    def __delattr__(self, key: str) -> None:
        raise TypeError(f"a config is read-only: {key!r} cannot be deleted")

    def __reduce__(self):
        return Config, (self.to_dict(), self.origins, self.file)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def filled(self, keys: Keys, value: Any) -> Config:
        """The config with a value at a place without one (or with null); another value stays."""
        if dict(leaves(self)).get(keys) is not None:
            return self
        origins = {**self.origins, keys: DERIVED}
        return Config(_with(self.to_dict(), keys, value), origins, self.file)

    def to_dict(self) -> dict[str, Any]:
        """A deep copy as dicts and lists."""
        return {key: _thawed(value) for key, value in self._data.items()}


def get_config(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, its bases and the overrides, and expand `~` and environment variables in
    paths (see `passl.utils.paths`). `passl.engine.check` checks the values.

    Modules listed under `imports` are imported, so their code runs. They are searched in the file's
    folder and the current folder first.

    Args:
        file: a path, absolute or relative to the current folder; failing that, relative to the
            configs that come with passl (`cvt/cvt_13_224.yaml`, with or without a leading
            `configs/`). `~` is the home folder.
        overrides: `a.b.0.c=value` each; the value is YAML.

    Raises:
        ConfigError: all problems of the files and overrides.
    """
    path = find_config(file)
    tree, origins = _read_with_bases(path, (), {})
    problems: list[str] = []
    for override in overrides:
        try:
            tree, origins = _apply(override, tree, origins)
        except ConfigError as error:
            problems += error.problems
    for keys, value in list(leaves(tree)):
        if is_path(keys, value):
            try:
                tree = _with(tree, keys, expand(value))
            except ConfigError as error:
                problems.append(f"{shown_origin(origins[keys])}: {dotted(keys)}: {error}")
    if problems:
        raise ConfigError(*problems)
    if tree.get("imports"):
        places = {
            int(keys[-1]) if len(keys) > 1 else 0: shown_origin(origin)
            for keys, origin in origins.items()
            if keys[0] == "imports"
        }
        import_modules(tree["imports"], (path.parent, Path.cwd()), places)
    return Config(tree, origins, path)


def storable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain data for a file. Dollar signs in its paths, which are expanded already,
    are escaped.
    """
    tree = Config(config).to_dict()
    for keys, value in list(leaves(tree)):
        if is_path(keys, value) and "$" in value:
            tree = _with(tree, keys, escaped(value))
    return tree


def find_config(file: str | Path) -> Path:
    """The path of a config file: as given, or among the shipped configs, where `.yaml` can be left
    out.
    """
    path = Path(os.path.expanduser(file))
    for candidate in (path, *_shipped(path)):
        if candidate.is_file():
            return candidate
    stems = {Path(name).name: name for name in shipped_names()}
    near = difflib.get_close_matches(path.stem, stems, n=1)
    hint = f"; did you mean {stems[near[0]]}?" if near else ""
    raise ConfigError(f"{path}: the config file {_what_instead(path)}{hint}")


def _shipped(name: Path) -> tuple[Path, Path]:
    """Where a shipped config of that name would be; `configs/` in front can be left out."""
    inside = Path(*name.parts[1:]) if name.parts[:1] == ("configs",) else name
    return CONFIG_ROOT / inside, CONFIG_ROOT / f"{inside}.yaml"


def _what_instead(path: Path) -> str:
    """The reason why a path is not a file."""
    if path.is_dir():
        stored = path / "config.yaml"  # of a run folder
        return "is a folder, not a file" + (f"; name {stored}" if stored.is_file() else "")
    return "is not a regular file" if path.exists() else "does not exist"


def shipped_configs() -> list[Path]:
    """Every config that comes with passl, without bases."""
    return sorted(path for path in CONFIG_ROOT.rglob("*.yaml") if "_base_" not in path.parts)


def shipped_names() -> list[str]:
    """The names of the shipped configs, such as `digits/convit`."""
    return [path.relative_to(CONFIG_ROOT).with_suffix("").as_posix() for path in shipped_configs()]


def closest(word: str, words: Collection[str]) -> str:
    """`; did you mean 'x'?`, or else all valid words."""
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return (
        f"; there {'is' if len(words) == 1 else 'are'} {', '.join(sorted(words))}" if words else ""
    )


def dotted(keys: Keys) -> str:
    """("a", 0, "b") as on the command line: a.0.b"""
    return ".".join(str(key) for key in keys)


def shown_origin(origin: str) -> str:
    """An origin as messages show it."""
    return "the command line (-o)" if origin == COMMAND_LINE else origin


def leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Each scalar, empty list and empty mapping, with its place."""
    if not tree and not keys:
        return
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*keys, key))
    elif isinstance(tree, list | tuple) and tree:
        for index, value in enumerate(tree):
            yield from leaves(value, (*keys, index))
    else:
        yield keys, tree


# --------------------------------------------------------------------------------------------------
# Merging
# --------------------------------------------------------------------------------------------------
def merge(base: Any, over: Any) -> Any:
    """Merge mappings key by key and replace anything else. A node whose `name` changes is replaced
    as a whole, and null removes a mapping.
    """
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    if "name" in over and over["name"] != base.get("name", over["name"]):
        return over
    gone = {key for key, v in over.items() if v is None and isinstance(base.get(key), Mapping)}
    merged = {key: merge(base[key], value) if key in base else value for key, value in over.items()}
    return {key: value for key, value in {**base, **merged}.items() if key not in gone}


def _merge_with_origins(base: Tree, over: Tree) -> Tree:
    tree = merge(base[0], over[0])
    origins = {**base[1], **over[1]}
    for keys, origin in over[1].items():  # a mapping that null has emptied is a leaf, too
        for length in range(1, len(keys)):
            origins.setdefault(keys[:length], origin)
    return tree, {keys: origins[keys] for keys, _ in leaves(tree)}


def _read_with_bases(path: Path, above: tuple[Path, ...], known: dict[str, Tree]) -> Tree:
    """A file merged over its bases, which may have bases too.

    Args:
        above: the chain of files that have it as a base, from the first one.
        known: results by file, so that a base of several files is read once.

    Raises:
        ConfigError: all problems of the file and its bases.
    """
    name = os.path.join(os.path.realpath(path.parent), path.name)
    if name in known:
        return known[name]
    tree, origins = read(path)
    chain = (*above, path)
    below: Tree = ({}, {})
    problems: list[str] = []
    for base, origin in _bases(path, tree.pop("_base_", []), origins):
        try:
            _check_base(base, origin, chain)
            below = _merge_with_origins(below, _read_with_bases(base, chain, known))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    origins = {keys: origin for keys, origin in origins.items() if keys[:1] != ("_base_",)}
    known[name] = _merge_with_origins(below, (tree, origins))
    return known[name]


def _bases(path: Path, names: Any, origins: Mapping[Keys, str]) -> list[tuple[Path, str]]:
    """The paths under `_base_`, each with its origin."""
    places = [origin for keys, origin in origins.items() if keys[:1] == ("_base_",)]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{places[0]}: _base_: must be the path of a config, or a list of paths")
    try:
        bases = [_base(path.parent, Path(expand(name))) for name in names]
    except ConfigError as error:
        raise ConfigError(f"{places[0]}: _base_: {error}") from None
    return [(_short(base), place) for base, place in zip(bases, places, strict=False)]


def _base(folder: Path, name: Path) -> Path:
    """The path of a base: relative to the file that names it, or else a shipped config."""
    found = [path for path in (folder / name, *_shipped(name)) if path.is_file()]
    return found[0] if found else folder / name


def _short(path: Path) -> Path:
    """The path without `..`, unless a symbolic link makes that another file."""
    short = Path(os.path.normpath(path))
    return short if not path.exists() or (short.exists() and short.samefile(path)) else path


def _check_base(base: Path, origin: str, chain: Sequence[Path]) -> None:
    if not base.is_file():
        raise ConfigError(
            f"{origin}: _base_: {base} {_what_instead(base)}; the path is relative to "
            f"{chain[-1].parent}, or names a shipped config such as digits/convit"
        )
    for index, file in enumerate(chain):
        if file.samefile(base):
            circle = " -> ".join(map(str, [*chain[index:], base]))
            raise ConfigError(
                f"{origin}: _base_: {base} is a base of itself: {circle}; remove one of these"
            )


def _apply(override: str, tree, origins):
    """The tree with one override, `a.b.0.c=value`."""
    place, separator, text = override.partition("=")
    names = place.strip().split(".")
    if not separator or not place.strip():
        raise ConfigError(
            f"{COMMAND_LINE} {override}: an override is KEY=VALUE, for example -o optimizer.lr=5e-4"
        )
    if len(names) > MAX_DEPTH:
        raise ConfigError(
            f"{COMMAND_LINE} {override[:60]}...: {len(names)} levels are more than {MAX_DEPTH}"
        )
    value = parse(text, f"{COMMAND_LINE} {override}")[0]
    keys: Keys = ()
    node = tree
    for name in names:
        is_list = isinstance(node, list)
        if is_list and not (name.isdecimal() and int(name) < len(node)):
            raise ConfigError(
                f"{COMMAND_LINE} {override}: {dotted(keys)} is a list of {len(node)}, counted from "
                f"0; {name!r} is not an index of it"
            )
        key: str | int = int(name) if is_list else name
        keys = (*keys, key)
        node = node[key] if is_list else node.get(name) if isinstance(node, Mapping) else None
    changed = _with(tree, keys, value)
    given = {place for place, _ in leaves(value, keys)}
    # A mapping that null has emptied is a new leaf.
    kept = {place: origin for place, origin in origins.items() if place not in given}
    return changed, {place: kept.get(place, COMMAND_LINE) for place, _ in leaves(changed)}


def _with(tree, keys: Keys, value):
    """A copy of the tree with `value` merged in at `keys`."""
    if not keys:
        return merge(tree, value)
    key, rest = keys[0], keys[1:]
    if isinstance(tree, list):
        return [
            _with(item, rest, value) if index == key else item for index, item in enumerate(tree)
        ]
    node = tree if isinstance(tree, Mapping) else {}
    if rest:  # merging here again would bring back what null has removed below
        return {**node, key: _with(node.get(key), rest, value)}
    return merge(node, {key: value})


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value if isinstance(value, Config) else Config(value)
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value
