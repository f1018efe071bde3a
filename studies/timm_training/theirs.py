"""Train timm's ConViT under PyTorch on the batches of a config of passl, with timm's optimizer
groups, loss and schedule: python studies/timm_training/theirs.py CONFIG OUT.json -o KEY=VALUE ...

OUT.json gets the losses, the learning rates, the images per second and the top-1 of the validation
data. OUT.pt beside it has the state after the last epoch, from which an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

import torch
from safetensors.torch import load_file

from passl.cli.dispatch import run
from passl.data.loader import Loader, build_loader
from passl.deploy.convert import plan_conversion, write_for
from passl.io.files import to_json, write_atomically, write_text
from passl.porting import read_file
from passl.utils.config import Config, get_config


def torchvision_without_operators() -> Any:
    """timm imports torchvision; a build for another torch asks for two operators then. Keep what
    this returns.
    """
    if "torchvision" in sys.modules:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def build_network(section: Mapping[str, Any], weights: Path) -> Any:
    """timm's ConViT with weights of passl, which `passl convert` renames and transposes.

    timm's `embed_dim` is the width of a head, and its patch grid is square. The class token joins
    before the first block that is not local in both, positions are counted alike, and norms have
    the same epsilon. The defaults of `drop_path_rate` differ.

    Args:
        section: `model` of the config, which sets `drop_path_rate`.
    """
    from timm.models.convit import ConVit

    given = dict(section["architecture"])
    assert given.pop("name") == "ConViT"
    given.pop("init")  # the weights are given
    width = given.pop("embed_dim") // given["num_heads"]  # timm's is that of a head
    network = ConVit(num_classes=section["head"]["num_classes"], embed_dim=width, **given)
    file = read_file(weights)
    plan = plan_conversion(file, section["architecture"], section["head"])
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "timm.safetensors"
        write_for("timm", file, plan, converted)
        network.load_state_dict(load_file(converted))
    return network


class Training:
    """timm's side of a run.

    Args:
        cfg: of passl: AdamW, Cosine and CrossEntropy with label smoothing, on one process.
        weights: of passl, that both sides start from.
    """

    def __init__(self, cfg: Config, weights: Path):
        self._library = torchvision_without_operators()
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.scheduler import CosineLRScheduler

        self.cfg = cfg
        self.loader = build_loader(cfg.dataloader.train, cfg.seed, even=True)
        self.network = build_network(cfg.to_dict()["model"], weights)
        self.loss = LabelSmoothingCrossEntropy(cfg.loss.label_smoothing)
        rules = cfg.optimizer, cfg.lr_scheduler
        assert [rule.name for rule in rules] == ["AdamW", "Cosine"]
        self.optimizer = create_optimizer_v2(
            self.network, opt="adamw", lr=rules[0].lr, weight_decay=rules[0].weight_decay
        )
        steps = len(self.loader)
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=steps * cfg.epochs,
            lr_min=rules[1].min_lr,
            warmup_t=round(steps * rules[1].warmup_epochs),
            warmup_lr_init=rules[1].warmup_lr,
            t_in_epochs=False,
        )

    def epoch(self, epoch: int) -> Iterator[tuple[float, float]]:
        """Make the steps of an epoch, from 0.

        Yields:
            Loss and learning rate of each.
        """
        self.network.train()
        for number, batch in enumerate(self.loader.epoch(epoch)):
            self.schedule.step_update(epoch * len(self.loader) + number)
            self.optimizer.zero_grad()
            loss = self.loss(self.network(_tensor(batch.images)), _tensor(batch.labels))
            loss.backward()
            self.optimizer.step()
            yield loss.item(), self.optimizer.param_groups[0]["lr"]

    @torch.no_grad()
    def top1(self, loader: Loader) -> float:
        """Top-1 in per cent."""
        self.network.eval()
        correct = 0
        for batch in loader.epoch(0):
            predicted = self.network(_tensor(batch.images)).argmax(-1)
            correct += int((predicted == _tensor(batch.labels)).sum())
        return 100 * correct / len(loader.dataset)

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def _tensor(paddle_tensor: Any) -> torch.Tensor:
    return torch.from_numpy(paddle_tensor.numpy())


def train(cfg: Config, out: Path) -> None:
    """Train, or continue, and write the result."""
    out.parent.mkdir(parents=True, exist_ok=True)
    state_file, done, rows, seconds = out.with_suffix(".pt"), 0, [], 0.0
    training = Training(cfg, Path(cfg.model.pretrained))
    if state_file.exists():
        stored = torch.load(state_file, weights_only=True)
        training.restore(stored)
        done, rows, seconds = stored["epochs"], stored["rows"], stored["seconds"]
    for epoch in range(done, cfg.epochs):
        start = time.perf_counter()
        rows += training.epoch(epoch)
        seconds += time.perf_counter() - start
        state = {**training.state(), "epochs": epoch + 1, "rows": rows, "seconds": seconds}
        write_atomically(state_file, lambda path, state=state: torch.save(state, path))
        print(f"epoch {epoch + 1} of {cfg.epochs}: loss {rows[-1][0]:.4f}", flush=True)
    losses, rates = zip(*rows, strict=True)
    result = {
        "top1": training.top1(build_loader(cfg.dataloader.val, cfg.seed)),
        "losses": losses,
        "rates": rates,
        "ips": len(rows) * training.loader.sampler.batch_size / seconds,
        "versions": {"torch": torch.__version__},
    }
    write_text(out, to_json(result) + "\n")
    print(json.dumps({"top1": result["top1"], "ips": result["ips"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("-o", nargs="+", default=[], metavar="KEY=VALUE", help="as for training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(get_config(args.config, args.o), args.out)


if __name__ == "__main__":
    run(main)
