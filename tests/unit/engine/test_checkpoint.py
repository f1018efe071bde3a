"""A checkpoint holds the whole state, under names that another process understands."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from passl.accelerate import accelerate
from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import _checksum as checksum
from passl.engine.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from passl.engine.learner import Learner, build_learner
from passl.engine.progress import Progress
from passl.engine.step import train_step
from passl.errors import CheckpointError
from passl.modeling import Model
from passl.porting import load_weights, read_file
from passl.utils.config import get_config
from tests.stress.fuzzing import read_safetensors


def fresh(cfg) -> Learner:
    learner = build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)
    learner.begin_epoch(0)
    return learner


def step(learner: Learner, number: int) -> float:
    rng = np.random.default_rng(number)
    images = rng.standard_normal((4, 3, 32, 32)).astype("float32")
    labels = paddle.to_tensor(rng.integers(10, size=4))
    return train_step(learner, paddle.to_tensor(images), labels, number).loss


def content_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of a checkpoint, and its metadata without the checksum."""
    arrays, metadata = read_safetensors(path)
    del metadata["sha256"]
    return arrays, metadata


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
@pytest.mark.parametrize("ema", [{}, {"decay": 0.9}])
@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_another_learner_continues_exactly(tiny_config, tmp_path, name, ema, level):
    """The second one is built after others, so that Paddle's generated names differ."""
    cfg = get_config(tiny_config(name, ema=ema, amp={"level": level, "dtype": "bfloat16"}))
    learner = fresh(cfg)
    for number in range(2):
        step(learner, number)
    path = tmp_path / "c.safetensors"
    progress = Progress(epoch=1, step=2, best_score=12.5, best_epoch=1)
    save_checkpoint(path, learner, progress, cfg.to_dict(), ["a", "b"])
    straight = [step(learner, number) for number in (2, 3)]

    fresh(cfg)  # a decoy takes the next names
    other = fresh(cfg)
    found, config = load_checkpoint(read_checkpoint(path), other)
    assert (found, config) == (progress, cfg.to_dict())
    assert [step(other, number) for number in (2, 3)] == straight
    for key, tensor in learner.model.state_dict().items():
        np.testing.assert_array_equal(other.model.state_dict()[key].numpy(), tensor.numpy(), key)
    assert learner.average.averages.keys() == (learner.model.state_dict().keys() if ema else set())
    for key, tensor in learner.average.averages.items():
        np.testing.assert_array_equal(other.average.averages[key].numpy(), tensor.numpy(), key)


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_checkpoint_is_a_weight_file(tiny_config, tmp_path, level):
    """With O2 too it has the float32 weights that training goes on from."""
    cfg = get_config(tiny_config(amp={"level": level, "dtype": "bfloat16"}))
    learner = fresh(cfg)
    step(learner, 0)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(), cfg.to_dict(), [])
    other = Model(cfg)
    load_weights(other, path)
    for key, tensor in learner.model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key].numpy(), tensor.numpy(), key)
    stored = load_file(path)
    assert "optimizer/head.fc_cls.weight/moment1_0" in stored
    assert not [key for key in stored if "linear_" in key]  # no generated name
    weights = stored["backbone.blocks.0.mlp.fc1.weight"]
    assert weights.dtype == np.float32
    assert (weights.view(np.uint32) & 0xFFFF).any()  # more than bfloat16's bits


