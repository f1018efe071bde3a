"""A constructor's signature is the schema of its config node.

The options of a class or function are its keyword-only arguments; what stands before them is given
by the code. An annotation says which values an option takes, ranges included, and pydantic checks
it: `p: Probability`, `depth: PositiveInt | None`. Rules between several options are the static
method `check_options` of the class, which raises a ValueError.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce, wraps
from operator import or_
from os import PathLike, fspath
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import Strict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from passl.errors import ConfigError
from passl.utils.config import closest, dotted
from passl.utils.yaml import Keys

T = TypeVar("T", bound=Callable)
REQUIRED = inspect.Parameter.empty
Problem = tuple[Keys, str]
"""Where a value stands, and what is wrong with it."""
Check = Callable[..., object]
"""Takes options by name and raises a ValueError for values that do not go together."""


@dataclass(frozen=True)
class Option:
    """One option of an entry.

    Args:
        annotation: its type.
        default: its default, or REQUIRED.
    """

    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @cached_property
    def words(self) -> str:
        """The type in words: `PositiveInt | None` is "a whole number of at least 1, or null"."""
        try:
            return _words(self._adapter.json_schema()) if self._adapter is not None else "anything"
        except PydanticInvalidForJsonSchema:  # a function or an object, which no config can give
            return inspect.formatannotation(self.annotation)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; null if nothing is. A whole number is a number; true and
        false are none, and neither is text.
        """
        if self._adapter is None:
            return None
        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            for own in error.errors(include_url=False, include_input=False):
                if own["type"] == "value_error":  # an annotation's own rule says what is wrong
                    return str(own["ctx"]["error"])
            words = self.words
            if "anything" in words:  # a type that no config can give, such as type[Layer]
                words = inspect.formatannotation(self.annotation)
            if isinstance(value, float) and not math.isfinite(value):
                words = words.replace("a number", "a finite number")
            return f"must be {words}, not {_shown(value)}"
        return None

    @cached_property
    def _adapter(self) -> TypeAdapter | None:
        """Null for a class that pydantic does not know, such as a user's own: any value fits."""
        try:
            return TypeAdapter(_strict(self.annotation))
        except PydanticSchemaGenerationError:
            return None


