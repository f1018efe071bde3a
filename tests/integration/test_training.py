"""Whole runs on the embedded digits, with tiny networks: train, kill, resume, evaluate, draw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from passl.data.loader import build_loader
from passl.distributed.ranks import Ranks
from passl.engine import run_lock
from passl.engine import train as train_module
from passl.engine.checkpoint import read_checkpoint
from passl.engine.metrics import read_metrics
from passl.engine.train import train
from passl.errors import CheckpointError, ConfigError, RunError
from passl.evaluation.evaluate import Options, evaluate_weights
from passl.evaluation.scores import evaluate
from passl.modeling import Model
from passl.utils.config import get_config


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


SMALL = (  # eleven steps of 32 are an epoch
    "dataloader.train.dataset.fraction=0.25",
    "dataloader.val.dataset.fraction=0.25",
    "dataloader.train.sampler.batch_size=32",
)


def run(path: Path, folder: Path, *overrides: str, resume: str | None = None):
    return train(get_config(path, [f"output_dir={folder}", *SMALL, *overrides]), resume)


def content(folder: Path, name: str = "last.safetensors"):
    """Weights, optimizer state and progress of a checkpoint."""
    path = folder / name
    with safe_open(path, framework="np") as file:
        return load_file(path), json.loads(file.metadata()["progress"])


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what depends on the speed of the machine."""
    speed = ("time", "ips", "ips_per_rank", "bound_by", "slowest_rank")
    return {k: v for k, v in row.items() if k not in speed and not k.endswith("_cost")}


def same_run(ours: Path, theirs: Path) -> None:
    """The two runs ended in the same state, bit for bit, and wrote the same numbers, each step
    once.
    """
    for name in ("last.safetensors", "best.safetensors"):
        (arrays, progress), (expected, expected_progress) = (
            content(ours, name),
            content(theirs, name),
        )
        assert progress == expected_progress
        assert arrays.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(arrays[key], expected[key], f"{name}: {key}")
    rows = [[untimed(row) for row in read_metrics(f)] for f in (ours, theirs)]
    assert rows[0] == rows[1]
    assert len({(row["phase"], row["step"]) for row in rows[0]}) == len(rows[0])


RECIPE = (
    "dataloader.train.sampler.repeats=3",
    "dataloader.train.mixup={mixup_alpha: 0.8, cutmix_alpha: 1.0}",
    "dataloader.train.dataset.transforms=[{name: RandomResizedCrop, size: 32}, {name: RandAugment, "
    "policy: rand-m9-mstd0.5-inc1}, {name: Normalize}, {name: RandomErasing, mode: pixel}]",
    "ema={decay: 0.9}",
    "accumulate=2",
    "freeze={names: ['backbone.*'], epochs: 1}",
)


@pytest.mark.parametrize(
    ("name", "workers", "recipe"),
    [("ConViT", 0, RECIPE), ("ConViT", 2, ()), ("CvT", 0, ()), ("CvT", 2, RECIPE)],
    ids=["ConViT-0-recipe", "ConViT-2-plain", "CvT-0-plain", "CvT-2-recipe"],
)
def test_resume_is_bit_for_bit(tiny_config, tmp_path, monkeypatch, name, workers, recipe):
    """Killed in the middle of the second epoch and resumed in a process whose generators stand
    elsewhere. Dropout, drop path and augmentation are on.
    """
    path = tiny_config(name)
    more = (f"dataloader.train.loader={{num_workers: {workers}}}", "epochs=3", *recipe)
    more = (*more, "log_config.attention={images: 5}", "log_config.histograms=true")
    run(path, tmp_path / "straight", *more)

    steps = 0

    def killing(*args):
        nonlocal steps
        steps += 1
        if steps == 15:  # eleven steps are an epoch
            raise Killed
        return step(*args)

    step = train_module.train_step
    monkeypatch.setattr(train_module, "train_step", killing)
    with pytest.raises(Killed):
        run(path, tmp_path / "killed", *more)
    monkeypatch.setattr(train_module, "train_step", step)
    assert content(tmp_path / "killed")[1]["epoch"] == 1

    paddle.seed(99)
    np.random.seed(99)  # noqa: NPY002
    progress = run(path, tmp_path / "killed", *more, resume="auto")
    assert (progress.epoch, progress.step) == (3, 33)
    same_run(tmp_path / "killed", tmp_path / "straight")
    rows = read_metrics(tmp_path / "killed")
    for phase in ("attention", "weights"):
        assert [row["epoch"] for row in rows if row["phase"] == phase] == [0, 1, 2, 3]


