"""A constructor's signature is the schema of its config node.

The options of a class or function are its keyword-only arguments; the code passes what stands
before them. An annotation gives type and range, and pydantic checks it: `p: Probability`,
`depth: PositiveInt | None`. Rules between several options are the static method `check_options` of
the class, which raises a ValueError.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, wraps
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from passl.errors import ConfigError
from passl.utils.config import closest, dotted
from passl.utils.yaml import Keys

T = TypeVar("T", bound=Callable)
REQUIRED = inspect.Parameter.empty
Problem = tuple[Keys, str]
"""The place of a value, and what is wrong with it."""
Check = Callable[..., object]
"""Takes options by name and raises a ValueError for values that do not go together."""


@dataclass(frozen=True)
class Option:
    """One option of an entry: its type, also in words, and its default, or REQUIRED."""

    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @cached_property
    def words(self) -> str:
        """The type in words: `PositiveInt | None` is "a whole number of at least 1, or null"."""
        try:
            words = _words(self._adapter.json_schema())
        except PydanticInvalidForJsonSchema:  # a function or an object, which no config can give
            words = "anything"
        return inspect.formatannotation(self.annotation) if "anything" in words else words

    def problems(self, value: Any, keys: Keys = ()) -> Iterator[Problem]:
        """What is wrong with a value, if anything."""
        try:
            try:
                # Strict JSON takes a whole number for a number and a list for a tuple, but no other
                # type for the right one, such as text or true for a number.
                self._adapter.validate_json(json.dumps(value, default=_as_dict), strict=True)
            except TypeError:  # an object of a direct call, which no config can give
                self._adapter.validate_python(value)
        except ValidationError as error:
            own = [e["ctx"]["error"] for e in error.errors() if e["type"] == "value_error"]
            yield keys, str(own[0]) if own else f"must be {self.words}, not {_shown(value)}"

    @cached_property
    def _adapter(self) -> TypeAdapter:
        try:
            return TypeAdapter(self.annotation)
        except PydanticSchemaGenerationError:  # a class unknown to pydantic: any value fits
            return TypeAdapter(Any)


@cache
def options_of(target: Callable) -> Mapping[str, Option]:
    """The options of a class, dataclass or function, by name.

    Raises:
        ValueError: an annotation cannot be evaluated.
    """
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)  # type: ignore[misc]
    parameters = inspect.signature(target).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    holder = SimpleNamespace(
        __annotations__={p.name: Any if p.annotation is p.empty else p.annotation for p in own}
    )
    try:
        hints = get_type_hints(holder, getattr(function, "__globals__", {}), include_extras=True)
    except NameError as error:
        raise ValueError(
            f"{target.__name__}: the annotation of an option cannot be evaluated: {error}; import "
            "what it names at the top of the module"
        ) from None
    return {p.name: Option(hints[p.name], p.default) for p in own}


def validated(target: T) -> T:
    """A decorator: the class or function checks its options on each call, also a direct one. A path
    object is taken for its text.

    Raises:
        ConfigError: on a call, everything that is wrong with the options.
    """
    section = section_of(target)
    needed = {name for name, option in section.options.items() if option.required}
    call: Any = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]

    @wraps(call)
    def checked(*given: Any, **arguments: Any) -> Any:
        arguments = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in arguments.items()}
        if needed <= arguments.keys() <= section.options.keys():  # else Python's TypeError
            problems = section.problems(arguments)
            lines = [f"{dotted((target.__name__, *keys))}: {rule}" for keys, rule in problems]
            if lines:
                raise ConfigError(*lines)
        return call(*given, **arguments)

    if not section.options:
        return target
    if not inspect.isclass(target):
        return checked  # type: ignore[return-value]
    target.__init__ = checked  # type: ignore[misc,method-assign]
    return target


# --------------------------------------------------------------------------------------------------
# Sections
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A mapping.

    Args:
        options: its keys, each an Option, Section, Choice or Many.
        required: whether the section itself must be there.
        check: for the values together.
        what: what a key is, for messages.
        beside: other keys of the mapping, which another section checks.
    """

    options: Mapping[str, Any]
    required: bool = True
    check: Check | None = None
    what: str = "a key"
    beside: Sequence[str] = ()

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        """Everything that is wrong with the data: first in each value, then between them."""
        if not isinstance(data, Mapping):
            out = "" if self.required or data is not None else "; leave it out"
            yield keys, f"must be a mapping, not {_shown(data)}{out}"
            return
        problems: list[Problem] = []
        for key, value in data.items():
            if key in self.options:
                problems += self.options[key].problems(value, (*keys, key))
            else:
                near = closest(str(key), [*self.options, *self.beside])
                problems.append(((*keys, key), f"{key!r} is not {self.what}{near}"))
        for key, spec in self.options.items():
            if spec.required and key not in data:
                problems.append((keys, f"{dotted((*keys, key))} is missing"))
        yield from problems
        if self.check is not None and not problems:
            defaults = {key: getattr(spec, "default", None) for key, spec in self.options.items()}
            try:
                self.check(**{**defaults, **data})
            except ValueError as error:
                yield keys, str(error)


