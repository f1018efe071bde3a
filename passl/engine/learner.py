"""What learns: the network and everything that a step uses and changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import nn

from passl.accelerate import accelerate
from passl.data.balance import samples_per_class
from passl.data.datasets.base import ImageDataset
from passl.distributed.ranks import Ranks
from passl.distributed.sharding import ShardedOptimizer
from passl.engine.average import WeightAverage
from passl.engine.freezing import Freezing
from passl.engine.precision import Precision
from passl.errors import ConfigError
from passl.logging import get_logger
from passl.modeling import Model
from passl.modeling.class_weights import BALANCED, balanced_weights
from passl.modeling.losses import Distilled, Supervised, Weighted, build_loss
from passl.optim.optimizers import build_optimizer, scaled_lr
from passl.optim.schedules import build_schedule


@dataclass(kw_only=True)
class Learner:
    """What a step uses and changes.

    Args:
        model: the network.
        wrapped: the same as training calls it, `Ranks.wrap(model)`; null before the first epoch.
        objective: (model, images, targets, mean weight) -> loss; see `modeling.losses`.
        optimizer: of the model's parameters.
        schedule: step -> learning rate, where all epochs have as many steps as this run's.
        schedule_shift: what the schedule's step has ahead of the run's, which counts the steps that
            were made: epochs before a resume may have had more or fewer.
        average: of the model's weights.
        precision: number format and loss scaling.
        freezing: which parameters rest.
        accumulate: the batch goes through the network in that many parts, whose gradients are
            added up: the memory of a part, the update of the whole. (Of BatchNorm each part has its
            own statistics.)
        seed: of the run.
        ranks: the processes.
        retired: earlier values of `wrapped`.
    """

    model: nn.Layer
    wrapped: nn.Layer | None = None
    objective: Supervised | Distilled
    optimizer: Any
    schedule: Callable[[int], float]
    average: WeightAverage
    precision: Precision
    freezing: Freezing
    accumulate: int
    seed: int
    ranks: Ranks
    schedule_shift: int = 0
    retired: list[Any] = field(default_factory=list)

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has the optimizer's state of some parameters only."""
        return isinstance(self.optimizer, ShardedOptimizer)

    def mean_weight(self, targets) -> float | None:
        """The mean of the class weights of the batch's samples, over all ranks; null where the loss
        has none.
        """
        loss = self.objective.loss
        weights_B = loss.sample_weights(targets) if isinstance(loss, Weighted) else None
        return None if weights_B is None else self.ranks.mean(weights_B.mean().item())

    def begin_epoch(self, epoch: int) -> None:
        """Training mode, with those parameters frozen that rest in this epoch, from 0.

        Weights and state are loaded before the first one: what copies them to other ranks is done
        here.
        """
        changed = self.freezing.apply(epoch)
        if changed or self.wrapped is None:
            # The hooks of an earlier wrapper stay at the parameters and do nothing any more, but
            # Paddle crashes if it is freed.
            self.retired.append(self.wrapped)
            self.wrapped = self.ranks.wrap(self.model)
        self.wrapped.train()
        self.freezing.rest()


def build_learner(
    cfg: Mapping[str, Any],
    model: nn.Layer,
    ranks: Ranks,
    global_batch: int,
    steps_per_epoch: int,
    dataset: ImageDataset | None = None,
) -> Learner:
    """The learner of a training config.

    Args:
        cfg: checked by `engine.check.check_config`.
        model: as the run starts from it, on its device.
        global_batch: samples of one step over all ranks.
        dataset: of the training, whose samples `class_weights: balanced` counts.

    Raises:
        ConfigError: values that do not fit the network or the device.
    """
    if cfg.get("sync_bn", False):
        model = _synchronised(model, ranks)
    try:
        lr = scaled_lr(cfg["optimizer"], global_batch)
        precision = Precision(paddle.get_device().startswith("gpu"), **cfg.get("amp", {}))
        learner = Learner(
            model=model,
            objective=_objective(cfg, model, ranks, dataset),
            optimizer=build_optimizer(cfg["optimizer"], model),
            schedule=build_schedule(cfg["lr_scheduler"], lr, steps_per_epoch, cfg["epochs"]),
            average=WeightAverage(model, **cfg.get("ema", {})),
            precision=precision,
            freezing=Freezing(model, **cfg.get("freeze", {})),
            accumulate=cfg.get("accumulate", 1),
            seed=cfg.get("seed", 0),
            ranks=ranks,
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None
    precision.prepare(accelerate(model))
    if isinstance(learner.objective, Distilled):
        precision.prepare(accelerate(learner.objective.teacher))
    model.backbone.recompute = cfg.get("recompute", False)
    if "sharding" in cfg and ranks.world > 1:
        learner.optimizer = ShardedOptimizer(learner.optimizer, ranks)
    return learner


def _synchronised(model: nn.Layer, ranks: Ranks) -> nn.Layer:
    """The model whose BatchNorm has the statistics of the whole batch of all ranks. (Not tested: no
    GPU was at hand, and Paddle has none for CPUs.)
    """
    if ranks.world > 1 and paddle.get_device().startswith("gpu"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    get_logger().info(
        "sync_bn: does nothing %s; each process has statistics of its own, which are averaged "
        "before they are used or saved",
        "with one process" if ranks.world == 1 else "on a CPU",
    )
    return model


def _objective(
    cfg: Mapping[str, Any], model: nn.Layer, ranks: Ranks, dataset: ImageDataset | None
) -> Supervised | Distilled:
    counts = None
    if cfg["loss"].get("class_weights") == BALANCED and dataset is not None:
        own = samples_per_class(dataset)
        counts = [int(n) for n in ranks.sum((own * ranks.is_first).tolist())]  # the first rank's
        _tell_weights(cfg, counts, dataset.classes)
    loss = build_loss(cfg["loss"], counts)
    if "distillation" not in cfg:
        return Supervised(loss)
    options = dict(cfg["distillation"])
    names = getattr(model, "classes", None)  # the teacher's logits come in their order
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
    get_logger().info("taught by %s", cfg["distillation"]["teacher"])
    return Distilled(loss, teacher, **options)


def _tell_weights(cfg: Mapping[str, Any], counts: Sequence[int], classes: Sequence[str]) -> None:
    weights = balanced_weights(counts)
    named = sorted((w, n, name) for w, n, name in zip(weights, counts, classes, strict=True) if n)
    shown = [f"{weight:.3g} ({name}, {count} samples)" for weight, count, name in named]
    get_logger().info("class weights from %s to %s", shown[0], shown[-1])
    if cfg["dataloader"]["train"]["sampler"].get("balanced"):
        get_logger().warning(
            "the sampler is balanced, and class_weights too: rare classes count twice as much as "
            "either would make them; leave one of them out"
        )
