"""The report of `passl check`, as Markdown to read and as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from passl import __version__
from passl.check.probes import FACTS, PROBES
from passl.io.files import to_json, write_text

_MARKS = {"passed": "passed", "failed": "**FAILED**", "measured": "measured", "not run": "not run"}
_FENCE = "`" * 4
_ERROR = 160
"""Characters of an error in the table."""


def write_reports(
    outcomes: Sequence[Mapping[str, Any]], plan: Mapping[str, Any], paths: Sequence[Path]
) -> None:
    """Write the Markdown and the JSON file, atomically.

    Args:
        outcomes: of `runner.run_all`.
        plan: options of the call.
        paths: of both files.
    """
    found = {
        "passl_check": 1,
        "passl": __version__,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "options": dict(plan),
        "failed": failures(outcomes),
        "outcomes": list(outcomes),
    }
    markdown, data = paths
    write_text(data, to_json(found, indent=1) + "\n")
    write_text(markdown, "\n".join(as_markdown(found)) + "\n")


def failures(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The probes that have failed."""
    return [each["probe"] for each in outcomes if each["status"] == "failed"]


def summary(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """How many probes passed, failed, were measured and did not run, by device."""
    counts = Counter((each["device"], each["status"]) for each in outcomes if each["device"] != "-")
    parts = []
    for device in dict.fromkeys(device for device, _ in counts):
        each = [f"{counts[device, s]} {s}" for s in _MARKS if counts[device, s]]
        parts.append(f"{device.upper()}: {', '.join(each)}")
    return "; ".join(parts) or "no probe has run"


def line(outcome: Mapping[str, Any]) -> str:
    """An outcome in one line."""
    where = "" if outcome["device"] == "-" else f" on {outcome['device']}"
    head = f"{outcome['probe']}{where}: {outcome['status']}"
    return f"{head} ({detail(outcome)})" if detail(outcome) else head


def detail(outcome: Mapping[str, Any]) -> str:
    """The reason or the error of an outcome, the rows that have failed, or the row that is closest
    to its limit.
    """
    said = outcome.get("reason") or outcome.get("error")
    if said:
        return said if len(said) <= _ERROR else f"{said[:_ERROR]} ..."
    rows = outcome.get("rows", ())
    failed = [row for row in rows if row["failed"]]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return f"{failed[0]['name']} is {number(failed[0]['value'])}{_limit(failed[0])}{more}"
    limited = [row for row in rows if row["limit"]]
    if not limited:
        return ""
    worst = max(limited, key=lambda row: row["value"] / row["limit"])
    return f"closest: {worst['name']} {number(worst['value'])}{_limit(worst)}"


def number(value: float | str) -> str:
    """A number to three digits, or a text."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def _limit(row: Mapping[str, Any]) -> str:
    return "" if row["limit"] is None else f", limit {number(row['limit'])}"


def as_markdown(found: Mapping[str, Any]) -> list[str]:
    """Lines of the report."""
    outcomes = found["outcomes"]
    options = ", ".join(f"{key} {_option(value)}" for key, value in found["options"].items())
    lines = [
        "# passl check",
        "",
        f"passl {found['passl']}, {found['date']}, {options}.",
        "",
        f"**{summary(outcomes)}.**",
        "",
    ]
    if found["failed"]:
        lines += [f"Failed: {', '.join(dict.fromkeys(found['failed']))}.", ""]
    lines += _table(["probe", "device", "result", "seconds", ""])
    for each in outcomes:
        cells = each["probe"], each["device"], _MARKS[each["status"]], f"{each['seconds']:g}"
        lines.append(_cells([*cells, detail(each)]))
    for each in outcomes:
        if each["status"] != "not run":
            lines += ["", *_section(each)]
    return lines


def _section(outcome: Mapping[str, Any]) -> list[str]:
    """What a probe has found."""
    name, device = outcome["probe"], outcome["device"]
    title = "Machine" if name == FACTS else name
    where = "" if device == "-" else f" on {'the CPU' if device == 'cpu' else 'the GPU'}"
    lines = [f"## {title}{where}: {outcome['status']}", ""]
    if name in PROBES:
        lines += [PROBES[name].shows, ""]
    if "rows" in outcome:
        lines += _table(["", "value", "limit", ""])
        for row in outcome["rows"]:
            value = number(row["value"]) + (f" {row['unit']}" if row["unit"] else "")
            value = f"**{value}**" if row["failed"] else value
            limit = "" if row["limit"] is None else number(row["limit"])
            lines.append(_cells([row["name"], value, limit, row["note"]]))
    if outcome.get("table"):
        head, *rest = outcome["table"]
        lines += ["", *_table(head), *map(_cells, rest)]
    if "error" in outcome:
        lines.append(f"Error: {_cell(outcome['error'])}")
    if outcome.get("output"):
        lines += ["", "<details><summary>Output</summary>", "", f"{_FENCE}text"]
        lines += [*outcome["output"].splitlines(), _FENCE, "", "</details>"]
    return lines


def _table(head: Sequence[Any]) -> list[str]:
    return [_cells(head), "|" + "---|" * len(head)]


def _cells(values: Sequence[Any]) -> str:
    return f"| {' | '.join(map(_cell, values))} |"


def _option(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
