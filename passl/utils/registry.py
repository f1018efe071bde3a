"""A registry turns a config node `{name: X, ...}` into one constructor call."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from passl.errors import ConfigError
from passl.utils.config import dotted
from passl.utils.schema import (
    REQUIRED,
    Choice,
    Signature,
    problems_in,
    read_signature,
    signature_of,
)

T = TypeVar("T", bound=Callable)


class Registry:
    """Names for classes or functions of one kind.

    Our own are named by where they are defined, so that a config can be checked without importing
    them; a user's are added with the decorator `register`. The entry's keyword-only arguments are
    the keys of its node.

    Args:
        kind: what its entries are, for messages: "backbone".
        locations: name -> "package.module:Name".
        rules: likewise, for entries whose options must fulfil more than their types, a function
            that takes them by name and raises a ValueError. Its module imports no paddle, so that
            a config is checked by it early; the entry calls it too, for who builds it directly.
        given: names of what the code passes in front of the options, as the contract says.
        options: those that every entry requires.
    """

    def __init__(
        self,
        kind: str,
        locations: Mapping[str, str],
        rules: Mapping[str, str] | None = None,
        given: Sequence[str] = (),
        options: Sequence[str] = (),
    ):
        self.kind, self.given, self.options = kind, tuple(given), tuple(options)
        self._locations = dict(locations)
        self._rules = dict(rules or {})
        self._registered: dict[str, Callable] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._locations or name in self._registered

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted([*self._locations, *self._registered])

    def register(self, target: T) -> T:
        """Add a class or function under its own name.

        Raises:
            ValueError: the name is taken, or the signature is not that of an entry.
        """
        name = target.__name__
        if name in self:
            raise ValueError(f"there is a {self.kind} {name!r} already; choose another name")
        self._check_signature(target)
        self._registered[name] = target
        return target

    def _check_signature(self, target: Callable) -> None:
        what = f"{self.kind} {target.__name__}"
        own = signature_of(target)
        missing = [o for o in self.options if o not in own or own[o].default is not REQUIRED]
        if missing:
            raise ValueError(
                f"{what} must take {' and '.join(missing)} as keyword-only arguments, behind a *, "
                "without a default"
            )
        if inspect.isclass(target) and "__init__" not in vars(target):
            return  # what it inherits, such as nn.Layer's name_scope, is no option
        parameters = inspect.signature(target).parameters.values()
        front = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if len(front) > len(self.given) or (len(front) < len(self.given) and not takes_any):
            expected = f"({', '.join(self.given)})" if self.given else "nothing"
            raise ValueError(
                f"{what} takes ({', '.join(front)}) in front, where a {self.kind} takes "
                f"{expected}; options are keyword-only, behind a *"
            )

    def get(self, name: str) -> Callable:
        """The class or function, imported."""
        return self._registered[name] if name in self._registered else _load(self._locations[name])

    def signature(self, name: str) -> Signature:
        """The keys of the entry's node with their types and defaults; imports nothing."""
        if name in self._registered:
            return signature_of(self._registered[name])
        return read_signature(self._locations[name])

    def rule(self, name: str) -> Callable[..., None] | None:
        """The function that the entry's options are checked by, if it has one."""
        return _load(self._rules[name]) if name in self._rules else None

    def arguments(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The node's arguments with the defaults of those that it leaves out."""
        signature = self.signature(node["name"])
        return {key: node.get(key, parameter.default) for key, parameter in signature.items()}

    def check(self, node: Mapping[str, Any]) -> None:
        """Look at a node without importing what it names.

        Raises:
            ConfigError: every key that is unknown, missing or of a wrong type; or what the entry's
                rule says.
        """
        what = " ".join([self.kind, *(name for name in [node.get("name")] if name in self.names())])
        problems = problems_in(Choice(self), node)
        lines = [f"{what}: {dotted(keys)}: {r}" if keys else f"{what}: {r}" for keys, r in problems]
        if lines:
            raise ConfigError(*lines)

    def build(self, node: Mapping[str, Any], *given: Any) -> Any:
        """Call the entry that the node names. The node is not changed.

        Args:
            node: `name` and the entry's keyword-only arguments.
            given: what the code passes in front, as the kind's contract says.

        Raises:
            ConfigError: what `check` finds; or what the entry says of arguments that do not go
                together.
        """
        self.check(node)
        arguments = {key: value for key, value in node.items() if key != "name"}
        try:
            return self.get(node["name"])(*given, **arguments)
        except ConfigError:
            raise
        except ValueError as error:  # arguments of the right types that do not go together
            raise ConfigError(f"{self.kind} {node['name']}: {error}") from error


def _load(location: str) -> Callable:
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)
