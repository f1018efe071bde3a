"""The network and everything that a training step uses and changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import nn

from passl.accelerate import accelerate
from passl.data.balance import class_counts, samples_per_class
from passl.data.datasets.base import ImageDataset
from passl.distributed.ranks import STATISTICS, Ranks
from passl.distributed.sharding import ShardedOptimizer
from passl.engine.average import WeightAverage
from passl.engine.freezing import Freezing
from passl.engine.precision import Precision
from passl.errors import ConfigError
from passl.logging import get_logger
from passl.modeling import Model
from passl.modeling.losses import (
    Distilled,
    Supervised,
    Weighted,
    balanced_pos_weight,
    balanced_weights,
    build_loss,
)
from passl.optim.optimizers import build_optimizer, scaled_lr
from passl.optim.schedules import build_schedule


@dataclass(kw_only=True)
class Learner:
    """What a training step uses and changes.

    Args:
        model: the network.
        objective: (model, images, targets, mean weight) -> loss; see `modeling.losses`.
        optimizer: of the model's parameters.
        schedule: step -> learning rate, if all epochs have as many steps as this run's.
        average: of the model's weights.
        precision: number format and loss scaling.
        freezing: which parameters are frozen in an epoch.
        accumulate: parts that the batch is split into; their gradients are added up. BatchNorm
            takes statistics of each part.
        skip_nonfinite: whether to skip a step whose loss is not finite, rather than end the run.
        seed: of the run.
        ranks: the processes.
        schedule_shift: steps that the schedule is ahead of the run, whose epochs before a resume
            may have had more or fewer steps.

    Attributes:
        wrapped: the model as a training step calls it, `Ranks.wrap(model)`.
        statistics: BatchNorm's running statistics.
    """

    model: nn.Layer
    objective: Supervised | Distilled
    optimizer: Any
    schedule: Callable[[int], float]
    average: WeightAverage
    precision: Precision
    freezing: Freezing
    accumulate: int
    skip_nonfinite: bool
    seed: int
    ranks: Ranks
    schedule_shift: int = 0
    _replaced: list[nn.Layer] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.freezing.apply(0)
        self.wrapped = self.ranks.wrap(self.model)
        named = self.model.named_parameters()
        self.statistics = [tensor for name, tensor in named if name.endswith(STATISTICS)]

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has the optimizer's state of some parameters only."""
        return isinstance(self.optimizer, ShardedOptimizer)

    def mean_weight(self, targets: Any) -> Any:
        """The mean of the class weights of the batch's samples over all ranks, a scalar tensor;
        null where the loss has none.
        """
        loss = self.objective.loss
        weights_B = loss.sample_weights(targets) if isinstance(loss, Weighted) else None
        if weights_B is None:
            return None
        total = self.ranks.all_reduce(weights_B.mean().astype("float64"))
        return (total / self.ranks.world).astype("float32")

    def begin_epoch(self, epoch: int) -> None:
        """Set training mode, and freeze or thaw parameters for the epoch, from 0."""
        if self.freezing.apply(epoch):
            # DataParallel ignores parameters that thaw after it was built. Paddle crashes when the
            # old one is freed, because its hooks stay on the parameters, so it is kept.
            self._replaced.append(self.wrapped)
            self.wrapped = self.ranks.wrap(self.model)
        self.wrapped.train()
        self.freezing.keep_statistics()


