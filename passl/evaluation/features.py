"""The features that a backbone computes for a dataset, written to a file.

B images of a block, N of the dataset, C channels, Y rows and X columns of a feature map.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

from passl import __version__
from passl.accelerate import accelerate
from passl.data.build import build_dataset, build_transforms
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.fingerprint import fingerprint
from passl.data.loader import Batch, Loader
from passl.data.samplers import BatchSampler, Key
from passl.data.samples import Samples
from passl.distributed.ranks import Ranks
from passl.errors import ConfigError, RunError
from passl.evaluation.feature_file import Unfinished, output_problems
from passl.io.terminal import Bar
from passl.logging import get_logger
from passl.modeling.backbones import build_backbone
from passl.porting import load_weights, locate, read_file
from passl.utils.config import Config

BLOCK = 16
"""Images that the network computes at once. Sample i is always image i % BLOCK of block i // BLOCK,
and an incomplete block is filled with zeros: matrix products round differently for other shapes,
so that features would depend on the batch size and the number of ranks.
"""
_ROUND_BLOCKS, _ROUND_BYTES = 16, 2**26
"""Blocks of each rank between two writes: at most so many, and about so many bytes."""


@dataclass(frozen=True)
class Options:
    """What is computed and where it is written.

    Args:
        out: `.npy` or `.npz`; never overwritten.
        split: the part of the config's data.
        layer: a block or stage, as in `out_indices` of the backbone's `forward_features`; null for
            the output of the backbone.
        dense: keep the feature map of the layer instead of its mean over rows and columns.
        dtype: of the file; computation is in float32.
    """

    out: Path
    split: Literal["train", "val"] = "val"
    layer: int | None = None
    dense: bool = False
    dtype: Literal["float32", "float16"] = "float32"

    def check(self) -> None:
        """Raise a ConfigError for what is wrong before anything is computed."""
        problems = [f"--out {problem}" for problem in output_problems(self.out)]
        if self.dense and self.layer is None:
            problems.append(
                "--dense needs --layer, such as --layer -1: the output of a backbone has no map"
            )
        if problems:
            raise ConfigError(*problems)


class Blocks(BatchSampler):
    """Blocks of consecutive samples, which the ranks take in turn.

    Args:
        dataset: the samples.
        first: the first block of all ranks.
        seed: of the run.
        rank, world: index of this process, and their number.
    """

    def __init__(self, dataset: ImageDataset, first: int, seed: int, rank: int, world: int):
        super().__init__(dataset, seed, rank, world, batch_size=BLOCK)
        self._starts = range(first * BLOCK, len(dataset), BLOCK)[rank::world]

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts:
            yield [(0, i, i) for i in range(start, min(start + BLOCK, len(self.dataset)))]


def _dataset(node: Mapping[str, Any]) -> ImageDataset:
    dataset = build_dataset(node)
    if dataset.task != "classification":
        raise ConfigError(
            f"features: {node['name']} is for {dataset.task}, whose images do not have one class "
            "each, to write beside their features; name a config with another dataset"
        )
    return dataset


def extract(
    cfg: Config,
    weights: str | Path,
    options: Options,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Compute the features of a dataset and write them to a file. The same call continues an
    interrupted one.

    The features of a sample have the same bits for any number of ranks, and any sampler and loader
    of the config, on processors of one kind with the same number of threads.

    Args:
        cfg: checked by `engine.check.check_config`. Transforms are those of validation.
        weights: a file, an https address, or a name of the model zoo. A classifier is left out.
        options: checked.
        ranks: the first of them writes.

    Returns:
        Shape, dtype and number of classes, as plain data.

    Raises:
        ConfigError: there is no such layer, or the unfinished output is of something else.
        RunError: the weights or an image cannot be read, or the features are not finite.
    """
    data = Config(cfg.dataloader).to_dict()
    node = {**data[options.split]["dataset"], "transforms": data["val"]["dataset"]["transforms"]}
    dataset, transforms = _dataset(node), build_transforms(node["transforms"])
    samples = Samples(dataset, transforms, cfg.get("seed", 0))
    architecture, backbone = _build(cfg, weights)
    compute = _Compute(backbone, options, dataset)
    shape = [len(dataset), *compute.row_shape(samples)]
    unfinished = None
    if ranks.is_first:
        about = {
            **describe(architecture, backbone, options),
            "transforms": node.pop("transforms"),
            "dataset": node,
            "samples": fingerprint(dataset),
            "seed": samples.seed,  # a transform may be random
        }
        unfinished = Unfinished(options.out, shape, options.dtype, about)
        if unfinished.done:
            get_logger().info("continued after %d of %d images", unfinished.done, shape[0])
    ranks.wait()
    done = int(ranks.sum([unfinished.done if unfinished else 0])[0])
    sampler = Blocks(dataset, -(-done // BLOCK), samples.seed, ranks.rank, ranks.world)
    # Rows without features would be silently wrong in whatever is computed from them.
    how = {**data["val"].get("loader", {}), "on_bad_sample": "error"}
    loader = Loader(dataset, transforms, sampler, ranks.local_world or ranks.world, **how)
    with Bar("features", shape[0], "images", done=done, shown=ranks.is_first) as bar:
        for rows in _rounds(loader, compute, shape, done, ranks):
            if unfinished is not None:
                unfinished.append(rows)
            bar.update(len(rows))
    if unfinished is not None:
        names = [dataset.name(index) for index in range(shape[0])]
        unfinished.finish(dataset.labels, names, dataset.classes)
    return {"shape": shape, "dtype": options.dtype, "classes": len(dataset.classes)}


def describe(
    architecture: Mapping[str, Any], backbone: nn.Layer, options: Options
) -> dict[str, Any]:
    """Describe what computes features: the same values mean the same function of an image."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.shape} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return {
        "passl": __version__,
        "architecture": dict(architecture),
        "weights": digest.hexdigest(),
        "layer": options.layer,
        "dense": options.dense,
        "block": BLOCK,
    }


def _build(cfg: Config, weights: str | Path) -> tuple[dict[str, Any], nn.Layer]:
    """Build the backbone in evaluation mode with its weights. Options that the config leaves open
    are those that the weights need.
    """
    file = read_file(locate(weights))
    architecture = {**file.numerics, **Config(cfg.model.architecture).to_dict()}
    backbone = accelerate(build_backbone(architecture))
    load_weights(backbone, file, cfg.model.get("fit", ()))
    backbone.eval()
    return architecture, backbone


class _Compute:
    """Computes the features of images.

    Args:
        backbone: in evaluation mode.
        options: layer, dense and dtype.
        dataset: for names in messages.
    """

    def __init__(self, backbone: nn.Layer, options: Options, dataset: ImageDataset):
        self._backbone, self._options, self._dataset = backbone, options, dataset
        self._shape: tuple[int, ...] = ()

    def row_shape(self, samples: Samples) -> tuple[int, ...]:
        """Return the shape of a sample's features, [C] or [C, Y, X], from the first sample."""
        first = samples[0, 0, 0]
        if isinstance(first, Exception):
            raise first
        assert first.image is not None  # it would be an error instead
        try:
            self._shape = self._forward(first.image[None]).shape[1:]
        except (ValueError, IndexError) as error:
            if self._options.layer is None:
                raise
            raise ConfigError(f"--layer {self._options.layer}: {error}") from None
        return self._shape

    def block(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Return indices [B] and features [B, ...] of a block.

        Raises:
            RunError: features are not finite, or have another shape than those of the first sample.
        """
        images, indices = batch.images.numpy(), batch.indices.numpy()
        filled = np.zeros((BLOCK, *images.shape[1:]), np.float32)
        filled[: len(images)] = images
        values = self._forward(filled)[: len(images)]
        name = self._dataset.name
        if values.shape[1:] != self._shape:
            raise RunError(
                f"{name(int(indices[0]))}: its features have shape {values.shape[1:]}, those of "
                f"the first image {self._shape}; end the transforms with one size"
            )
        with np.errstate(over="ignore"):
            values = values.astype(self._options.dtype)
        wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
        if len(wrong):
            raise RunError(
                f"{name(int(indices[wrong[0]]))}: its features are not finite in "
                f"{self._options.dtype}; check the weights, or choose --dtype float32"
            )
        return indices, values

    def nothing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what `block` returns, for no image."""
        return np.zeros(0, np.int64), np.zeros((0, *self._shape), self._options.dtype)

    @paddle.no_grad()
    def _forward(self, images: np.ndarray) -> np.ndarray:
        """Images [B, 3, height, width] -> features [B, C] or [B, C, Y, X] in float32."""
        layer = self._options.layer
        if layer is None:
            found = self._backbone(paddle.to_tensor(images))
        else:
            (found,) = self._backbone.forward_features(paddle.to_tensor(images), [layer])
            if not self._options.dense:
                found = found.mean([2, 3])
        return found.astype("float32").numpy()


def _rounds(
    loader: Loader, compute: _Compute, shape: Sequence[int], done: int, ranks: Ranks
) -> Iterator[np.ndarray]:
    """Iterate over the features of the samples from `done` on, in the order of the dataset. Ranks
    other than the first get none, but must iterate as well.
    """
    row_bytes = 4 * math.prod(shape[1:])
    count = min(max(1, _ROUND_BYTES // (BLOCK * row_bytes)), _ROUND_BLOCKS)
    batches = loader.epoch(0)
    size = count * BLOCK * ranks.world
    for start in range(done, shape[0], size):
        blocks = [compute.block(batch) for batch in islice(batches, count)]
        blocks.append(compute.nothing())  # there may be fewer blocks than ranks
        indices, values = map(np.concatenate, zip(*blocks, strict=True))
        ranks.wait()  # one may have read slower images than the others
        parts = ranks.gather({"indices": indices, "values": values}, to_all=False)
        rows = np.empty((min(size, shape[0] - start) if parts else 0, *shape[1:]), values.dtype)
        for part in parts:
            rows[part["indices"] - start] = part["values"]
        yield rows
