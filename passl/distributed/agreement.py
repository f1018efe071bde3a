"""All ranks do the same run: the same config, data and checkpoint."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from passl.distributed.ranks import Ranks
from passl.errors import ConfigError
from passl.utils.config import Config, dotted, leaves
from passl.utils.paths import is_path
from passl.utils.yaml import Keys

_OF_A_HOST = ("num_workers", "prefetch_factor", "use_shared_memory", "warn_after", "timeout")
"""Options of `loader` that do not change what is read."""
_SHOWN = 5
_PART = 10_000


def agree(
    ranks: Ranks,
    facts: Mapping[str, Any],
    advice: str,
    lists: Mapping[str, Callable[[], Sequence[str]]] | None = None,
) -> None:
    """Compare what each rank has with what rank 0 has. All ranks call it.

    Args:
        facts: name -> value, as JSON has it.
        advice: what to do about a difference.
        lists: name of a fact that is the hash of a list -> what makes the list. Of the first fact
            that differs the first item that does is named.

    Raises:
        ConfigError: a rank differs; the ranks, their hosts and both values are named. All ranks
            raise it.
    """
    if ranks.world == 1:
        return
    ranks.wait()  # one that reads longer than Gloo waits
    told = ranks.gather_texts([socket.gethostname(), json.dumps(facts)])
    hosts, found = [host for host, _ in told], [json.loads(text) for _, text in told]
    problems = [
        f"rank {rank} on {hosts[rank]} differs from rank 0 on {hosts[0]}: {difference}"
        for rank in range(1, ranks.world)
        if (difference := _difference(found[rank], found[0]))
    ]
    if problems:
        more = len(problems) - _SHOWN
        shown = [*problems[:_SHOWN], *([f"{more} more ranks differ"] if more > 0 else [])]
        shown += _first_items(ranks, found, lists or {})
        raise ConfigError(f"the processes do not agree; {'; '.join(shown)}. {advice}")


def _first_items(
    ranks: Ranks,
    found: Sequence[Mapping[str, Any]],
    lists: Mapping[str, Callable[[], Sequence[str]]],
) -> list[str]:
    """What a rank and rank 0 have at the first place where their lists differ, in a line. All ranks
    call it.
    """
    for name in lists:
        for rank, facts in enumerate(found):
            if facts.get(name) != found[0].get(name):
                number, there, here = _first_item(ranks, lists[name](), rank)
                return [
                    f"number {number} of the {name} is {there} on rank {rank}, {here} on rank 0"
                ]
    return []


def _first_item(ranks: Ranks, items: Sequence[str], rank: int) -> tuple[int, str, str]:
    """The first place, from 1, where the list of a rank differs from that of rank 0, and what both
    have there. Hashes say in which part of the lists it is, so that only that part is sent.
    """
    parts = [range(at, min(at + _PART, len(items))) for at in range(0, len(items), _PART)]
    texts = (json.dumps([items[index] for index in part]) for part in parts)
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    ranks.wait()
    told = ranks.gather_texts(hashes)
    start = _PART * _first_place(told[rank], told[0])
    own = range(start, min(start + _PART, len(items)))
    told = ranks.gather_texts([items[index] for index in own])
    place = _first_place(told[rank], told[0])
    there, here = (
        repr(one[place]) if place < len(one) else "none" for one in (told[rank], told[0])
    )
    return start + place + 1, there, here


def _first_place(one: Sequence[str], other: Sequence[str]) -> int:
    """Where two lists begin to differ."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _difference(own: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    names = [name for name in {**first, **own} if own.get(name) != first.get(name)]
    shown = names[:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"{n} is {_shown(own, n)} instead of {_shown(first, n)}" for n in shown) + more


def _shown(facts: Mapping[str, Any], name: str) -> str:
    return repr(facts[name]) if name in facts else "unset"


def agree_on_run(
    ranks: Ranks,
    cfg: Config,
    resume: str | None,
    data: Mapping[str, Mapping[str, Any]],
    lists: Mapping[str, Mapping[str, Callable[[], Sequence[str]]]],
) -> None:
    """Compare what the ranks have been told, and their data. Where the data lies and how many
    workers read it may be another on each host.

    Args:
        resume: the option `--resume`.
        data: fingerprint of each part, see `data.datasets.fingerprint`.
        lists: of each part, what makes the lists whose hashes the fingerprint has.

    Raises:
        ConfigError: a rank differs from rank 0. All ranks raise it.
    """
    told = {dotted(keys): value for keys, value in leaves(cfg.to_dict()) if not _of_a_host(keys)}
    found = {
        f"{name} of the {part} data": value
        for part, values in data.items()
        for name, value in values.items()
    }
    advice = "Start all of them with the same config and command line, on the same data"
    made = {
        f"{name} of the {part} data": make
        for part, makes in lists.items()
        for name, make in makes.items()
    }
    agree(ranks, {"--resume": resume, **told, **found}, advice, made)


def _of_a_host(keys: Keys) -> bool:
    if keys[0] != "dataloader":
        return False
    of_data = "dataset" in keys and is_path(keys, "")
    return of_data or (keys[-2:-1] == ("loader",) and keys[-1] in _OF_A_HOST)
