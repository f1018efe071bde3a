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

from passl.errors import ConfigError, no_file
from passl.utils.imports import import_modules
from passl.utils.paths import escaped, expand, is_path
from passl.utils.yaml import MAX_DEPTH, Keys, changed, parse, read

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configs are inside the package, in a checkout beside it.
CONFIG_ROOT = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
COMMAND_LINE = "the command line (-o)"
DERIVED = "derived"
"""Origin of a value that is derived from others."""

_LISTED = 40
"""Valid words that a message lists."""
Layer = tuple[dict[str, Any], dict[str, str]]
"""The data of a file with its bases, or of an override; and origins by dotted keys."""


class Config(Mapping):
    """A read-only mapping whose keys can be read as attributes. Lists are tuples, mappings are
    Configs.

    Args:
        data: plain data.
        origins: "FILE:LINE" or COMMAND_LINE of each leaf. Only the root config has them.
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

    def __setattr__(self, key: str, *value: Any) -> None:
        raise TypeError(
            f"a config is read-only: {key!r} cannot be set or deleted. Change the file, or load it "
            "with overrides"
        )

    __delattr__ = __setattr__

    def __reduce__(self):
        return Config, (self.to_dict(), self.origins, self.file)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def filled(self, keys: Keys, value: Any) -> Config:
        """The config with a value at a place without one (or with null); another value stays."""
        if dict(leaves(self)).get(keys) is not None:
            return self
        tree = merge(self.to_dict(), _nested(keys, value))
        return Config(tree, {**self.origins, keys: DERIVED}, self.file)

    def to_dict(self) -> dict[str, Any]:
        """A deep copy as dicts and lists."""
        return changed(self, lambda keys, value: value)


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
    layer = _read_with_bases(path, (), {})
    problems: list[str] = []
    for override in overrides:
        try:
            layer = _merge_layers(layer, _read_override(override))
        except ConfigError as error:
            problems += error.problems
    tree, origins = layer[0], _origins_of_leaves(*layer)

    def expanded(keys: Keys, value: Any) -> Any:
        try:
            return expand(value) if is_path(keys, value) else value
        except ConfigError as error:
            problems.append(f"{origins[keys]}: {dotted(keys)}: {error}")

    tree = changed(tree, expanded)
    if problems:
        raise ConfigError(*problems)
    if tree.get("imports"):
        places = [o for keys, o in origins.items() if keys[0] == "imports"]
        import_modules(tree["imports"], (path.parent, Path.cwd()), places)
    return Config(tree, origins, path)


def storable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain data for a file. Dollar signs in its paths, which are expanded already,
    are escaped.
    """
    return changed(config, lambda keys, v: escaped(v) if is_path(keys, v) else v)


def find_config(file: str | Path) -> Path:
    """The path of a config file: as given, or among the shipped configs, where `.yaml` can be left
    out.
    """
    path = Path(os.path.expanduser(file))
    found = _first_file(path, path)
    if found is not None:
        return found
    names = shipped_names()
    near = difflib.get_close_matches(path.stem, [Path(name).name for name in names], n=1)
    alike = [name for name in names if Path(name).name in near]  # digits/cvt and fashion/cvt
    alike = difflib.get_close_matches(str(path.with_suffix("")), alike, n=1, cutoff=0)
    hint = f"; did you mean {alike[0]}?" if alike else ""
    if (path / "config.yaml").is_file():
        hint = f"; name {path}/config.yaml"  # of a run folder
    raise ConfigError(f"{path}: {no_file(path, 'config file')}{hint}")


def _first_file(path: Path, name: Path) -> Path | None:
    """The path if it is a file, or else the shipped config of that name, if there is one."""
    inside = Path(*name.parts[1:]) if name.parts[:1] == ("configs",) else name
    places = (path, CONFIG_ROOT / inside, CONFIG_ROOT / f"{inside}.yaml")
    return next((place for place in places if place.is_file()), None)


def shipped_configs() -> list[Path]:
    """Every config that comes with passl, without bases."""
    return sorted(path for path in CONFIG_ROOT.rglob("*.yaml") if "_base_" not in path.parts)


def shipped_names() -> list[str]:
    """The names of the shipped configs, such as `digits/convit`."""
    return [_name_of(path) for path in shipped_configs()]


def _name_of(path: Path) -> str:
    return path.relative_to(CONFIG_ROOT).with_suffix("").as_posix()


def recipe_of(file: Path) -> str | None:
    """The name of the shipped config that a config file is, or else that it inherits from, most
    directly; null if there is none.

    Raises:
        ConfigError: the file or a base of it cannot be read.
    """
    known: dict[str, Layer] = {}
    _read_with_bases(file, (), known)  # bases come before what inherits from them
    names = {os.path.realpath(path): path for path in shipped_configs()}
    paths = map(os.path.realpath, reversed(known))  # a key may be a symbolic link
    found = next((names[path] for path in paths if path in names), None)
    return None if found is None else _name_of(found)


def closest(word: str, words: Collection[str]) -> str:
    """`; did you mean 'x'?`, or else all valid words, if a reader can take them in."""
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if not 0 < len(words) <= _LISTED:
        return ""
    return f"; there {'is' if len(words) == 1 else 'are'} {', '.join(sorted(words))}"