@cache
def options_of(target: Callable) -> Mapping[str, Option]:
    """The options of a class, dataclass or function, by name.

    Raises:
        ValueError: an annotation cannot be evaluated.
    """
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)  # type: ignore[misc]
    names = getattr(function, "__globals__", {})
    options = {}
    for p in inspect.signature(target).parameters.values():
        if p.kind is not p.KEYWORD_ONLY:
            continue
        annotation = Any if p.annotation is p.empty else p.annotation
        holder: Any = SimpleNamespace(__annotations__={p.name: annotation})
        try:
            hints = get_type_hints(holder, names, include_extras=True)
        except NameError as error:
            raise ValueError(
                f"{target.__name__}: the annotation of {p.name}, {annotation}, cannot be "
                f"evaluated: {error}; import what it names at the top of the module"
            ) from None
        options[p.name] = Option(hints[p.name], p.default)
    return options


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
        if needed <= arguments.keys() <= section.options.keys():  # else Python says what is wrong
            problems = problems_in(section, arguments)
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
# Sections: what may stand where
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A mapping with these keys.

    Args:
        options: key -> Option, Section, Choice or Many.
        required: whether the section itself must be there.
        check: for the values together.
    """

    options: Mapping[str, Any]
    required: bool = True
    check: Check | None = None


def section_of(target: Callable, required: bool = False) -> Section:
    """The section whose keys are the options of a class."""
    return Section(options_of(target), required, getattr(target, "check_options", None))


@dataclass(frozen=True)
class Choice:
    """A mapping whose `name` picks an entry of a registry; its other keys are that entry's options.

    Args:
        registry: has `kind`, `names()` and `get(name)`.
        more: keys that belong to the place and not to the entry.
        required: whether the mapping must be there.
        check: for the values of `more` together.
        derived: options that may be left out, or null, since the code knows them.
    """

    registry: Any
    more: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    check: Check | None = None
    derived: Sequence[str] = ()


@dataclass(frozen=True)
class Many:
    """A list of mappings of one kind."""

    item: Any
    required: bool = True


def problems_in(spec: Any, data: Any, keys: Keys = ()) -> Iterator[Problem]:
    """Everything in `data` that the spec does not allow."""
    if isinstance(spec, Option):
        rule = spec.problem(data)
        if rule is not None:
            yield keys, rule
    elif isinstance(spec, Many):
        if not isinstance(data, list | tuple):
            yield keys, f"must be a list, not {_shown(data)}"
        else:
            for index, item in enumerate(data):
                yield from problems_in(spec.item, item, (*keys, index))
    elif not isinstance(data, Mapping):
        yield keys, f"must be a mapping, not {_shown(data)}"
    elif isinstance(spec, Choice):
        yield from _problems_in_choice(spec, data, keys)
    else:
        problems = list(_problems_in_keys(spec.options, data, keys, "a key"))
        yield from problems or _problems_between(spec.options, data, keys, spec.check)


def _problems_in_choice(spec: Choice, data: Mapping, keys: Keys) -> Iterator[Problem]:
    kind, names = spec.registry.kind, spec.registry.names()
    name = data.get("name")
    if not isinstance(name, str):
        yield keys, f"needs a name: which {kind}{closest('', names)}"
    elif name not in names:
        yield (*keys, "name"), f"there is no {kind} {name!r}{closest(name, names)}"
    else:
        entry = spec.registry.get(name)
        own, check = options_of(entry), getattr(entry, "check_options", None)
        allowed = {"name": Option(str), **own, **spec.more}
        what = f"an option of {name}"
        data = {k: v for k, v in data.items() if v is not None or k not in spec.derived}
        problems = list(_problems_in_keys(allowed, data, keys, what, spec.derived))
        yield from problems
        if not problems:
            if all(key in data for key in spec.derived):
                yield from _problems_between(own, data, keys, check)
            yield from _problems_between(spec.more, data, keys, spec.check)


def _problems_in_keys(
    allowed: Mapping[str, Any], data: Mapping, keys: Keys, what: str, derived: Sequence[str] = ()
) -> Iterator[Problem]:
    """Keys that are unknown or missing, and values that are wrong.

    Args:
        what: what a key is, for messages.
    """
    for key, value in data.items():
        if key in allowed:
            yield from problems_in(allowed[key], value, (*keys, key))
        else:
            yield (*keys, key), f"{key!r} is not {what}{closest(str(key), list(allowed))}"
    for key, spec in allowed.items():
        if spec.required and key not in data and key not in derived:
            yield keys, f"{dotted((*keys, key))} is missing"


def _problems_between(
    options: Mapping[str, Any], data: Mapping, keys: Keys, check: Check | None
) -> Iterator[Problem]:
    """What the check finds in values that are right one by one, and in the defaults of others."""
    try:
        if check is not None:
            check(**{k: data.get(k, getattr(spec, "default", None)) for k, spec in options.items()})
    except ValueError as error:
        yield keys, str(error)


# --------------------------------------------------------------------------------------------------
# Types
# --------------------------------------------------------------------------------------------------
def _strict(annotation: Any) -> Any:
    """The annotation without pydantic's conversions of scalars, such as of '1' to 1. Lists and
    tuples stay interchangeable, since YAML has only lists.
    """
    if annotation in (bool, int, float, str):
        return Annotated[annotation, Strict()]
    origin, parts = get_origin(annotation), get_args(annotation)
    if not parts or origin in (Literal, Callable):
        return annotation
    if origin is Annotated:
        return Annotated[(_strict(parts[0]), *parts[1:])]  # type: ignore[return-value]
    parts = tuple(map(_strict, parts))
    return reduce(or_, parts) if origin in (Union, UnionType) else origin[parts]


_SCALARS = {
    "boolean": ("true or false", "trues and falses"),
    "integer": ("a whole number", "whole numbers"),
    "null": ("null", "nulls"),
    "number": ("a number", "numbers"),
    "object": ("a mapping", "mappings"),
    "string": ("text", "texts"),
}


def _words(schema: Mapping[str, Any], many: bool = False) -> str:
    """A JSON schema in words, in the singular or the plural."""
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        texts = [_words(part, many) for part in schema["anyOf"]]
        return (" or " if many else ", or ").join(dict.fromkeys(texts))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    kind = schema.get("type")
    if kind == "array":
        return _words_of_list(schema, many)
    if kind not in _SCALARS:
        return "values" if many else "anything"
    return _SCALARS[kind][many] + _range(schema)


def _words_of_list(schema: Mapping[str, Any], many: bool) -> str:
    items = schema.get("prefixItems") or [schema.get("items", {})]
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    count = f"{least} " if least == most else ""
    same = all(item == items[0] for item in items)
    each = _words(items[0], many=True) if same else ", ".join(map(_words, items))
    text = f"{'lists' if many else 'a list'} of {count if same else ''}{each}"
    return f"{text}, at least {least} of them" if least and least != most else text


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None and schema["type"] == "integer":
        low, above = above + 1, None
    parts = [
        f"from {low:g} to {high:g}" if low is not None and high is not None else "",
        f"of at least {low:g}" if low is not None and high is None else "",
        f"above {above:g}" if above is not None else "",
        f"{'of ' if above is None else ''}at most {high:g}"
        if high is not None and low is None
        else "",
        f"below {below:g}" if below is not None else "",
    ]
    text = " and ".join(part for part in parts if part)
    return f" {text}" if text else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        texts = ", ".join(map(_shown, value))
        return f"[{texts}]" if len(value) <= 6 else f"a list of {len(value)}"
    return repr(value)
