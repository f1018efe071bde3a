"""One measurement of another project, by its environment's Python: python benchmarks/theirs.py TASK

timm's ConViT and transformers' CvT under PyTorch, timm's graph under OpenVINO, timm's transforms.
TASK is JSON: `task`, one of TASKS below, and what it needs. The last line on stdout is the result.
`benchmarks/peers.py` calls this. It uses nothing of passl but the standard library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import measure  # noqa: E402
from passl.machine import versions  # noqa: E402

Task = dict[str, Any]
DROP_PATH, SMOOTHING, DECAY = 0.1, 0.1, 0.05  # of the recipes, as ours have them
PACKAGES = ("torch", "timm", "transformers", "openvino", "onnx", "pillow", "numpy")
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # what OpenVINO calls them


def torch_of(task: Task):
    """torch, on the task's threads, with what timm and transformers ask of torchvision at import:
    its compiled half is not installed.
    """
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.torchvision_operators = operators  # they are gone when nobody holds them
    return torch


def network(task: Task) -> tuple[Any, Callable]:
    """The network, compiled if the task says so, and how it is called for logits in the task's
    precision.
    """
    import torch

    size = task["size"][0]
    if task["model"].startswith("convit"):
        import timm

        net = timm.create_model(task["model"], img_size=size, drop_path_rate=DROP_PATH)
    else:
        from transformers import CvtConfig, CvtForImageClassification

        assert task["model"] == "cvt_13"  # transformers' defaults
        net = CvtForImageClassification(CvtConfig(num_labels=1000))
    if task.get("compiled"):
        net.compile()

    def run(images):
        with torch.autocast("cpu", torch.bfloat16, enabled=task.get("precision") == "bf16"):
            found = net(images)
        return (found if torch.is_tensor(found) else found.logits).float()

    return net, run


def training(task: Task) -> Task:
    torch = torch_of(task)
    net, run = network(task)
    net.train()
    images = torch.randn(task["batch"], 3, *task["size"])
    labels = torch.randint(1000, (task["batch"],))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=DECAY)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def step():
        optimizer.zero_grad()
        loss = loss_of(run(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return measure(step, task)


def inference(task: Task) -> Task:
    torch = torch_of(task)
    net, run = network(task)
    net.eval()
    images = torch.randn(task["batch"], 3, *task["size"])

    @torch.inference_mode()
    def step():
        return run(images)

    return measure(step, task)


def openvino(task: Task) -> Task:
    """The graph in `file`, by OpenVINO."""
    import numpy as np
    from openvino import Core

    core = Core()
    graph = core.read_model(task["file"])
    options = {
        "INFERENCE_NUM_THREADS": task["threads"],
        "INFERENCE_PRECISION_HINT": PRECISIONS[task["precision"]],
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(graph, "CPU", options).create_infer_request()
    shape = [int(side) for side in graph.inputs[0].shape]
    assert shape[0] == task["batch"], shape
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return measure(lambda: request.infer({0: images}), task)


def graph(task: Task) -> Task:
    """Write the network's graph for one batch size to `file`, as ONNX."""
    torch = torch_of(task)
    net, _ = network(task)
    net.eval()
    images = torch.randn(task["batch"], 3, *task["size"])
    with torch.no_grad():
        net(images)  # ConViT makes its offsets at the first call
    torch.onnx.export(net, (images,), task["file"], dynamo=False)
    return {"file": task["file"]}


def transform_of(part: str) -> Callable:
    """timm's transforms of the recipe's `train` or `val`."""
    from timm.data import create_transform

    if part == "train":
        return create_transform(
            224,
            is_training=True,
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
        )
    return create_transform(224, interpolation="bicubic", crop_pct=0.875)


def images(task: Task) -> Task:
    """Read and transform images of `folder` by timm, `batch` of them in a step."""
    torch_of(task)
    from timm.data import ImageDataset

    dataset = ImageDataset(task["folder"], transform=transform_of(task["part"]))
    place = 0

    def step():
        nonlocal place
        for _ in range(task["batch"]):
            dataset[place % len(dataset)]
            place += 1

    return measure(step, task)


def packages(task: Task) -> Task:
    """Which versions these are."""
    return versions(PACKAGES)


TASKS = {
    function.__name__: function
    for function in (training, inference, openvino, graph, images, packages)
}


def main() -> None:
    task = json.loads(sys.argv[1])
    print(json.dumps(TASKS[task["task"]](task)))


if __name__ == "__main__":
    main()
