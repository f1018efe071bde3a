"""A registry turns a config node `{name: X, ...}` into one constructor call."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from passl.errors import ConfigError

if TYPE_CHECKING:
    from passl.utils.schema import Option

# An exported folder's predictor has registries that it never asks, and runs without PyYAML and
# pydantic; so the schema is imported in the methods that need it.
T = TypeVar("T", bound=Callable)


class Registry:
    """Names for classes or functions of one kind, added by the decorator `register`.

    An entry's keyword-only arguments are the keys of its config node. It checks them on each call,
    by their annotations and by its static method `check_options`, if it has one (see
    `passl.utils.schema`).

    Args:
        kind: what its entries are, for messages: "backbone".
        modules: that register passl's own entries; they are imported when the first is asked for.
        given: names of what the code passes in front of the options, as the contract says.
        required: options that every entry must have, without a default.
    """

    def __init__(
        self,
        kind: str,
        modules: Sequence[str] = (),
        given: Sequence[str] = (),
        required: Sequence[str] = (),
    ):
        self.kind, self.given, self.required = kind, tuple(given), tuple(required)
        self._modules = tuple(modules)
        self._registered: dict[str, Callable] = {}

    def _entries(self) -> dict[str, Callable]:
        for module in self._modules:
            importlib.import_module(module)
        return self._registered

    def __contains__(self, name: str) -> bool:
        return name in self._entries()

    def names(self) -> list[str]:
        return sorted(self._entries())

    def get(self, name: str) -> Callable:
        return self._entries()[name]

    def options(self, name: str) -> Mapping[str, Option]:
        """The entry's options: for each its type, also in words, and its default."""
        from passl.utils.schema import options_of

        return options_of(self.get(name))

    @overload
    def register(self, target: T) -> T: ...
    @overload
    def register(self, target: str) -> Callable[[T], T]: ...
    def register(self, target):
        """Add a class or function under its own name: `@BACKBONES.register`; or under another:
        `@BACKBONES.register("Name")`.

        Raises:
            ValueError: the name is taken, or the signature is not that of an entry.
        """
        if isinstance(target, str):
            return lambda entry: self._add(target, entry)
        return self._add(target.__name__, target)

    def _add(self, name: str, target: T) -> T:
        from passl.utils.schema import validated

        own = target.__module__ in self._modules
        if name in (self._registered if own else self._entries()):
            raise ValueError(f"there is a {self.kind} {name!r} already; choose another name")
        self._check_signature(name, target)
        self._registered[name] = validated(target)
        return self._registered[name]  # type: ignore[return-value]

    def _check_signature(self, name: str, target: Callable) -> None:
        from passl.utils.schema import options_of

        own = options_of(target)
        missing = [o for o in self.required if o not in own or not own[o].required]
        if missing:
            raise ValueError(
                f"{self.kind} {name} must take {' and '.join(missing)} as keyword-only arguments, "
                "behind a *, without a default"
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
                f"{self.kind} {name} takes ({', '.join(front)}) in front, where a {self.kind} "
                f"takes {expected}; options are keyword-only, behind a *"
            )

    def arguments(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The node's arguments with the defaults of those that it leaves out."""
        options = self.options(node["name"])
        return {key: node.get(key, option.default) for key, option in options.items()}

    def check(self, node: Mapping[str, Any]) -> None:
        """Check a node without building it.

        Raises:
            ConfigError: every key that is unknown, missing or of a wrong value.
        """
        from passl.utils.config import dotted
        from passl.utils.schema import Choice

        name = node.get("name")
        what = f"{self.kind} {name}" if name in self.names() else self.kind
        problems = Choice(self).problems(node)
        lines = [f"{what}: {dotted(keys)}: {r}" if keys else f"{what}: {r}" for keys, r in problems]
        if lines:
            raise ConfigError(*lines)

    def build(self, node: Mapping[str, Any], *given: Any) -> Any:
        """Call the entry that the node names. The node is not changed.

        Args:
            node: `name` and the entry's keyword-only arguments.
            given: what the code passes in front, as the kind's contract says.

        Raises:
            ConfigError: what `check` finds; or a ValueError of the entry.
        """
        self.check(node)
        arguments = {key: value for key, value in node.items() if key != "name"}
        try:
            return self.get(node["name"])(*given, **arguments)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{self.kind} {node['name']}: {error}") from error
