"""An evaluation with its tables. Checking the options imports no paddle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from passl.data.transforms.corruption import KINDS, SEVERITIES, Kind
from passl.errors import ConfigError
from passl.evaluation.confusion import MOST_DRAWN
from passl.evaluation.labels import choose_valid_labels, read_real_labels, real_top1
from passl.evaluation.thresholds import read_thresholds
from passl.io.files import obstacles
from passl.logging import get_logger
from passl.utils.config import Config, closest

if TYPE_CHECKING:
    from passl.data.loader import Loader
    from passl.distributed.ranks import Ranks
    from passl.evaluation.predictions import Predictions
    from passl.evaluation.task import Scores, Task

_OF_EVERY_TASK = ("corruptions", "corruption_kinds", "severities")
"""Fields of `Options`."""


@dataclass(frozen=True)
class Options:
    """What an evaluation does besides scoring.

    Args:
        tta: test-time augmentation, a key of `scores.VIEWS`.
        valid_labels: the classes that are compared, see `labels.choose_valid_labels`.
        real_labels: ReaL's labels, see `labels.read_real_labels`.
        per_class: `.csv` for the scores of each class.
        confusion: `.csv` for the confusion matrix.
        predictions: `.csv` or `.jsonl` for the predictions.
        calibration: `.csv` for the bins of confidence, and the `.png` beside it for their diagram;
            either names both.
        temperature: for `calibration` besides 1: a number, or `fit` for the best on this data.
        corruptions: `.csv` for the scores on corrupted images.
        corruption_kinds, severities: of `corruptions`; null for all.
        thresholds: above which a label is predicted, see `thresholds.read_thresholds`.
        best_thresholds: `.csv` for the thresholds that maximise the F1 score of each class.
    """

    tta: Literal["none", "flip"] = "none"
    valid_labels: str | None = None
    real_labels: str | None = None
    per_class: Path | None = None
    confusion: Path | None = None
    predictions: Path | None = None
    calibration: Path | None = None
    temperature: float | Literal["fit"] | None = None
    corruptions: Path | None = None
    corruption_kinds: Sequence[Kind] | None = None
    severities: Sequence[int] | None = None
    thresholds: str | None = None
    best_thresholds: Path | None = None

    def check(self, name: str, task: Task) -> None:
        """Raise a ConfigError for options that a task does not have.

        Args:
            name: of the task.
        """
        chosen = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        known = {*task.options, *task.tables, *_OF_EVERY_TASK}
        wrong = [f"--{key.replace('_', '-')}" for key in chosen if key not in known]
        if wrong:
            raise ConfigError(*(f"{option}: not for {name} data; leave it out" for option in wrong))

    def files(self, classes: int) -> list[Path]:
        """The files that will be written, for data with that many classes. Existing files are never
        overwritten.

        Raises:
            ConfigError: a file exists, has no folder, has the wrong suffix, or is named twice; or
                an option is without the one that it belongs to.
        """
        kinds = (
            ("--per-class", self.per_class, (".csv",)),
            ("--confusion", self.confusion, (".csv",)),
            ("--predictions", self.predictions, (".csv", ".jsonl")),
            ("--calibration", self.calibration, (".csv", ".png")),
            ("--corruptions", self.corruptions, (".csv",)),
            ("--best-thresholds", self.best_thresholds, (".csv",)),
        )
        files: list[Path] = []
        problems = list(self._problems())
        for option, table, endings in kinds:
            if table is None:
                continue
            if table.suffix not in endings:
                problems.append(f"{option} {table}: must end in {' or '.join(endings)}")
            drawn = option == "--calibration" or (option == "--confusion" and classes <= MOST_DRAWN)
            both = [table.with_suffix(".csv"), table.with_suffix(".png")]
            for path in both if drawn else [table]:
                problems += [f"{option} {path}: {rule}" for rule in obstacles(path)]
                if path.resolve() in [file.resolve() for file in files]:
                    problems.append(f"{option} {path}: is named twice; choose another name")
                files.append(path)
        if problems:
            raise ConfigError(*problems)
        return files

    def _problems(self) -> Iterator[str]:
        """Options without the one that they belong to, and corruptions that do not exist."""
        if self.temperature is not None and self.calibration is None:
            yield "--temperature is for --calibration; add it, or leave --temperature out"
        for option, value in (
            ("--corruption-kinds", self.corruption_kinds),
            ("--severities", self.severities),
        ):
            if value is not None and self.corruptions is None:
                yield f"{option} is for --corruptions; add it, or leave {option} out"
        for kind in self.corruption_kinds or ():
            if kind not in KINDS:
                yield f"--corruption-kinds {kind}: is unknown{closest(kind, KINDS)}"


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
    from passl.evaluation.robustness import check_corruptible
    from passl.evaluation.scores import TASKS, VIEWS, predict
    from passl.modeling import Model

    node, seed = cfg.dataloader.val, cfg.get("seed", 0)
    loader = build_loader(node, seed, ranks.rank, ranks.world, local_world=ranks.local_world)
    dataset, classes, task = loader.dataset, loader.classes, TASKS[loader.dataset.task]
    options.check(dataset.task, task)
    files = options.files(len(classes))
    valid = choose_valid_labels(options.valid_labels, dataset)
    real = None if options.real_labels is None else read_real_labels(options.real_labels, dataset)
    thresholds = read_thresholds(options.thresholds, classes)
    if options.corruptions is not None:
        check_corruptible(loader)
    model = accelerate(Model(cfg, weights, classes=classes))

    kept = {"keep_logits": True} if options.calibration else {}
    own = predict(model, loader, valid, VIEWS[options.tta], shown=ranks.is_first, **kept)
    own = replace(own, thresholds=thresholds) if options.thresholds else own
    scores = task.score(own, len(classes), ranks, build_metrics(cfg.get("metrics") or ()))
    found = own.of_all(ranks)
    result: dict[str, Any] = {
        **scores.to_dict(),
        **{key: dict(zip(classes, row, strict=True)) for key, row in scores.per_class.items()},
        "tta": options.tta,
        "valid_labels": None if valid is None else len(valid),
        **_real_scores(real, found),
        **dict.fromkeys(("calibration", "corruptions")),
        "files": [str(file) for file in files],
    }
    if ranks.is_first:
        _log(task, scores, result, len(classes))
        _write(task, options, found, dataset)
    if options.calibration is not None:
        result["calibration"] = _calibrate(options, own, ranks)
    if options.corruptions is not None:
        result["corruptions"] = _corrupt(options, model, loader, valid, ranks, scores)
    for file in files if ranks.is_first else ():
        get_logger().info("wrote %s", file)
    return result


def _real_scores(real: Sequence[Sequence[int]] | None, found: Any) -> dict[str, Any]:
    """ReaL's score and its number of samples; null without ReaL's labels."""
    top1 = samples = None
    if real is not None:
        top1, samples = real_top1(found.classes[:, 0], [real[index] for index in found.indices])
    return {"real_top1": top1, "real_samples": samples}


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


def _write(task: Task, options: Options, found: Any, dataset: Any) -> None:
    for option, write in task.tables.items():
        if (path := getattr(options, option)) is not None:
            write(path, found, dataset)


def _calibrate(options: Options, own: Predictions, ranks: Ranks) -> list[dict[str, Any]]:
    """Measure, log, write and draw the calibration on the first rank; nothing on the others."""
    from passl.evaluation.calibration import calibration, fit_temperature, write_calibration
    from passl.evaluation.reliability import draw_calibration

    logits_NK, labels_N = own.logits_of_all(ranks)
    if options.calibration is None or not ranks.is_first:
        return []
    is_fitted, temperature = options.temperature == "fit", options.temperature
    if is_fitted:
        temperature = fit_temperature(logits_NK, labels_N)
    found = [calibration(logits_NK, labels_N)]
    if temperature is not None:
        found.append(calibration(logits_NK, labels_N, float(temperature), is_fitted))
    for each in found:
        get_logger().info("%s", each)
    if is_fitted:
        get_logger().info(
            "the temperature is fitted on these images, so its error is too low; report that of "
            "other images, by --temperature %.4g",
            temperature,
        )
    write_calibration(options.calibration.with_suffix(".csv"), found)
    draw_calibration(options.calibration.with_suffix(".png"), found)
    return [each.to_dict() for each in found]


def _corrupt(
    options: Options,
    model: Any,
    loader: Loader,
    valid: Sequence[int] | None,
    ranks: Ranks,
    scores: Scores,
) -> dict[str, Any]:
    """Measure the scores on corrupted images; the first rank logs and writes them."""
    from passl.evaluation.robustness import measure, write_robustness
    from passl.evaluation.scores import TASKS, VIEWS, predict

    task = TASKS[loader.dataset.task]

    def evaluate() -> float:
        found = predict(model, loader, valid, VIEWS[options.tta], shown=ranks.is_first)
        return getattr(task.score(found, len(loader.classes), ranks, {}), task.best)

    found = measure(
        *(loader, evaluate, task.best, getattr(scores, task.best)),
        *(options.corruption_kinds or KINDS, options.severities or SEVERITIES, ranks.is_first),
    )
    if options.corruptions is not None and ranks.is_first:
        write_robustness(options.corruptions, found)
    return found.to_dict()