@pytest.mark.parametrize("ema", [{}, {"decay": 0.9}])
def test_half_precision_checkpoint_of_version_0_1(tiny_config, tmp_path, ema):
    """There the float32 copies, and a state of their own, belonged to the optimizer."""
    cfg = get_config(tiny_config(ema=ema))
    learner = fresh(cfg)
    step(learner, 0)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(), cfg.to_dict(), [])
    straight = [step(learner, number) for number in (1, 2)]
    arrays, metadata = content_of(path)
    name = "backbone.blocks.0.mlp.fc1.weight"
    for accumulator in ("moment1_0", "moment2_0"):
        key = f"optimizer/{name}/{accumulator}"
        arrays[f"optimizer/{name}/fp32_master_0_{accumulator}"] = arrays.pop(key)
    trained = f"trained/{name}" if ema else name
    arrays[f"optimizer/{name}/master_weight"] = arrays[trained]
    arrays[trained] = arrays[trained].astype(np.float16).astype(np.float32)
    save_file(arrays, path, metadata | {"sha256": checksum(sorted(arrays.items()), metadata)})
    other = fresh(cfg)
    load_checkpoint(read_checkpoint(path), other)
    assert [step(other, number) for number in (1, 2)] == straight


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("moment1_0", "mean_0"), ("", "mean_0"), ("moment1_0", "")],
    ids=["other", "more", "less"],
)
def test_state_of_another_optimizer_is_refused(tiny_config, tmp_path, theirs, ours):
    """As another version of Paddle may have left: fresh moments would be another run."""
    cfg = get_config(tiny_config())
    learner = fresh(cfg)
    step(learner, 0)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(), cfg.to_dict(), [])
    arrays, metadata = content_of(path)
    prefix = "optimizer/head.fc_cls.weight/"
    moment = arrays.pop(prefix + theirs) if theirs else arrays[prefix + "moment1_0"]
    if ours:
        arrays[prefix + ours] = moment
    save_file(arrays, path, metadata | {"sha256": checksum(sorted(arrays.items()), metadata)})
    told = rf"the state of another optimizer.*model.pretrained: {path}; .*{ours or theirs}"
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(read_checkpoint(path), fresh(cfg))


def test_weight_file_has_the_averages(tiny_config, tmp_path):
    cfg = get_config(tiny_config(ema={"decay": 0.5, "warmup": False}))
    learner = fresh(cfg)
    step(learner, 0)
    path = tmp_path / "c.safetensors"
    before = {key: tensor.numpy() for key, tensor in learner.model.state_dict().items()}
    save_checkpoint(path, learner, Progress(), cfg.to_dict(), [])
    other = Model(cfg)
    load_weights(other, path)
    key = "head.fc_cls.weight"
    averages = learner.average.averages[key].numpy()
    np.testing.assert_array_equal(other.state_dict()[key].numpy(), averages)
    np.testing.assert_array_equal(learner.model.state_dict()[key].numpy(), before[key])
    assert not np.array_equal(averages, before[key])
    # Going on without averages, or beginning them late, is possible too.
    plain = fresh(get_config(tiny_config()))
    load_checkpoint(read_checkpoint(path), plain)
    np.testing.assert_array_equal(plain.model.state_dict()[key].numpy(), before[key])
    save_checkpoint(path, plain, Progress(), cfg.to_dict(), [])
    late = fresh(cfg)
    load_checkpoint(read_checkpoint(path), late)
    np.testing.assert_array_equal(late.average.averages[key].numpy(), before[key])


def test_checkpoint_of_another_network_is_refused(tiny_config, tmp_path):
    cfg = get_config(tiny_config("ConViT"))
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, fresh(cfg), Progress(), cfg.to_dict(), [])
    with pytest.raises(
        CheckpointError, match="c.safetensors: weights of another network: missing in the file"
    ):
        load_checkpoint(read_checkpoint(path), fresh(get_config(tiny_config("CvT"))))


def test_damaged_missing_and_foreign_files_are_refused(tiny_config, tmp_path):
    cfg = get_config(tiny_config())
    learner = fresh(cfg)
    path = tmp_path / "c.safetensors"
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_checkpoint(read_checkpoint(path), learner)
    save_checkpoint(path, learner, Progress(), cfg.to_dict(), [])
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="not a readable"):
        load_checkpoint(read_checkpoint(path), learner)
    save_file({name: tensor.numpy() for name, tensor in learner.model.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="weights without the state of a run"):
        load_checkpoint(read_checkpoint(path), learner)


def test_checkpoint_with_very_many_classes(tiny_config, tmp_path):
    """250,000 names are more than the header may hold that `read_file` takes."""
    cfg = get_config(tiny_config())
    learner = fresh(cfg)
    names = [f"n{number:08} some words of its name" for number in range(250_000)]
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(step=3, skipped=3), cfg.to_dict(), names)
    assert load_checkpoint(read_checkpoint(path), learner)[0].step == 3
    file = read_file(path)
    assert file.classes == names
    load_weights(Model(cfg), file)


