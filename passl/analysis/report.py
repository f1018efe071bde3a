"""The report on one or several runs: an HTML file that needs no other one and no network."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import passl
from passl.analysis.charts import charts_of_run, charts_of_runs
from passl.analysis.compare import (
    RunSummary,
    differing,
    read_runs,
    result_columns,
    setting_text,
    shortest,
)
from passl.analysis.report_attention import attention_part
from passl.analysis.report_evaluation import evaluation_of
from passl.analysis.run_facts import changes, read_starts, recorded_recipe, remarks, timing
from passl.engine.run_folder import CONFIG
from passl.errors import ConfigError
from passl.io.files import write_text
from passl.logging import get_logger, printable
from passl.utils.config import find_config


def write_report(
    folders: Sequence[Path],
    out: Path,
    recipe: str | None = None,
    evaluates: bool = True,
    mistakes: int = 24,
) -> None:
    """Write the report.

    Args:
        folders: of runs, or of sweeps for all their runs.
        out: the HTML file.
        recipe: a config that each run is compared with, instead of the one that it has recorded.
        evaluates: whether each run's best checkpoint is evaluated on its validation data, for what
            needs predictions.
        mistakes: the most confident ones of each run that are shown, at most.

    Raises:
        ConfigError: a folder holds no run, or the recipe cannot be read.
    """
    runs = read_runs(folders)
    if recipe is not None:
        find_config(recipe)  # before networks are evaluated
    pages = []
    for number, run in enumerate(runs, 1):
        get_logger().info("run %s", run.name)
        evaluation = evaluation_of(run, mistakes) if evaluates else _NOT_ASKED
        pages.append(_page(run, f"run-{number}", recipe, evaluation))
    write_text(out, _render(runs, pages))


_NOT_ASKED = "The best checkpoint was not evaluated for this report (--no-eval)."


def _render(runs: Sequence[RunSummary], pages: Sequence[Mapping[str, Any]]) -> str:
    files = resources.files("passl.analysis") / "templates"
    style, script = (
        (files / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("passl.analysis"),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = _shown
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    names = ", ".join(run.name for run in runs)
    return environment.get_template("report.html").render(
        title=names if len(names) <= 80 else f"{len(runs)} runs",
        # Nothing is loaded, and no script runs but the report's own, whatever a name contains.
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'",
        version=passl.__version__,
        time=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        style=Markup(style),
        script=Markup(script),
        runs=pages,
        comparison=_comparison(runs) if len(runs) > 1 else None,
    )


def _finalized(value: Any) -> Any:
    """Text of users as one line that only shows; jinja2 escapes it."""
    is_foreign = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value) if is_foreign else value


def _shown(value: Any) -> str:
    """A value of a table."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _comparison(runs: Sequence[RunSummary]) -> dict[str, Any]:
    keys = differing(runs)
    short = shortest(keys)
    settings = [[short[key], *(setting_text(run, key) for run in runs)] for key in keys]
    found = [run.results() for run in runs]
    results = [
        [title, *(None if each.get(key) is None else format(each[key], form) for each in found)]
        for key, (title, form) in result_columns(runs).items()
    ]
    return {
        "head": ["", *(run.name for run in runs)],
        "rows": [*results, *settings],
        "charts": charts_of_runs([(run.name, run.metrics) for run in runs]),
    }


def _page(run: RunSummary, name: str, recipe: str | None, evaluation: Any) -> dict[str, Any]:
    """What the template shows of a run."""
    starts = read_starts(run.folder)
    has_predictions = not isinstance(evaluation, str)
    contents = [("summary", "Summary"), ("curves", "Curves")]
    contents += [("evaluation", "Classes" if has_predictions else "Predictions")]
    contents += [("mistakes", "Worst mistakes")] * has_predictions
    attention = attention_part(run, evaluation.attention if has_predictions else {})
    contents += [("attention", "Attention")] if attention else []
    contents += [("config", "Config"), ("timing", "Time"), ("environment", "Environment")]
    differences, text = _recipe(run, recipe or recorded_recipe(starts))
    own = evaluation.remarks if has_predictions else []
    return {
        "id": name,
        "name": run.name,
        "contents": contents,
        "cards": _cards(run, starts, evaluation),
        "remarks": [*own, *remarks(run, starts)],
        "charts": charts_of_run(run.metrics),
        "epochs": _epochs(run),
        "evaluation": evaluation,
        "attention": attention,
        "recipe_text": text,
        "changes": [[each.key, each.before, each.after] for each in differences],
        "config": _lines((run.folder / CONFIG).read_text(encoding="utf-8", errors="replace")),
        "timing": _times(run),
        "environment": _environment(starts),
        "starts": _starts(starts) if len(starts) > 1 else [],
    }


