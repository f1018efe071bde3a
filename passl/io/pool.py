"""A function applied by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, chunksize: int = 1
) -> Iterator[Result]:
    """Iterate over the results for the items, in order. An exception of the function is raised at
    its place, and the items after it are given up.

    Args:
        function: called in forked processes, which share the memory that it refers to.
        workers: number of processes; 0 calls the function in this one.
        chunksize: items that a process gets at a time.

    Raises:
        BrokenProcessPool: a process has died.
    """
    if not workers:
        yield from map(function, items)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    with ProcessPoolExecutor(workers, context, _begin, (function,)) as pool:
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork with threads; the functions use none of their locks.
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            results = pool.map(_call, items, chunksize=chunksize)
        yield from results  # an exception, or an end before the last, cancels the others


_FUNCTION: Callable[[Any], Any]
"""A worker's."""


def _begin(function: Callable[[Any], Any]) -> None:
    global _FUNCTION  # noqa: PLW0603 (the only state that a worker of a pool can have)
    _FUNCTION = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End a worker whose parent was killed, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _FUNCTION(item)
