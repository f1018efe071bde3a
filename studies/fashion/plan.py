"""What the study on Fashion-MNIST trains."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from passl.utils.config import Config, get_config
from studies.jobs import Training, path_value

CONFIG = Path(__file__).with_name("convit.yaml")


class Network(NamedTuple):
    """A network of the study.

    Args:
        title: for the page.
        reference: its row in the paper's ablation (table 3).
        overrides: of the config.
    """

    title: str
    reference: str
    overrides: Sequence[str] = ()


NETWORKS = {
    "convit": Network("ConViT", "a"),
    "attention": Network("plain attention", "e", ["model.architecture.local_up_to_layer=0"]),
    "random": Network("random positions", "c", ["model.architecture.locality_strength=null"]),
    "frozen": Network("gates frozen", "b", ["freeze.names=[backbone.blocks.*.attn.gating_param]"]),
}


class Row(NamedTuple):
    """The networks at a number of tokens.

    Args:
        seeds: number of pairs.
        patch_size: side of a patch in pixels.
    """

    seeds: int
    patch_size: int


class Run(NamedTuple):
    """A run of the study.

    Args:
        network: a key of `NETWORKS`.
        fraction: of the training set.
        seed: of the weights, the part of the training set, its order and augmentation.
        lr: peak learning rate.
        is_tuning: whether it helps to choose a learning rate: its network is trained on 55,000 of
            the training images and scored on the other 5,000, not on the test images.
    """

    tokens: int
    network: str
    fraction: float
    seed: int
    lr: float
    is_tuning: bool = False

    @property
    def name(self) -> str:
        place = f"tune_{self.lr:g}" if self.is_tuning else f"{self.fraction:g}_{self.seed}"
        return f"{self.tokens}_{self.network}_{place}"


@dataclass(frozen=True)
class Plan:
    """The runs of the study.

    Args:
        rows: by the number of tokens.
        fractions: of the training set.
        rates: learning rates that each network is tuned over.
        tuned_at: the fraction at which they are.
        moments: how often in the first ConViT's run of a fraction its gates are read.
        overrides: of the config, for all runs.
    """

    rows: Mapping[int, Row] = field(default_factory=lambda: {196: Row(3, 2), 49: Row(3, 4)})
    fractions: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0)
    rates: Sequence[float] = (1e-3, 2e-3, 4e-3)
    tuned_at: float = 0.1
    moments: int = 30
    overrides: Sequence[str] = ()

    def tuning(self) -> Iterator[Run]:
        """The runs that choose the learning rates, with a seed that no other run has."""
        for tokens, row in self.rows.items():
            for network, lr in itertools.product(NETWORKS, self.rates):
                yield Run(tokens, network, self.tuned_at, row.seeds, lr, is_tuning=True)

    def runs(self, rates: Mapping[tuple[int, str], float]) -> Iterator[Run]:
        """The runs that are compared, the networks of a pair one after the other.

        Args:
            rates: the learning rate of each number of tokens and network; runs of others are left
                out.
        """
        for tokens, row in self.rows.items():
            for seed, fraction in itertools.product(range(row.seeds), self.fractions):
                for network in NETWORKS:
                    if (tokens, network) in rates:
                        yield Run(tokens, network, fraction, seed, rates[tokens, network])

    @property
    def size(self) -> int:
        """Number of all runs."""
        pairs = sum(row.seeds for row in self.rows.values()) * len(self.fractions)
        return len(NETWORKS) * (len(self.rows) * len(self.rates) + pairs)

    def config(self, tokens: int) -> Config:
        """ConViT's config at a number of tokens."""
        return get_config(CONFIG, self._of_all(tokens))

    def steps(self, tokens: int) -> int:
        """Steps of every run."""
        sampler = self.config(tokens).dataloader.train.sampler
        return sampler.samples // sampler.batch_size

    def reads_gates(self, run: Run) -> bool:
        return run.network == "convit" and run.seed == 0 and not run.is_tuning

    def training(self, run: Run, folder: Path) -> Training:
        """The training of a run in the folder of the study."""
        splits = {"train": "train_part", "val": "holdout"} if run.is_tuning else {}
        overrides = [
            *self._of_all(run.tokens),
            *NETWORKS[run.network].overrides,
            *(f"dataloader.{part}.dataset.split={split}" for part, split in splits.items()),
            f"dataloader.train.dataset.fraction={run.fraction}",
            f"dataloader.train.dataset.fraction_seed={run.seed}",
            f"model.pretrained={path_value(initial_file(run, folder))}",
            f"optimizer.lr={run.lr}",
            f"seed={run.seed}",
        ]
        if self.reads_gates(run):
            every = max(1, self.steps(run.tokens) // self.moments)
            overrides.append(f"checkpoint.keep_interval={every}")
        return Training(folder / run.name, CONFIG, overrides)

    def _of_all(self, tokens: int) -> list[str]:
        patch_size = f"model.architecture.patch_size={self.rows[tokens].patch_size}"
        return [patch_size, *self.overrides]


def initial_file(run: Run, folder: Path) -> Path:
    """The file of the weights that a run starts from."""
    return folder / "initial" / f"{run.tokens}_{run.network}_{run.seed}.safetensors"