def build_learner(
    cfg: Mapping[str, Any],
    model: nn.Layer,
    ranks: Ranks,
    global_batch: int,
    steps_per_epoch: int,
    dataset: ImageDataset | None = None,
) -> Learner:
    """Build the learner of a training config.

    Args:
        cfg: checked by `engine.check.check_config`.
        model: on its device. The first rank's weights are sent to all.
        global_batch: samples of one step over all ranks.
        dataset: of the training, whose samples `class_weights: balanced` counts.

    Raises:
        ConfigError: values that do not fit the network or the device.
    """
    if cfg.get("sync_bn", False):
        model = _synchronised(model, ranks)
    model.backbone.recompute = cfg.get("recompute", False)
    try:
        precision = Precision(paddle.get_device().startswith("gpu"), **cfg.get("amp", {}))
        objective = _objective(cfg, model, ranks, dataset)
        precision.prepare(accelerate(model))
        if isinstance(objective, Distilled):
            precision.prepare(accelerate(objective.teacher))
        optimizer: Any = build_optimizer(cfg["optimizer"], model)
        if "sharding" in cfg and ranks.world > 1:
            optimizer = ShardedOptimizer(optimizer, ranks)
        lr = scaled_lr(cfg["optimizer"], global_batch)
        return Learner(
            model=model,
            objective=objective,
            optimizer=optimizer,
            schedule=build_schedule(cfg["lr_scheduler"], lr, steps_per_epoch, cfg["epochs"]),
            average=WeightAverage(model, **cfg.get("ema", {})),
            precision=precision,
            freezing=Freezing(model, **cfg.get("freeze", {})),
            accumulate=cfg.get("accumulate", 1),
            skip_nonfinite=cfg.get("on_nonfinite", "stop") == "skip",
            seed=cfg.get("seed", 0),
            ranks=ranks,
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _synchronised(model: nn.Layer, ranks: Ranks) -> nn.Layer:
    """The model with BatchNorm statistics of the batch of all ranks. (Untested: no GPU was
    available, and Paddle has no such kernel for CPUs.)
    """
    if ranks.world > 1 and paddle.get_device().startswith("gpu"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    get_logger().info(
        "sync_bn: does nothing %s; each process has its own statistics, which are averaged before "
        "they are used or saved",
        "with one process" if ranks.world == 1 else "on a CPU",
    )
    return model


def _objective(
    cfg: Mapping[str, Any], model: nn.Layer, ranks: Ranks, dataset: ImageDataset | None
) -> Supervised | Distilled:
    counts = None
    if cfg["loss"].get("class_weights") == "balanced" and dataset is not None:
        own = samples_per_class(dataset)
        counts = [int(n) for n in ranks.sum((own * ranks.is_first).tolist())]  # the first rank's
        _log_weights(cfg, counts, dataset.classes)
    section = cfg["loss"]
    if section.get("pos_weight") == "balanced" and dataset is not None:
        own = class_counts(dataset)
        positives = [int(n) for n in ranks.sum((own * ranks.is_first).tolist())]
        section = {**section, "pos_weight": balanced_pos_weight(positives, len(dataset))}
    loss = build_loss(section, counts)
    if "distillation" not in cfg:
        return Supervised(loss)
    options = dict(cfg["distillation"])
    names = getattr(model, "classes", None)  # the teacher's logits are put in their order
    try:
        teacher = Model(options.pop("teacher"), options.pop("weights"), classes=names)
    except ConfigError as error:
        raise ConfigError(f"distillation: {error}") from None
    for parameter in teacher.parameters():
        parameter.stop_gradient = True
    classes = model.num_classes
    if teacher.num_classes != classes:
        raise ConfigError(
            f"distillation.teacher: {teacher.num_classes} classes, but the student has "
            f"{classes}; a teacher must know the same ones"
        )
    get_logger().info("distillation from %s", cfg["distillation"]["teacher"])
    return Distilled(loss, teacher, **options)


def _log_weights(cfg: Mapping[str, Any], counts: Sequence[int], classes: Sequence[str]) -> None:
    weights = balanced_weights(counts)
    named = sorted((w, n, name) for w, n, name in zip(weights, counts, classes, strict=True) if n)
    shown = [f"{weight:.3g} ({name}, {count} samples)" for weight, count, name in named]
    get_logger().info("class weights from %s to %s", shown[0], shown[-1])
    if cfg["dataloader"]["train"]["sampler"].get("balanced"):
        get_logger().warning(
            "the sampler is balanced, and class_weights too: rare classes are corrected twice; "
            "leave one of them out"
        )
