"""What options of datasets, sampler and loader must fulfil beyond their types. Constructors
and the check of a config call the same functions, which need no paddle.

A function takes the options by name, and raises a ValueError for what is out of range or does not
go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from passl.data.datasets.images import check_min_side


def image_files(*, min_side: int | None, **_: Any) -> None:
    """Of `ImageFolder` and `ImageList`."""
    check_min_side(min_side)


def tar_shards(
    *,
    image_keys: Sequence[str],
    label_key: str,
    buffer_size: int,
    min_side: int | None,
    **_: Any,
) -> None:
    """Of `TarShards`."""
    check_min_side(min_side)
    if buffer_size < 1:
        raise ValueError(f"buffer_size {buffer_size} must be at least 1")
    endings = {ending_of(key) for key in image_keys}
    if not endings or "" in endings or ending_of(label_key) in ("", *endings):
        raise ValueError(
            f"image_keys {list(image_keys)} and label_key {label_key!r} must be endings, and not "
            "the same ones"
        )


def ending_of(key: str) -> str:
    """The ending of a shard's members that a key stands for."""
    return key.lower().lstrip(".")


def sampler(
    *, batch_size: int, shuffle: bool, repeats: int, balanced: bool = False, **_: Any
) -> None:
    """Of `BatchSampler`."""
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"sampler.{name} {value} must be at least 1")
    if repeats > 1 and not shuffle:
        raise ValueError(
            f"sampler.repeats {repeats} needs shuffle, since an epoch sees only 1 sample of "
            f"{repeats}, which would be the same ones each time"
        )
    if balanced and not shuffle:
        raise ValueError(
            "sampler.balanced draws an order for each epoch; set shuffle: true beside it"
        )


def loader(
    *,
    num_workers: int,
    prefetch_factor: int,
    on_bad_sample: str,
    max_bad_samples: int,
    warn_after: float,
    timeout: float,
    **_: Any,
) -> None:
    """Of `Loader`."""
    least = {
        "num_workers": (num_workers, 0),
        "prefetch_factor": (prefetch_factor, 1),
        "max_bad_samples": (max_bad_samples, 0),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ValueError(f"loader.{name} {value} must be at least {smallest}")
    for name, seconds in (("warn_after", warn_after), ("timeout", timeout)):
        if not seconds > 0:
            raise ValueError(f"loader.{name} {seconds} must be above 0 seconds")
    if on_bad_sample not in ("error", "skip"):
        raise ValueError(f"loader.on_bad_sample {on_bad_sample!r} must be error or skip")