def section_of(target: Callable, required: bool = False) -> Section:
    """The section whose keys are the options of a class."""
    return Section(options_of(target), required, getattr(target, "check_options", None))


@dataclass(frozen=True)
class Choice:
    """A mapping whose `name` selects an entry of a registry; other keys are the entry's options.

    Args:
        registry: has `kind`, `names()` and `get(name)`.
        more: keys that every entry has here.
        required: whether the mapping must be there.
        check: for the values of `more` together.
        derived: options that may be left out, or null, since the code derives them.
    """

    registry: Any
    more: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    check: Check | None = None
    derived: Sequence[str] = ()

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        if not isinstance(data, Mapping):
            yield from Section({}, self.required).problems(data, keys)
            return
        kind, names, name = self.registry.kind, self.registry.names(), data.get("name")
        if name not in names:
            near = closest(str(name or ""), names)
            yield (*keys, "name"), f"there is no {kind} {_shown(name)}{near}"
            return
        entry = self.registry.get(name)
        options, check = dict(options_of(entry)), getattr(entry, "check_options", None)
        more = {key: value for key, value in data.items() if key in self.more}
        own = {key: value for key, value in data.items() if key not in (*more, "name")}
        for key in options.keys() & set(self.derived):
            if own.get(key) is None:
                options.pop(key)
                own.pop(key, None)
                check = None  # it needs all values
        section = Section(options, True, check, f"an option of {name}", tuple(self.more))
        yield from section.problems(own, keys)
        yield from Section(self.more, check=self.check).problems(more, keys)


@dataclass(frozen=True)
class Many:
    """A list of mappings of one kind."""

    item: Any
    required: bool = True

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        if not isinstance(data, list | tuple):
            yield keys, f"must be a list, not {_shown(data)}"
            return
        for index, item in enumerate(data):
            yield from self.item.problems(item, (*keys, index))


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------
_WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}
_BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def _words(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return ", or ".join(map(_words, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    if schema.get("type") == "array":
        items = dict.fromkeys(map(_words, schema.get("prefixItems") or [schema.get("items", {})]))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        count = f" of {least}" if least == most else f" of at least {least}" if least else ""
        return f"a list{count}, each {' or '.join(items).replace(', or ', ' or ')}"
    words = _WORDS.get(schema.get("type", ""), "anything")
    if "minimum" in schema and "maximum" in schema:
        return f"{words} from {schema['minimum']:g} to {schema['maximum']:g}"
    bounds = [f"{text} {schema[key]:g}" for key, text in _BOUNDS.items() if key in schema]
    return " ".join([words, *filter(None, [" and ".join(bounds)])])


def _as_dict(value: Any) -> dict:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError("not data")


def _shown(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, str):
        return repr(value)
    text = json.dumps(value, default=lambda v: dict(v) if isinstance(v, Mapping) else repr(v))
    return text if len(text) <= 80 else f"{text[:80]}..."
