"""Pickles as plain data.

The standard unpickler can be restricted in what it imports, but not in time and memory. With
Python 3.11, `pickle.Unpickler` with an allow-list takes 4 GB for a file of 9 bytes (the index of a
memo), does not end for one of 127 bytes (the hash of nested tuples) and crashes for one of 1 MB.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import CheckpointError
from passl.io.limits import GROWTH, check_name

_STEPS = 500_000  # opcodes of a pickle; CvT-W24 with AdamW and EMA has some 100,000
_KEYS = 2**32  # limit of integer keys; larger ones can be chosen to collide
# Opcodes that push a value: that of the table, or their argument.
_LITERALS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING")),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")),
}


def weights_of(content: Any) -> dict[str, np.ndarray] | None:
    """Return the content if it is a state dict, name -> array.

    Raises:
        ValueError: a name is not a line of text.
    """
    if type(content) is not dict or not content:
        return None
    if not all(isinstance(value, np.ndarray) for value in content.values()):
        return None
    return {check_name(name): array for name, array in content.items()}


class Inert:
    """Stand-in for an object that a checkpoint has beside the weights."""


def inert(*_: Any) -> Inert:
    """Stand-in for a constructor whose object is not needed."""
    return Inert()


class PlainUnpickler:
    """Interpreter of a pickle that imports nothing; no opcode allocates more than it carries.
    Dictionary keys are texts and numbers only: the hash of nested tuples can take forever.

    Args:
        known: name -> what the pickle gets for it: a function that is called with the pickle's
            arguments, or a value. If the result has a method `build`, it receives the state.
        path: the file, for messages.
        limit: bytes that arrays and encoded texts may take together.

    Attributes:
        purpose: what the pickle is read for, for messages.
        advice: last sentence of the message about an unknown name.
    """

    purpose = "weights"
    advice = "If the file is trusted, load it where it was made and save its state_dict() alone"

    def __init__(self, known: Mapping[str, Any], path: Path, limit: int):
        self.path, self.left = path, limit
        self.known = {"collections.OrderedDict": self._ordered_dict, **known}
        self.steps = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def load(self, pickled: bytes) -> Any:
        """Return the content of the pickle."""
        for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
            self._count(1)
            self._step(opcode.name, argument)
        return self.stack.pop()

    def spend(self, size: int) -> None:
        """Subtract bytes from the limit."""
        self.left -= size
        if self.left < 0:
            raise ValueError(f"its arrays take more than {GROWTH} times the file")

    def persistent(self, reference: Any) -> Any:
        """Return the value of a reference to data outside the pickle."""
        raise ValueError("its pickle refers to data outside it")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" if argument <= 5:
                pass
            case "FRAME" | "STOP":
                pass
            case _ if opcode in _LITERALS:
                stack.append(_LITERALS[opcode] if argument is None else argument)
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "GLOBAL":
                stack.append(self._find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._find(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, call = stack.pop(), stack.pop()
                stack.append(self._call(call, arguments))
            case "BUILD":
                self._build(stack.pop())
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case _:
                self._collect(opcode, argument)

    def _collect(self, opcode: str, argument: Any) -> None:
        """Run an opcode that makes or fills a tuple, list or dict."""
        stack = self.stack
        match opcode:
            case "EMPTY_LIST" | "EMPTY_SET":  # the items of a set would be hashed
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE" | "FROZENSET":
                items = self._marked()
                self.stack.append(tuple(items))
            case "LIST":
                items = self._marked()
                self.stack.append(items)
            case "DICT":
                items = self._marked()
                self.stack.append({})
                self._set(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._marked())
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._marked())
            case _:
                shown = "" if argument is None else f" {str(argument)[:60]}"
                raise ValueError(
                    f"its pickle uses {opcode}{shown}, which {self.purpose} do not need"
                )

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _STEPS:
            raise ValueError(f"its pickle takes more than {_STEPS} steps")

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if type(target) is not dict or len(items) % 2:
            raise ValueError("its pickle sets items of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes) and not (type(key) is int and abs(key) < _KEYS):
                raise ValueError(f"a key is a text or a small number, not a {type(key).__name__}")
            target[key] = value

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError("its pickle appends to something that is no list")

    def _find(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle asks for something whose name is no text")
        full = f"{module[:200]}.{name[:200]}"
        if full not in self.known:
            shown = full if full.isprintable() else ascii(full)
            raise CheckpointError(
                f"{self.path}: refused: it asks for {shown}, which {self.purpose} do not need; "
                f"nothing was run. {self.advice}"
            )
        return self.known[full]

    def _call(self, call: Any, arguments: Any) -> Any:
        if not callable(call) or type(arguments) is not tuple:
            raise ValueError("its pickle calls something that is no function")
        return call(*arguments)

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if hasattr(target, "build"):
            target.build(state)
        elif type(target) is not dict and not isinstance(target, Inert):  # dict: its attributes
            raise ValueError("its pickle sets the state of something that has none")

    def _ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        self._count(len(pairs))  # one list can be passed many times
        self.stack.append({})
        self._set([item for key, value in pairs for item in (key, value)])
        return self.stack.pop()