@pytest.mark.parametrize("ema", [{}, {"decay": 0.9}])
def test_resume_reads_one_array_at_a_time(tiny_config, tmp_path, ema):
    """Beside the network, which has its own, and the metadata."""
    width = ["model.architecture.embed_dim=192", "model.head.in_channels=192"]
    cfg = get_config(tiny_config(ema=ema), width)
    learner = fresh(cfg)
    step(learner, 0)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(), cfg.to_dict(), [])
    other = fresh(cfg)
    largest = max(array.nbytes for array in content_of(path)[0].values())
    assert path.stat().st_size > 10 * largest
    tracemalloc.start()  # NumPy's arrays are in it, Paddle's tensors are not
    try:
        load_checkpoint(read_checkpoint(path), other)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * largest


def test_replaced_checkpoint_is_read_to_its_end(tiny_config, tmp_path):
    """As that of a run that goes on while another one begins with it."""
    cfg = get_config(tiny_config())
    learner, path = fresh(cfg), tmp_path / "c.safetensors"
    step(learner, 0)
    save_checkpoint(path, learner, Progress(step=1), cfg.to_dict(), [])
    stored = read_checkpoint(path)
    before = {name: tensor.numpy() for name, tensor in learner.model.state_dict().items()}
    step(learner, 1)
    save_checkpoint(path, learner, Progress(step=2), cfg.to_dict(), [])
    other = fresh(cfg)
    assert load_checkpoint(stored, other)[0].step == 1
    for name, tensor in other.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], name)


def test_checkpoint_truncated_while_it_is_read(tiny_config, tmp_path):
    cfg = get_config(tiny_config())
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, fresh(cfg), Progress(), cfg.to_dict(), [])
    stored = read_checkpoint(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=f"{path}.*shorter"):
        load_checkpoint(stored, fresh(cfg))


def test_failed_save_keeps_the_old_checkpoint(tiny_config, tmp_path, monkeypatch):
    cfg = get_config(tiny_config())
    learner = fresh(cfg)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(epoch=1), cfg.to_dict(), [])
    before = path.read_bytes()

    def full_disk(arrays, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("passl.engine.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, learner, Progress(epoch=2), cfg.to_dict(), [])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".yaml"] == ["c.safetensors"]


def test_checkpoint_keeps_the_numerics_of_its_pretrained_weights(tiny_config, tmp_path):
    """MindCV's weights want a tanh GELU; who evaluates the fine-tuned network must get it too."""
    golden = Path(__file__).parents[2] / "golden" / "convit_mindcv"
    cfg = get_config(tiny_config("ConViT", drop=0.0)).to_dict()
    cfg["model"]["architecture"] |= {"img_size": 112, "embed_dim": 48, "depth": 3}
    cfg["model"]["architecture"]["local_up_to_layer"] = 2
    cfg["model"]["head"] |= {"in_channels": 48, "num_classes": 6}
    model = Model(cfg, pretrained=golden / "weights.ckpt")
    learner = build_learner(cfg, model, Ranks(), 4, 5)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, learner, Progress(), cfg, [])
    again = accelerate(Model(cfg, pretrained=path))  # as the learner does
    assert again.backbone.norm._epsilon == 1e-7
    images = paddle.ones([1, 3, 112, 112])
    again.eval()
    model.eval()
    np.testing.assert_array_equal(again(images).numpy(), model(images).numpy())
