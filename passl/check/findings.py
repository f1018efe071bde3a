"""What a probe finds. A probe is a function that takes a `Setup` and returns `Findings`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setup:
    """What a probe runs on.

    Args:
        device: `cpu` or `gpu`.
        folder: for its files, empty; removed at the end.
        quick: whether to do less, for a first look.
    """

    device: str
    folder: Path
    quick: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device == "gpu"


class NotRun(Exception):
    """Why a probe does not apply to this machine."""


@dataclass(frozen=True)
class Row:
    """One finding.

    Args:
        name: what was measured or compared.
        value: a number, or a text.
        limit: the largest value that passes; null for a measurement without one.
        unit: of the value.
        note: more about the value, such as the name of the worst parameter.
    """

    name: str
    value: float | str
    limit: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether the value is above its limit, or a number that is not finite."""
        if isinstance(self.value, str):
            return False
        # A comparison with NaN is false, so the rule is what passes.
        passes = math.isfinite(self.value) and (self.limit is None or self.value <= self.limit)
        return not passes

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the outcome. JSON has no NaN and no infinity: they become text."""
        found = asdict(self)
        if isinstance(self.value, float) and not math.isfinite(self.value):
            found["value"] = str(self.value)
        return {**found, "failed": self.has_failed}


@dataclass(frozen=True)
class Findings:
    """The result of a probe.

    Args:
        rows: the findings.
        table: further numbers to look at, a header and lines; null for none.
    """

    rows: Sequence[Row]
    table: Sequence[Sequence[Any]] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with `status`: `failed` if a row has failed, `passed` if one has a limit and
        none has failed, else `measured`.
        """
        status = "measured"
        if any(row.limit is not None for row in self.rows):
            status = "passed"
        if any(row.has_failed for row in self.rows) or not self.rows:
            status = "failed"
        rows = [row.to_dict() for row in self.rows]
        return {"status": status, "rows": rows, "table": [list(line) for line in self.table]}