def _recipe(run: RunSummary, recipe: str | None) -> tuple[list[Any], str]:
    """The differences from the recipe, and a sentence about them."""
    if recipe is None:
        return [], (
            "The run has recorded no recipe: its config is or inherits from no shipped one. "
            "--recipe CONFIG compares it with a config."
        )
    try:
        found = changes(run.settings, recipe)
    except ConfigError as error:
        return [], f"The recipe {recipe} cannot be read: {'; '.join(error.problems)}"
    if not found:
        return [], f"Every value is that of the recipe {recipe}, but for output_dir."
    return found, f"The recipe is {recipe}. Values that differ from it:"


def _cards(run: RunSummary, starts: Sequence[Mapping[str, Any]], evaluation: Any) -> list[Any]:
    """The most important numbers."""
    task, results, epochs = run.metrics.task, run.results(), run.settings.get("epochs", "?")
    title, best = task.shown[task.best], results[f"best_{task.best}"]
    cards = []
    if best is not None:
        note = f"in epoch {results['best_epoch']}"
        cards.append(_card(f"best {title}", f"{best:.2f} %", note))
        last = results[f"last_{task.best}"]
        cards.append(_card(f"last {title}", f"{last:.2f} %"))
    if results["last_loss"] is not None:
        cards.append(_card("last validation loss", f"{results['last_loss']:.4f}"))
    cards.append(_card("epochs", f"{run.epochs_done} of {epochs}"))
    time = timing(run)
    if time.training:
        cards.append(_card("training", _duration(time.training)))
    if results["images_per_second"] is not None:
        device = starts[-1].get("device") if starts else None
        speed = results["images_per_second"]
        cards.append(_card("images/s in training", f"{speed:.4g}", device and f"on {device}"))
    if not isinstance(evaluation, str):
        cards.append(_card("parameters", evaluation.parameters))
    return cards


def _card(title: str, value: str, note: str | None = None) -> dict[str, str | None]:
    return {"title": title, "value": value, "note": note}


def _epochs(run: RunSummary) -> dict[str, Any]:
    """The evaluations as a table, with the mean training loss of their epochs."""
    shown = run.metrics.task.shown
    rows = []
    for row in run.metrics.val:
        losses = [t["loss"] for t in run.metrics.train if t["epoch"] == row["epoch"]]
        mean = f"{sum(losses) / len(losses):.4f}" if losses else None
        loss = f"{row['loss']:.4f}" if "loss" in row else None
        rows.append([row["epoch"], mean, loss, *(row.get(key) for key in shown)])
    titles = [f"{title} in %" for title in shown.values()]
    return {"head": ["epoch", "training loss", "validation loss", *titles], "rows": rows}


def _times(run: RunSummary) -> list[tuple[str, str]]:
    time, speed = timing(run), run.images_per_second
    epochs = max(time.epochs, 1)
    pairs = [
        ("training", _duration(time.training)),
        ("per epoch", _duration(time.training / epochs)),
        ("evaluation", _duration(time.evaluation)),
    ]
    if time.waiting_part is not None:
        pairs.append(("waiting for data", f"{100 * time.waiting_part:.1f} % of the training time"))
    if speed is not None:
        pairs.append(("throughput", f"{speed:.4g} images/s (median of the logged intervals)"))
    if time.wall is not None and time.wall > time.training + time.evaluation:
        pairs.append(("first to last row of the metrics", f"{_duration(time.wall)}, with breaks"))
    return pairs


def _environment(starts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Of the last start."""
    if not starts:
        return []
    start = starts[-1]
    commit = start.get("commit")
    changed = ", with changed files" if start.get("changed") else ""
    pairs = [
        ("passl", f"{start.get('passl')}" + (f", commit {commit[:12]}{changed}" if commit else "")),
        *(start.get("versions") or {}).items(),
        ("device", start.get("device")),
        ("processor", start.get("cpu")),
        ("processes", start.get("world_size")),
        ("host", start.get("host")),
        ("started in", start.get("folder")),
        ("command", shlex.join(map(str, start.get("argv") or ()))),
    ]
    return [(name, value) for name, value in pairs if value not in (None, "")]


def _starts(starts: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    keys = ("time", "host", "device", "world_size", "epoch", "passl", "error")
    return [[start.get(key) for key in keys] for start in starts]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))


def _lines(text: str) -> Markup:
    """Several lines, each as `_finalized` shows it."""
    return Markup("\n").join(escape(printable(line)) for line in text.splitlines())