def test_any_number_of_workers_gives_the_same_run(tiny_config, tmp_path):
    for workers in (0, 3):
        more = (f"dataloader.train.loader={{num_workers: {workers}}}", "epochs=1", *RECIPE)
        run(tiny_config(), tmp_path / str(workers), *more)
    same_run(tmp_path / "0", tmp_path / "3")


def test_averaged_weights_are_evaluated_and_saved_as_best(tiny_config, tmp_path):
    more = ("epochs=2", "ema={decay: 0.95}")
    progress = run(tiny_config(), tmp_path / "run", *more)
    config = get_config(tiny_config(), SMALL)
    loader = build_loader(config.dataloader.val, 0)
    scores = evaluate(Model(config, tmp_path / "run" / "best.safetensors"), loader)
    assert scores.top1 == progress.best_score
    arrays = content(tmp_path / "run")[0]
    key = "head.fc_cls.weight"
    assert not np.array_equal(arrays[key], arrays[f"trained/{key}"])


def test_evaluation_every_few_epochs_and_at_the_end(tiny_config, tmp_path):
    run(tiny_config(), tmp_path / "run", "epochs=5", "eval_interval=2")
    rows = [row["epoch"] for row in read_metrics(tmp_path / "run") if row["phase"] == "val"]
    assert rows == [2, 4, 5]
    assert content(tmp_path / "run")[1]["epoch"] == 5


def test_a_seed_repeats_and_seeds_differ(tiny_config, tmp_path):
    path = tiny_config()
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(path, tmp_path / folder, f"seed={seed}", "epochs=1")
    same_run(tmp_path / "a", tmp_path / "b")
    ours, other = content(tmp_path / "a")[0], content(tmp_path / "c")[0]
    assert not np.array_equal(ours["head.fc_cls.weight"], other["head.fc_cls.weight"])


def test_best_checkpoint_is_of_the_best_epoch(tiny_config, tmp_path):
    progress = run(tiny_config(), tmp_path / "run", "epochs=4")
    scores = {
        row["epoch"]: row["top1"] for row in read_metrics(tmp_path / "run") if row["phase"] == "val"
    }
    assert len(scores) == 4
    assert progress.best_score == pytest.approx(max(scores.values()))
    assert scores[progress.best_epoch] == max(scores.values())
    assert content(tmp_path / "run", "best.safetensors")[1]["epoch"] == progress.best_epoch


