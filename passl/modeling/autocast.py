"""The state of Paddle's automatic mixed precision: read, set, and switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from paddle.base import core
from paddle.base.framework import _dygraph_tracer


@dataclass(frozen=True)
class Autocast:
    """How Paddle's engine casts the inputs of operations."""

    level: Any
    dtype: str
    lists: tuple[set[str], set[str]]
    use_promote: bool

    @classmethod
    def current(cls) -> Autocast:
        tracer = _dygraph_tracer()
        return cls(
            tracer._amp_level, tracer._amp_dtype, tracer._get_amp_op_list(), tracer._use_promote
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which this state is in force."""
        before = Autocast.current()
        self._apply()
        try:
            yield
        finally:
            before._apply()

    def off(self) -> Autocast:
        return replace(self, level=core.AmpLevel.O0)

    def _apply(self) -> None:
        tracer = _dygraph_tracer()
        tracer._amp_level, tracer._amp_dtype = self.level, self.dtype
        tracer._set_amp_op_list(*self.lists)
        tracer._use_promote = self.use_promote


def is_on() -> bool:
    """Whether operations cast their inputs. In a graph that is being traced they do not."""
    tracer = _dygraph_tracer()
    return tracer is not None and tracer._amp_level != core.AmpLevel.O0


def no_autocast() -> AbstractContextManager:
    """A context without casting, as if there had never been any."""
    if not is_on():
        return nullcontext()
    return Autocast(core.AmpLevel.O0, "float32", (set(), set()), False).applied()
