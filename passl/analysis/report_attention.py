"""The part of a report about attention: what each head measures, and how that has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from passl.analysis.attention import last_block
from passl.analysis.attention_figure import draw_attention, image_attention
from passl.analysis.charts import Chart, chart
from passl.analysis.compare import RunSummary
from passl.analysis.evaluated import Evaluated
from passl.analysis.gates import LABELS, attention_rows, over_epochs
from passl.analysis.layers import point_of_block
from passl.engine.attention_log import AttentionLog
from passl.errors import ConfigError, RunError
from passl.evaluation.attention import attention_blocks
from passl.logging import get_logger

_MEASURES = ("gate", "distance", "nonlocality", "entropy", "width")
"""Those that are shown, see `gates.LABELS`."""
_FORM = ".4g"

Blocks = Mapping[str, Mapping[str, Any]]
"""By the name of a block its `kind` and, by measure, a list with a number for each head."""


def measured_now(found: Evaluated) -> Blocks:
    """Measure the attention of a network as a run does; nothing if it has none."""
    try:
        return AttentionLog(found.loader).measure(found.model, lambda: None)["blocks"]
    except (ConfigError, RunError) as error:
        get_logger().warning("no measures of attention in the report: %s", error)
        return {}


def attention_maps_of(found: Evaluated) -> Figure | None:
    """Draw the attention of the first and the last block on two validation images; null if it
    cannot be drawn, which is logged.
    """
    backbone = found.model.backbone
    try:
        shown = [found.shown(i) for i in AttentionLog(found.loader, images=2).indices]
        blocks = attention_blocks(found.model, *shown[0].array.shape[1:])
        names = dict.fromkeys((blocks[0].name, last_block(blocks).name))
        ends = [point_of_block(backbone, name) for name in names]
        maps = [image_attention(found.model, image.array, ends) for image in shown]
    except (ConfigError, RunError) as error:
        get_logger().warning("no attention maps in the report: %s", error)
        return None
    return draw_attention(shown, maps)


def attention_part(run: RunSummary, now: Blocks) -> dict[str, Any] | None:
    """What the template shows of a run's attention; null if nothing is known of it.

    Args:
        now: measured for the report, if the run has not measured it.
    """
    rows = attention_rows(run.folder)
    blocks = rows[-1]["blocks"] if rows else now
    if not blocks:
        return None
    measures = [each for each in _MEASURES if any(each in block for block in blocks.values())]
    table = [
        [name, block["kind"], head, *(_number(block, each, head) for each in measures)]
        for name, block in blocks.items()
        for head in range(_heads(block))
    ]
    when = f"after epoch {rows[-1]['epoch']}" if rows else "of the best checkpoint"
    return {
        "caption": f"Each head, {when}",
        "head": ["block", "kind", "head", *(LABELS[each] for each in measures)],
        "rows": table,
        "charts": _charts(rows, measures) if len(rows) > 1 else [],
    }


def _charts(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> list[Chart]:
    """Of each measure a line for each block: the mean of its heads over the epochs."""
    found = []
    for measure in measures:
        lines: dict[str, list[tuple[float, float]]] = {}
        for epoch, values in over_epochs(rows, measure):
            for block, heads in values.items():
                known = [value for value in heads if value is not None]
                points = lines.setdefault(block, [])
                points += [(epoch, sum(known) / len(known))] if known else []
        found.append(chart(f"{LABELS[measure]}, mean of the heads", list(lines.items())))
    return [each for each in found if each]


def _heads(block: Mapping[str, Any]) -> int:
    return max(len(values) for values in block.values() if isinstance(values, list))


def _number(block: Mapping[str, Any], measure: str, head: int) -> str | None:
    values = block.get(measure) or []
    value = values[head] if head < len(values) else None
    return None if value is None else format(value, _FORM)