def test_resume_with_more_epochs_and_by_path(tiny_config, tmp_path):
    path = tiny_config()
    run(path, tmp_path / "one", "epochs=1")
    with pytest.raises(ConfigError, match="holds a run already"):
        run(path, tmp_path / "one")
    with pytest.raises(ConfigError, match="--resume nope: there is no such checkpoint"):
        run(path, tmp_path / "one", resume="nope")
    assert run(path, tmp_path / "one", "epochs=2", resume="auto").epoch == 2
    assert (tmp_path / "one" / "config.from_epoch_2.yaml").is_file()
    last = tmp_path / "one" / "last.safetensors"
    progress = run(path, tmp_path / "two", "epochs=3", resume=str(last))
    assert progress.epoch == progress.best_epoch == 3  # there, no other epoch has a checkpoint
    assert content(tmp_path / "two", "best.safetensors")[1]["epoch"] == 3
    run(path, tmp_path / "three", "epochs=3", resume=str(tmp_path / "two" / "last.safetensors"))
    assert "no score yet" in (tmp_path / "three" / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("interval", ["null", 4])
def test_schedule_continues_at_its_place_with_another_batch(tiny_config, tmp_path, interval):
    """Epochs of 5 steps become epochs of 11; between them, or within the first after 4 of 5."""
    path, large = tiny_config(), "dataloader.train.sampler.batch_size=64"
    run(path, tmp_path / "small", "epochs=3")
    run(path, tmp_path / "run", large, "epochs=1", f"checkpoint={{interval: {interval}}}")
    within = interval != "null"
    if within:
        folder = tmp_path / "run"
        (folder / "previous.safetensors").replace(folder / "last.safetensors")
    progress = run(path, tmp_path / "run", "epochs=3", resume="auto")
    steps = 4 + 3 + 22 if within else 5 + 22
    assert (progress.step, progress.global_batch, progress.world_size) == (steps, 32, 1)
    rates, expected = (
        [row["lr"] for row in read_metrics(tmp_path / name) if row["phase"] == "train"]
        for name in ("run", "small")
    )
    assert rates[-12:] == expected[-12:]  # of the last two epochs
    log = (tmp_path / "run" / "train.log").read_text()
    assert "a global batch of 32, it was 1 and 64" in log
    assert f"continues at epoch {8 / 11 if within else 1:.2f}" in log


def test_checkpoints_on_the_way_are_kept_and_can_be_resumed(tiny_config, tmp_path):
    """Epochs of 11 steps. What a resumed run saves again is the same."""
    path, folder = tiny_config(), tmp_path / "run"
    run(path, folder, "checkpoint.keep_interval=4", "epochs=2")
    kept = {file.name: content(folder, file.name)[1]["step"] for file in folder.glob("step_*")}
    assert kept == {f"step_{step}.safetensors": step for step in (4, 8, 12, 16, 20)}
    before = read_checkpoint(folder / "step_20.safetensors").sha256
    run(
        path,
        folder,
        "checkpoint.keep_interval=4",
        "epochs=2",
        resume=str(folder / "step_8.safetensors"),
    )
    assert read_checkpoint(folder / "step_20.safetensors").sha256 == before


def test_kept_checkpoints_are_not_overwritten_by_another_run(tiny_config, tmp_path):
    path, folder = tiny_config(), tmp_path / "run"
    folder.mkdir()
    (folder / "step_4.safetensors").write_text("of an earlier run")
    with pytest.raises(ConfigError, match=r"step_4\.safetensors.*choose another"):
        run(path, folder, "epochs=1")
    run(path, folder, "checkpoint.keep_interval=4", "epochs=1", resume="auto")
    assert (folder / "unsaved_1" / "step_4.safetensors").read_text() == "of an earlier run"


def test_batch_that_does_not_divide_the_samples_seen_is_refused(tiny_config, tmp_path):
    path = tiny_config()
    run(path, tmp_path / "run", "checkpoint={interval: 4}", "epochs=1")
    (tmp_path / "run" / "previous.safetensors").replace(tmp_path / "run" / "last.safetensors")
    size = "dataloader.train.sampler.batch_size=25"
    with pytest.raises(ConfigError, match="after sample 256.*keep the global batch"):
        run(path, tmp_path / "run", size, "epochs=2", resume="auto")


def test_finished_epoch_with_a_small_last_batch_resumes_with_any_batch(tiny_config, tmp_path):
    """Saved between its last step and its end, it has more samples than there are."""
    path, keep = tiny_config(), ("dataloader.train.sampler.drop_last=false",)
    run(path, tmp_path / "run", *keep, "checkpoint={interval: 12}", "epochs=1")
    (tmp_path / "run" / "previous.safetensors").replace(tmp_path / "run" / "last.safetensors")
    size = "dataloader.train.sampler.batch_size=25"
    last = read_metrics(tmp_path / "run")[5]
    assert last["step"] == 12
    samples = len(build_loader(get_config(path, [*SMALL, *keep]).dataloader.train, 0).dataset)
    # The last two steps have a full batch and the rest.
    assert last["ips"] * 2 * last["batch_cost"] == pytest.approx(32 + samples % 32, rel=1e-5)
    progress = run(path, tmp_path / "run", *keep, size, "epochs=2", resume="auto")
    assert (progress.epoch, progress.step) == (2, 12 + 15)


def test_resume_auto_without_a_checkpoint_starts_a_run(tiny_config, tmp_path):
    assert run(tiny_config(), tmp_path / "run", "epochs=1", resume="auto").step == 11


def test_second_run_in_a_folder_is_refused(tiny_config, tmp_path, monkeypatch):
    """Whether it is a new one or would go on; the first is not disturbed."""
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.05)
    path, step, refusals = tiny_config(), train_module.train_step, []

    def stepping(*args):
        if args[3] in (2, 13):  # before the first checkpoint and behind it
            for resume in (None, "auto"):
                with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on ") as e:
                    run(path, tmp_path / "run", resume=resume)
                refusals.append(str(e.value))
        return step(*args)

    run(path, tmp_path / "straight")
    monkeypatch.setattr(train_module, "train_step", stepping)
    run(path, tmp_path / "run")
    assert len(refusals) == 4
    same_run(tmp_path / "run", tmp_path / "straight")
    assert not (tmp_path / "run" / "run.lock.json").exists()


