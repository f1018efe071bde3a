"""All ranks do the same run: the same config, data and checkpoint."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from passl.distributed.ranks import Ranks
from passl.errors import ConfigError, shortened
from passl.utils.config import Config, dotted, leaves
from passl.utils.paths import is_path
from passl.utils.yaml import Keys

_OF_A_HOST = ("num_workers", "prefetch_factor", "use_shared_memory", "warn_after", "timeout")
"""Options of `loader` that do not change what is read."""
_SHOWN = 5
_PART = 10_000

Lists = Mapping[str, Callable[[], Sequence[str]]]
"""Name of a fact that is the hash of a list -> what makes the list."""


def agree_on_run(
    ranks: Ranks,
    cfg: Config,
    resume: str | None,
    data: Mapping[str, Mapping[str, Any]],
    lists: Mapping[str, Lists],
) -> None:
    """Compare the config and the data of all ranks. Paths of datasets, and options of loaders that
    do not change what is read, may differ between hosts.

    Args:
        resume: the option `--resume`.
        data: fingerprint of each part, see `data.datasets.fingerprint`.
        lists: of each part, the lists whose hashes the fingerprint has.

    Raises:
        ConfigError: a rank differs from rank 0. All ranks raise it.
    """
    options = {dotted(keys): value for keys, value in leaves(cfg.to_dict()) if not _of_a_host(keys)}
    advice = "Start all of them with the same config and command line, on the same data"
    agree(ranks, {"--resume": resume, **options, **_flat(data)}, advice, _flat(lists))


def agree(ranks: Ranks, facts: Mapping[str, Any], advice: str, lists: Lists | None = None) -> None:
    """Compare the facts of each rank with those of rank 0. All ranks call it.

    Args:
        facts: name -> value, as JSON has it.
        advice: what to do about a difference.
        lists: if such a fact differs, the first item of the list that does is named.

    Raises:
        ConfigError: a rank differs; the ranks, their hosts and both values are named. All ranks
            raise it.
    """
    if ranks.world == 1:
        return
    ranks.wait()  # one rank may have read its data for longer than Gloo waits
    gathered = ranks.gather_texts([socket.gethostname(), json.dumps(facts)])
    hosts, found = zip(*((host, json.loads(text)) for host, text in gathered), strict=True)
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


def _difference(own: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    def show(facts: Mapping[str, Any], name: str) -> str:
        return repr(facts[name]) if name in facts else "unset"

    names = [name for name in {**first, **own} if own.get(name) != first.get(name)]
    return shortened([f"{n} is {show(own, n)} instead of {show(first, n)}" for n in names])


def _first_items(ranks: Ranks, found: Sequence[Mapping[str, Any]], lists: Lists) -> list[str]:
    """Of the first list that differs, a line that names its first item that does. All ranks call
    it.
    """
    for name, make in lists.items():
        for rank, facts in enumerate(found):
            if facts.get(name) != found[0].get(name):
                number, there, here = _first_item(ranks, make(), rank)
                return [
                    f"number {number} of the {name} is {there} on rank {rank}, {here} on rank 0"
                ]
    return []


def _first_item(ranks: Ranks, items: Sequence[str], rank: int) -> tuple[int, str, str]:
    """The first place, from 1, where the list of a rank differs from that of rank 0, and what both
    have there. Hashes show in which part of the lists it is, so that only that part is sent.
    """

    def part(start: int) -> list[str]:
        return [items[index] for index in range(start, min(start + _PART, len(items)))]

    texts = (json.dumps(part(start)) for start in range(0, len(items), _PART))
    own = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    ranks.wait()
    hashes = ranks.gather_texts(own)
    start = _PART * _first_place(hashes[rank], hashes[0])
    gathered = ranks.gather_texts(part(start))
    place = _first_place(gathered[rank], gathered[0])
    there, here = (
        repr(part[place]) if place < len(part) else "none" for part in (gathered[rank], gathered[0])
    )
    return start + place + 1, there, here


def _first_place(one: Sequence[str], other: Sequence[str]) -> int:
    """Where two lists begin to differ."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _flat(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{name} of the {part} data": value
        for part, values in parts.items()
        for name, value in values.items()
    }


def _of_a_host(keys: Keys) -> bool:
    if keys[0] != "dataloader":
        return False
    of_data = "dataset" in keys and is_path(keys, "")
    return of_data or (keys[-2:-1] == ("loader",) and keys[-1] in _OF_A_HOST)
