"""An evaluation with its tables. Checking the options imports no paddle."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from passl.errors import ConfigError
from passl.evaluation.confusion import MOST_DRAWN
from passl.evaluation.labels import choose_valid_labels, read_real_labels, real_top1
from passl.io.files import obstacles
from passl.logging import get_logger
from passl.utils.config import Config

if TYPE_CHECKING:
    from passl.distributed.ranks import Ranks
    from passl.evaluation.task import Scores, Task


@dataclass(frozen=True)
class Options:
    """What an evaluation does besides scoring.

    Args:
        tta: test-time augmentation, a key of `scores.VIEWS`.
        valid_labels: the classes that are compared, see `labels.choose_valid_labels`.
        real_labels: ReaL's labels, see `labels.read_real_labels`.
        per_class: `.csv` for the scores of each class.
        confusion: `.csv` for the confusion matrix.
        predictions: `.csv` or `.jsonl` for the best predictions.
    """

    tta: Literal["none", "flip"] = "none"
    valid_labels: str | None = None
    real_labels: str | None = None
    per_class: Path | None = None
    confusion: Path | None = None
    predictions: Path | None = None

    def check(self, name: str, task: Task) -> None:
        """Raise a ConfigError for options that a task does not have.

        Args:
            name: of the task.
        """
        chosen = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        known = {*task.options, *task.tables}
        wrong = [f"--{key.replace('_', '-')}" for key in chosen if key not in known]
        if wrong:
            raise ConfigError(*(f"{option}: not for {name} data; leave it out" for option in wrong))

    def files(self, classes: int) -> list[Path]:
        """The files that will be written, for data with that many classes. Existing files are never
        overwritten.

        Raises:
            ConfigError: a file exists, has no folder, has the wrong suffix, or is named twice.
        """
        kinds = (
            ("--per-class", self.per_class, (".csv",)),
            ("--confusion", self.confusion, (".csv",)),
            ("--predictions", self.predictions, (".csv", ".jsonl")),
        )
        files: list[Path] = []
        problems = []
        for option, table, endings in kinds:
            if table is None:
                continue
            if table.suffix not in endings:
                problems.append(f"{option} {table}: must end in {' or '.join(endings)}")
            drawn = option == "--confusion" and classes <= MOST_DRAWN
            for path in [table, table.with_suffix(".png")] if drawn else [table]:
                problems += [f"{option} {path}: {rule}" for rule in obstacles(path)]
                if path.resolve() in [file.resolve() for file in files]:
                    problems.append(f"{option} {path}: is named twice; choose another name")
                files.append(path)
        if problems:
            raise ConfigError(*problems)
        return files


def evaluate_weights(
    cfg: Config, weights: str | Path, options: Options, ranks: Ranks
) -> dict[str, Any]:
    """Score weights on the validation data of a config, log the scores, and write the tables.

    Args:
        cfg: checked by `engine.check.check_config`.
        weights: see `modeling.Model`.
        ranks: the first of them logs and writes.

    Returns:
        All results as plain data; null for what was not asked for.

    Raises:
        ConfigError: the options do not fit each other or the data.
        RunError: the weights or an image cannot be read.
    """
    from passl.accelerate import accelerate
    from passl.data.loader import build_loader
    from passl.evaluation.added_metrics import build_metrics
    from passl.evaluation.scores import TASKS, VIEWS, predict
    from passl.modeling import Model

    loader = build_loader(
        cfg.dataloader.val,
        cfg.get("seed", 0),
        ranks.rank,
        ranks.world,
        local_world=ranks.local_world,
    )
    dataset, classes, task = loader.dataset, loader.classes, TASKS[loader.dataset.task]
    options.check(dataset.task, task)
    files = options.files(len(classes))
    valid = choose_valid_labels(options.valid_labels, dataset)
    real = None if options.real_labels is None else read_real_labels(options.real_labels, dataset)
    model = accelerate(Model(cfg, weights, classes=classes))

    found = predict(model, loader, valid, VIEWS[options.tta])
    metrics = build_metrics(cfg.get("metrics") or ())
    scores = task.score(found, len(classes), ranks, metrics)
    found = found.of_all(ranks)
    result = {
        **scores.to_dict(),
        **{key: dict(zip(classes, row, strict=True)) for key, row in scores.per_class.items()},
        "tta": options.tta,
        "valid_labels": None if valid is None else len(valid),
        "real_top1": None,
        "real_samples": None,
        "files": [str(file) for file in files],
    }
    if real is not None:
        labels = [real[index] for index in found.indices]
        result["real_top1"], result["real_samples"] = real_top1(found.classes[:, 0], labels)
    if ranks.is_first:
        _log(task, scores, result, len(classes))
        for option, write in task.tables.items():
            if (path := getattr(options, option)) is not None:
                write(path, found, dataset)
        for file in files:
            get_logger().info("wrote %s", file)
    return result


def _log(task: Task, scores: Scores, result: dict[str, Any], classes: int) -> None:
    log = get_logger().info
    shown = ", ".join(f"{key} {result[key]:.2f} %" for key in task.shown)
    log("%d images: %s, loss %.4f; %.1f images/s", scores.samples, shown, scores.loss, scores.ips)
    for line in scores.remarks():
        log("%s", line)
    for name, value in scores.metrics.items():
        log("%s %.4f", name, value)
    if result["valid_labels"] is not None:
        log("compared among %d of %d classes (valid labels)", result["valid_labels"], classes)
    if result["tta"] == "flip":
        log("each score is of the mean probabilities of an image and its mirror image")
    if result["real_top1"] is not None:
        log(
            "ReaL: top1 %(real_top1).2f %% of the %(real_samples)d images that have labels",
            result,
        )