def test_warnings_of_a_resume_are_logged_to_the_file(tiny_config, tmp_path):
    path, last = tiny_config(), tmp_path / "run" / "last.safetensors"
    run(path, tmp_path / "run", "epochs=1", "checkpoint.interval=6")
    last.write_bytes(b"damaged")
    run(path, tmp_path / "run", "epochs=2", resume="auto")
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"{last}: not a readable" in log
    assert "resuming with another epochs: 2 was 1" in log


def test_run_that_failed_before_its_first_checkpoint_can_be_started_again(tiny_config, tmp_path):
    """Nothing that it has written is lost."""
    path, folder = tiny_config(drop=0.0), tmp_path / "run"
    with pytest.raises(RunError, match="the loss is"):
        run(path, folder, "optimizer.lr=1e30", "lr_scheduler.warmup_epochs=0")
    config, rows = (folder / "config.yaml").read_text(), (folder / "metrics.jsonl").read_text()
    (listed,) = folder.glob("nonfinite_step_*.txt")
    for resume in (None, "auto"):
        with pytest.raises(RunError, match="the loss is"):
            run(path, folder, "optimizer.lr=1e29", "lr_scheduler.warmup_epochs=0", resume=resume)
    run(path, folder, "epochs=1")
    kept = folder / "unsaved_1"
    assert (kept / "config.yaml").read_text() == config
    assert (kept / "metrics.jsonl").read_text() == rows
    assert (kept / listed.name).is_file()
    assert "lr: 1e+29" in (folder / "unsaved_3" / "config.yaml").read_text().replace("1.0e", "1e")
    assert "epochs: 1\n" in (folder / "config.yaml").read_text()
    assert [row["step"] for row in read_metrics(folder)][0] == 2
    assert (folder / "train.log").read_text().count("training and") == 4  # the log is continued
    starts = (folder / "starts.jsonl").read_text().splitlines()  # and so do the starts
    assert [json.loads(start)["resumed_from"] for start in starts] == [None] * 4


def test_another_network_cannot_resume(tiny_config, tmp_path):
    run(tiny_config("ConViT"), tmp_path / "run", "epochs=1")
    with pytest.raises(CheckpointError, match="weights of another network"):
        run(tiny_config("CvT"), tmp_path / "run", resume="auto")


