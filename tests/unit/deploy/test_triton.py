"""Models for Triton, by Triton's own schema. ONNX Runtime is our own: nothing is computed."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
from google.protobuf import text_format

from passl.deploy.exported import Description, write_description
from passl.deploy.triton import write_model
from passl.errors import ConfigError

CLASSES = ["left\nright", "n01440764", "boot"]


def schema():
    """Triton's ModelConfig, from its client's wheel, without the packages that the client needs."""
    (folder,) = importlib.util.find_spec("tritonclient").submodule_search_locations
    path = Path(folder) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Write an exported folder: exported(task, shape of the output)."""

    def write(task: str = "classification", shape: tuple[int, ...] = (3,)) -> Path:
        def tensor(name: str, shape: list) -> types.SimpleNamespace:
            return types.SimpleNamespace(name=name, shape=shape)

        session = types.SimpleNamespace(
            get_inputs=lambda: [tensor("images", ["B", 3, 16, 12])],
            get_outputs=lambda: [tensor("fetch_name_0", ["B", *shape])],
        )
        runtime = types.SimpleNamespace(InferenceSession=lambda *_, **__: session)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        folder = tmp_path / "net"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"a graph")
        transforms = [{"name": "Resize", "size": [16, 12]}, {"name": "Normalize"}]
        write_description(
            folder,
            Description(
                {}, transforms, [3, 16, 12], CLASSES, {}, 1, "", exif_turn=False, task=task
            ),
        )
        return folder

    return write


def test_a_model_for_triton(exported, tmp_path):
    out = write_model(exported(), tmp_path / "models")
    assert out == tmp_path / "models" / "net"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {"config.pbtxt", "classes.txt", "1/model.onnx"}
    assert (out / "1" / "model.onnx").read_bytes() == b"a graph"
    # A line for each class, whatever its name is.
    assert (out / "classes.txt").read_text().splitlines() == [
        "left right",
        "tench, Tinca tinca",
        "boot",
    ]
    types_ = schema()
    config = text_format.Parse((out / "config.pbtxt").read_text(), types_.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", 16)
    (images,), (logits,) = config.input, config.output
    assert (images.name, list(images.dims)) == ("images", [3, 16, 12])
    assert images.data_type == logits.data_type == types_.TYPE_FP32
    assert (logits.name, list(logits.dims)) == ("fetch_name_0", [3])
    assert logits.label_filename == "classes.txt"
    assert config.HasField("dynamic_batching")
    assert [each.batch_size for each in config.model_warmup] == [1, 16]
    assert all(list(each.inputs["images"].dims) == [3, 16, 12] for each in config.model_warmup)


def test_masks_have_no_list_of_labels(exported, tmp_path):
    """Triton's classification takes vectors."""
    out = write_model(exported("segmentation", (3, 4, 3)), tmp_path / "models")
    config = text_format.Parse((out / "config.pbtxt").read_text(), schema().ModelConfig())
    assert list(config.output[0].dims) == [3, 4, 3]
    assert config.output[0].label_filename == ""


def test_nothing_is_overwritten(exported, tmp_path):
    folder, models = exported(), tmp_path / "models"
    (models / "net").mkdir(parents=True)
    with pytest.raises(ConfigError, match="net: is there already"):
        write_model(folder, models)
    write_model(folder.rename(tmp_path / "other"), models)  # beside the first
    assert sorted(path.name for path in models.iterdir()) == ["net", "other"]
    with pytest.raises(ConfigError, match="does not exist; make it first"):
        write_model(tmp_path / "other", tmp_path / "absent" / "models")
    with pytest.raises(ConfigError, match="'a b'.*choose another name"):
        write_model((tmp_path / "other").rename(tmp_path / "a b"), models)