def dotted(keys: Keys) -> str:
    """("a", 0, "b") as on the command line: a.0.b"""
    return ".".join(str(key) for key in keys)


def leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Each scalar, empty list and empty mapping, with its place."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*keys, key))
    elif isinstance(tree, list | tuple) and tree:
        for index, value in enumerate(tree):
            yield from leaves(value, (*keys, index))
    elif keys:
        yield keys, tree


# --------------------------------------------------------------------------------------------------
# Merging
# --------------------------------------------------------------------------------------------------
def merge(base: Any, over: Any, keys: Keys = ()) -> Any:
    """Merge mappings key by key and replace anything else. A node whose `name` changes is replaced
    as a whole, null removes a mapping, and a mapping changes items of a list by their index.

    Raises:
        IndexError: a key is not an index of the list; the arguments are its place and the rule.
    """
    if isinstance(base, list) and isinstance(over, Mapping):
        return _with_items(base, over, keys)
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    if "name" in over and over["name"] != base.get("name", over["name"]):
        return over
    merged = dict(base)
    for key, value in over.items():
        if value is None and isinstance(base.get(key), Mapping):
            del merged[key]
        else:
            merged[key] = merge(base.get(key), value, (*keys, key))
    return merged


def _with_items(base: list[Any], over: Mapping[str, Any], keys: Keys) -> list[Any]:
    items = list(base)
    for key, value in over.items():
        if not (key.isdecimal() and int(key) < len(items)):
            rule = f"is a list of {len(items)}, counted from 0; {key!r} is not an index of it"
            raise IndexError(dotted((*keys, key)), f"{dotted(keys)} {rule}")
        items[int(key)] = merge(items[int(key)], value, (*keys, key))
    return items


def _merge_layers(base: Layer, over: Layer) -> Layer:
    try:
        return merge(base[0], over[0]), {**base[1], **over[1]}
    except IndexError as error:
        key, rule = error.args
        origin = next(o for place, o in over[1].items() if f"{place}.".startswith(f"{key}."))
        raise ConfigError(f"{origin}: {rule}") from None


def _origins_of_leaves(tree: Mapping[str, Any], origins: dict[str, str]) -> dict[Keys, str]:
    """The origin of each leaf. That of a mapping which null has emptied is the null's."""
    emptied = {}
    for key, origin in origins.items():
        while key := key.rpartition(".")[0]:
            emptied[key] = origin
    known = emptied | origins
    return {keys: known[dotted(keys)] for keys, _ in leaves(tree)}


def _read_with_bases(path: Path, above: tuple[Path, ...], known: dict[str, Layer]) -> Layer:
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
    tree, by_keys = read(path)
    places = [origin for keys, origin in by_keys.items() if "_base_" in keys[:1]]
    names = tree.pop("_base_", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{places[0]}: _base_: must be the path of a config, or a list of paths")
    layer: Layer = ({}, {})
    problems: list[str] = []
    for base, place in zip(names, places, strict=False):
        try:
            found = _find_base(base, place, (*above, path))
            layer = _merge_layers(layer, _read_with_bases(found, (*above, path), known))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    known[name] = _merge_layers(layer, (tree, {dotted(k): o for k, o in by_keys.items()}))
    return known[name]


def _find_base(name: str, place: str, chain: Sequence[Path]) -> Path:
    """The path of a base: relative to the file that names it, or else a shipped config."""
    folder = chain[-1].parent
    try:
        given = Path(expand(name))
    except ConfigError as error:
        raise ConfigError(f"{place}: _base_: {error}") from None
    path = _first_file(folder / given, given)
    if path is None:
        path = folder / given
        raise ConfigError(
            f"{place}: _base_: {path}: {no_file(path, 'config file')}; the path is relative to "
            f"{folder}, or names a shipped config such as digits/convit"
        )
    short = Path(os.path.normpath(path))  # `..` behind a symbolic link would be another folder
    path = short if short.exists() and short.samefile(path) else path
    for index, file in enumerate(chain):
        if file.samefile(path):
            circle = " -> ".join(map(str, [*chain[index:], path]))
            raise ConfigError(
                f"{place}: _base_: {path} is a base of itself: {circle}; remove one of these"
            )
    return path


def _read_override(override: str) -> Layer:
    """`a.b.0.c=value` is the file `{a: {b: {"0": {c: value}}}}`."""
    place, separator, text = override.partition("=")
    option = f"-o {override[:80]}"
    keys = tuple(place.strip().split("."))
    if not separator or not place.strip():
        raise ConfigError(f"{option}: an override is KEY=VALUE, for example -o optimizer.lr=5e-4")
    if len(keys) > MAX_DEPTH:
        raise ConfigError(f"{option}: {len(keys)} levels are more than {MAX_DEPTH}")
    value = parse(text, option)[0]
    return _nested(keys, value), {dotted(keys): COMMAND_LINE for keys, _ in leaves(value, keys)}


def _nested(keys: Keys, value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value if isinstance(value, Config) else Config(value)
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
