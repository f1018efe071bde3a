"""YAML files as plain data: YAML 1.2's scalars, unique keys, no tags, and the line of each value.

PyYAML parses, but it follows YAML 1.1, where `5e-4` is a string, `no` is False and `010` is 8, and
it keeps the last of two equal keys silently. So only its nodes are used; they become data here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from passl.errors import ConfigError

Keys = tuple[str | int, ...]
"""The place of a value: ("dataloader", "train", "dataset", "transforms", 0, "name")."""

MAX_DEPTH = 100
"""Most levels of nested lists and mappings, below the limit of Python's own stack."""
_MAX_BYTES, _MAX_VALUES = 4_000_000, 100_000
"""The largest file, and the most values with aliases expanded: a few lines can alias any number."""

_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(text: str) -> float:
    return float(text.replace(".", "", 1) if text[-1].isalpha() else text)  # .inf is inf to Python


# The core schema of YAML 1.2.2, section 10.3.2: type, form, conversion.
_SCALARS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    ("null", r"~|null|Null|NULL|", lambda text: None),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _integer),
    ("float", _FLOAT, _number),
)
_CONVERT = {_TAG + name: convert for name, _, convert in _SCALARS} | {_TAG + "str": str}


class _Parser(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Parser.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _form, _ in _SCALARS:
    _Parser.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_form})$"), None)
_RESOLVER = _Parser("")


def read(path: Path) -> tuple[dict[str, Any], dict[Keys, str]]:
    """The mapping in a YAML file, and "FILE:LINE" for each of its leaves.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is too large or nested too deeply; or
            all its duplicate keys, tags and keys that are not words.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _too_much(str(path))
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    tree, origins = parse(text, str(path))
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    return tree, origins


def parse(text: str, name: str) -> tuple[Any, dict[Keys, str]]:
    """The data in a YAML text, and "NAME:LINE" for each of its leaves."""
    try:
        node = yaml.compose(text, Loader=_Parser)  # builds nodes only: no tag constructs anything
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        rule = " ".join(str(getattr(error, "problem", None) or error).split())
        if mark and "${" in text.split("\n")[mark.line]:
            rule += '; in braces, a text with ${NAME} must be quoted: "${NAME}/x"'
        raise ConfigError(f"{place}: not YAML: {rule}") from None
    except RecursionError:
        raise _too_much(name) from None
    if node is None:
        return None, {}
    builder = _Builder(name)
    tree = builder.build(node, ())
    if builder.problems:
        raise ConfigError(*builder.problems)
    return tree, builder.origins


def to_yaml(data: Any) -> str:
    """Plain data as YAML that `parse` reads back to the same values."""

    tree = changed(data, lambda keys, value: value)

    def dump(readable: bool) -> str:
        options: Any = {"sort_keys": False, "allow_unicode": readable, "width": 120}
        return yaml.dump(tree, Dumper=_Dumper, **options)

    text = dump(readable=True)
    # YAML reads Unicode's other line ends as blanks, and marks of direction show another text. A
    # text with one of them is written in ASCII.
    escaped = "[\x85\u2028-\u202e\u2066-\u2069\ufeff]"
    return dump(readable=False) if re.search(escaped, text) else text


def changed(tree: Any, new: Callable[[Keys, Any], Any], keys: Keys = ()) -> Any:
    """A copy as dicts and lists, with new(keys, leaf) for each leaf."""
    if isinstance(tree, Mapping):
        return {key: changed(value, new, (*keys, key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [changed(item, new, (*keys, index)) for index, item in enumerate(tree)]
    return new(keys, tree)


def _too_much(place: str) -> ConfigError:
    return ConfigError(
        f"{place}: not a config: it has more than {_MAX_BYTES:,} bytes, or, with its aliases "
        f"expanded, more than {_MAX_VALUES:,} values or {MAX_DEPTH} levels"
    )


class _Builder:
    """Turns nodes into data, and keeps the place of each leaf and all problems."""

    def __init__(self, name: str):
        self.name, self.values = name, 0
        self.origins: dict[Keys, str] = {}
        self.problems: list[str] = []

    def build(self, node: yaml.Node, keys: Keys) -> Any:
        place = f"{self.name}:{node.start_mark.line + 1}"
        self.values += 1
        if self.values > _MAX_VALUES or len(keys) > MAX_DEPTH:  # an alias can point into itself
            raise _too_much(place)
        tree: Any
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            tree = self._mapping(node, keys)
        elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            tree = [self.build(item, (*keys, i)) for i, item in enumerate(node.value)]
        elif isinstance(node, yaml.ScalarNode) and node.tag == _implicit_tag(node):
            try:
                tree = _CONVERT[node.tag](node.value)
            except ValueError as error:  # such as a number of thousands of digits
                return self._refuse(place, f"{node.value[:20]}...: {error}")
        else:
            return self._refuse(
                place, f"the tag {node.tag!r} is not allowed; configs are plain data"
            )
        if not isinstance(tree, dict | list) or not tree:
            self.origins[keys] = place
        return tree

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, place = key_node.value, f"{self.name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                self._refuse(place, f"the key {str(key)[:40]!r} is not a word; quote it")
            elif key in tree:
                where = ".".join(map(str, (*keys, key)))
                self._refuse(place, f"{where}: the key is given twice; keep one")
            else:
                tree[key] = self.build(value_node, (*keys, key))
        return tree

    def _refuse(self, place: str, rule: str) -> None:
        self.problems.append(f"{place}: {rule}")


def _implicit_tag(node: yaml.ScalarNode) -> str:
    """The tag of a scalar by its form; any other tag is explicit, as in `!!int "3"`."""
    return _RESOLVER.resolve(yaml.ScalarNode, node.value, (node.style is None, True))