def test_start_that_fails_before_training_is_recorded(tiny_config, tmp_path):
    """Where it is one of the folder's run, and there is a folder."""
    path, folder = tiny_config(), tmp_path / "run"
    run(path, folder, "epochs=1")
    with pytest.raises(RunError):
        run(path, folder, "model.architecture.depth=3", resume="auto")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match="holds a run already"):
        run(path, folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    run(path, folder, "epochs=2", resume="auto")
    first, failed, second = map(json.loads, starts_of(folder))
    assert failed.keys() == first.keys()
    assert "CheckpointError: " in failed["error"]
    assert "weights of another network" in failed["error"]
    assert (failed["resumed_from"], failed["epoch"], failed["step"]) == (None, None, None)
    assert (first["error"], second["error"], second["epoch"]) == (None, None, 1)

    (tmp_path / "old").mkdir()
    for name in ("old", "new"):
        with pytest.raises(RunError):
            run(path, tmp_path / name, "model.pretrained=nowhere.pth")
    assert len(starts_of(tmp_path / "old")) == 1
    assert not (tmp_path / "new").exists()


def starts_of(folder: Path) -> list[str]:
    return (folder / "starts.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def colours(tiny_config, tmp_path):
    """A config of three classes that a tiny network tells apart, and their images; colours(a, b, c)
    -> the overrides for these names in that order.
    """
    from PIL import Image

    rng, root = np.random.default_rng(0), tmp_path / "data"
    for label, name in enumerate(("ape", "bee", "cow")):
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(60, size=(32, 32, 3), dtype=np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    normalize = [{"name": "Normalize"}]
    path = tiny_config("ConViT", drop=0.0, lr_scheduler={"name": "Constant"})

    def overrides(*names: str) -> list[str]:
        file = tmp_path / f"{'_'.join(names)}.txt"
        file.write_text("".join(f"{name}\n" for name in names))
        node = {"name": "ImageFolder", "dataroot": str(root), "class_file": str(file)}
        data = json.dumps({**node, "transforms": normalize})
        options = [f"dataloader.{part}.dataset={data}" for part in ("train", "val")]
        return [*options, "dataloader.train.sampler.batch_size=8", "model.head.num_classes=3"]

    return path, overrides, root


def test_classes_are_compared_by_name(colours, tmp_path):
    """Evaluation and fine-tuning put the classifier into the order of the data; a resume, whose
    optimizer knows the order before, is refused; other names are refused.
    """
    path, overrides, root = colours
    straight, turned = overrides("ape", "bee", "cow"), overrides("cow", "ape", "bee")
    progress = run(path, tmp_path / "run", "epochs=12", *straight)
    best, last = (tmp_path / "run" / f"{name}.safetensors" for name in ("best", "last"))
    assert progress.best_score == 100

    def top1(options: list[str]) -> float:
        return evaluate_weights(get_config(path, options), best, Options(), Ranks())["top1"]

    assert top1(straight) == top1(turned) == 100
    some = [f"dataloader.val.dataset.labels={labels}" for labels in ("[cow, bee]", "[0, 1]")]
    assert top1([*turned, some[0]]) == top1([*turned, some[1]]) == 100
    with pytest.raises(ConfigError, match="label 0 is cow, and was ape.*model.pretrained"):
        run(path, tmp_path / "run", "epochs=13", *turned, resume="auto")
    tuned = run(
        path,
        tmp_path / "tuned",
        *("epochs=1", "optimizer.lr=1e-9", f"model.pretrained={last}", *turned),
    )
    assert tuned.best_score == 100

    (root / "bee").rename(root / "wasp")
    renamed = overrides("ape", "cow", "wasp")
    with pytest.raises(ConfigError, match="only the weights know bee; only the data has wasp"):
        top1(renamed)
    with pytest.raises(ConfigError, match=r"only the data has wasp.*fit: \[classes\]"):
        run(path, tmp_path / "run", "epochs=13", *renamed, resume="auto")
    options = ("epochs=1", f"model.pretrained={last}", *renamed)
    with pytest.raises(ConfigError, match=r"only the data has wasp.*fit: \[classes\]"):
        run(path, tmp_path / "other", *options)
    assert run(path, tmp_path / "other", *options, "model.fit=[classes]").epoch == 1


def test_changed_data_is_a_warning_or_refused(colours, tmp_path):
    """Within an epoch, what is left of it must be what was left."""
    path, overrides, root = colours
    options = [*overrides("ape", "bee", "cow"), "checkpoint.interval=2"]
    run(path, tmp_path / "run", "epochs=1", *options)
    within = tmp_path / "within"
    within.mkdir()
    (tmp_path / "run" / "previous.safetensors").rename(within / "last.safetensors")
    assert content(within)[1]["samples"] == 16
    (root / "ape" / "8.png").write_bytes((root / "ape" / "7.png").read_bytes())
    with pytest.raises(ConfigError, match="25 samples, it was 24.*restore the data"):
        run(path, within, "epochs=1", *options, resume="auto")
    run(path, tmp_path / "run", "epochs=2", *options, resume="auto")
    log = (tmp_path / "run" / "train.log").read_text()
    for part in ("train", "val"):
        warning = f"the {part} data has other samples, sample names, labels (25 samples, it was 24)"
        assert warning in log


def test_a_resume_reads_the_checkpoint_and_builds_the_network_once(
    tiny_config, tmp_path, monkeypatch
):
    path = tiny_config()
    run(path, tmp_path / "run", "epochs=1")
    calls = []

    def counted(place: str):
        module, name = place.rsplit(".", 1)
        original = getattr(sys.modules[module], name)
        monkeypatch.setattr(place, lambda *a, **k: (calls.append(name), original(*a, **k))[1])

    counted("passl.engine.checkpoint.open_safetensors")
    counted("passl.porting.weight_file.open_safetensors")
    counted("passl.modeling.classifier.build_backbone")
    run(path, tmp_path / "run", "epochs=1", resume="auto")
    assert sorted(calls) == ["build_backbone", "open_safetensors"]


def test_training_learns(tiny_config, tmp_path):
    """A real, if small, ConViT is far above chance, 10 %, after a few epochs of all digits."""
    progress = run(
        tiny_config(drop=0.0),
        tmp_path / "run",
        "epochs=4",
        "model.architecture.embed_dim=48",
        "model.head.in_channels=48",
        *(f"dataloader.{part}.dataset.fraction=1.0" for part in ("train", "val")),
        "dataloader.train.sampler.batch_size=32",
        "dataloader.train.dataset.transforms=[{name: Normalize}]",
    )
    assert progress.best_score > 40


def test_unreadable_image_stops_the_run(tiny_config, tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "b" / "3.png").write_bytes(b"no image")
    data = (
        f"{{name: ImageFolder, dataroot: '{tmp_path / 'data'}', transforms: [{{name: Normalize}}]}}"
    )
    overrides = [f"dataloader.{part}.dataset={data}" for part in ("train", "val")]
    overrides += ["model.head.num_classes=2", "dataloader.train.sampler.batch_size=4"]
    for workers in (0, 2):
        with pytest.raises(RunError) as caught:
            run(
                tiny_config(),
                tmp_path / f"run{workers}",
                *overrides,
                f"dataloader.train.loader={{num_workers: {workers}}}",
            )
        assert str(caught.value).startswith(
            f"{tmp_path / 'data' / 'b' / '3.png'}: cannot be read as an image"
        )
        assert len(str(caught.value).splitlines()) == 1


def test_nonfinite_loss_stops_the_run(tiny_config, tmp_path):
    with pytest.raises(RunError, match="the loss is nan|the loss is inf|not finite"):
        run(
            tiny_config(drop=0.0),
            tmp_path / "run",
            "optimizer.lr=1e30",
            "lr_scheduler.warmup_epochs=0",
        )
