"""What a recipe's file says is what runs: the objects that it builds, against tables and formulas
typed from the papers and from the code that trained the published weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.data.build import build_transforms
from passl.data.samplers import BatchSampler
from passl.data.transforms.mixup import Mixup, build_mixup
from passl.engine.precision import Precision
from passl.modeling import Model
from passl.modeling.layers import DropPath
from passl.modeling.losses import build_loss
from passl.optim.optimizers import build_optimizer, scaled_lr
from passl.optim.schedules import build_schedule
from passl.porting.zoo import find
from passl.utils.config import get_config, shipped_configs
from passl.utils.schema import options_of
from tests.numerics import Rounded

RECIPES = {
    path.stem: path
    for path in shipped_configs()
    if path.parent.name not in ("digits", "fashion", "segmentation")
}
IMAGENET = 1_281_167  # training images


# --------------------------------------------------------------------------------------------------
# The table: facebookresearch/convit's main.py, microsoft/CvT's yamls and MindCV's
# --------------------------------------------------------------------------------------------------
NORMALIZE = ("Normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
FLIP = ("RandomHorizontalFlip", {"p": 0.5})
FILL = [124, 116, 104]  # ImageNet's mean, 0.485 * 255 and so on


def crop(size: int, interpolation: str = "bicubic", widest: float = 4 / 3):
    options = {"size": size, "scale": [0.08, 1.0], "ratio": [0.75, widest]}
    return ("RandomResizedCrop", {**options, "interpolation": interpolation})


def policy(name: str, policy: str):
    options = {"policy": policy, "fill": FILL, "interpolation": "bicubic"}
    return (name, {**options, "translate_const": None})


def erasing(p: float, mode: str, max_area: float, max_aspect: float | None):
    return (
        "RandomErasing",
        {
            "p": p,
            "mode": mode,
            "min_area": 0.02,
            "max_area": max_area,
            "min_aspect": 0.3,
            "max_aspect": max_aspect,
            "min_count": 1,
            "max_count": None,
        },
    )


def deit(size: int) -> list:
    """timm's create_transform with the arguments of both projects; timm erases up to a third."""
    return [
        crop(size),
        FLIP,
        policy("RandAugment", "rand-m9-mstd0.5-inc1"),
        NORMALIZE,
        erasing(0.25, "pixel", 1 / 3, None),
    ]


def mindcv(p: float, middle: tuple) -> list:
    return [crop(224, widest=1.333), FLIP, middle, NORMALIZE, erasing(p, "const", 0.33, 3.3)]


JITTER = (
    "ColorJitter",
    {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0, "p": 1.0},
)
AUTO = policy("AutoAugment", "autoaug-mstd0.5")


def resize_and_crop(resized: int, size: int = 224) -> list:
    resize = ("Resize", {"size": resized, "interpolation": "bicubic"})
    return [resize, ("CenterCrop", {"size": size}), NORMALIZE]


SQUASHED = [("Resize", {"size": [384, 384], "interpolation": "bicubic"}), NORMALIZE]


def timm_cosine(peak: float, epoch: float) -> float:
    """timm's CosineLRScheduler in epochs: constant within one; the warm-up replaces the start."""
    epoch = math.floor(epoch)
    if epoch < 5:
        return 1e-6 + epoch * (peak - 1e-6) / 5
    return 1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * epoch / 300))


def mindcv_cosine(warmup: int) -> Callable[[float, float], float]:
    """MindCV's: from 0 in each step, and the whole cosine behind the warm-up."""

    def rate(peak: float, epoch: float) -> float:
        if epoch < warmup:
            return peak * epoch / warmup
        progress = (epoch - warmup) / (300 - warmup)
        return 1e-6 + 0.5 * (peak - 1e-6) * (1 + math.cos(math.pi * progress))

    return rate


def decays_by_timm(name: str, parameter: Any, norms: set[int]) -> bool:
    """timm's add_weight_decay with ConViT's no_weight_decay()."""
    spared = name in ("backbone.pos_embed", "backbone.cls_token")
    return not (parameter.ndim == 1 or name.endswith(".bias") or spared)


def decays_by_microsoft(name: str, parameter: Any, norms: set[int]) -> bool:
    """set_wd of lib/optim/build.py with WITHOUT_WD_LIST ['bn', 'bias', 'ln']."""
    token = re.search(r"stage\d\.(pos_embed|cls_token)", name)
    return not (token or id(parameter) in norms or name.endswith(".bias"))


def decays_always(name: str, parameter: Any, norms: set[int]) -> bool:
    """MindCV's weight_decay_filter: disable."""
    return True


O1 = {"level": "O1", "dtype": "float16", "loss_scale": 65536.0, "dynamic_loss_scale": True}
O2 = {"level": "O2", "dtype": "float16", "loss_scale": 1024.0, "dynamic_loss_scale": False}


@dataclass
class Published:
    batch: int
    peak: float
    weight_decay: float
    train: list
    val: list
    repeats: int = 1
    drop_path: float = 0.1
    mixup_alpha: float = 0.8
    rate: Callable[[float, float], float] = timm_cosine
    decays: Callable[[str, Any, set[int]], bool] = decays_by_timm
    amp: dict = field(default_factory=lambda: O1)


def convit(batch: int, peak: float) -> Published:
    return Published(batch, peak, 0.05, deit(224), resize_and_crop(256), repeats=3)


def cvt(weight_decay: float, size: int, **more) -> Published:
    val = resize_and_crop(256) if size == 224 else SQUASHED
    more = {"train": deit(size), "val": val, "decays": decays_by_microsoft, **more}
    return Published(2048, 2e-3, weight_decay, **more)


def ascend(batch: int, peak: float, wd: float, warmup: int, train: list, resized: int) -> Published:
    return Published(
        batch,
        peak,
        wd,
        train,
        resize_and_crop(resized),
        mixup_alpha=0.2,
        rate=mindcv_cosine(warmup),
        decays=decays_always,
        amp=O2,
    )


PUBLISHED = {
    "convit_tiny": convit(1024, 1e-3),
    "convit_tiny_plus": convit(512, 4e-4),
    "convit_small": convit(1024, 1e-3),
    "convit_small_plus": convit(512, 4e-4),
    "convit_base": convit(1024, 1e-3),
    "convit_base_plus": convit(512, 4e-4),
    "cvt_13_224": cvt(0.05, 224),
    "cvt_13_384": cvt(0.05, 384),
    "cvt_21_224": cvt(0.1, 224, train=[crop(224, "bilinear"), FLIP, NORMALIZE], repeats=3),
    "cvt_21_384": cvt(0.1, 384),
    "cvt_w24_384": cvt(0.1, 384, drop_path=0.3),
    # Resized to floor(224 / crop_pct).
    "mindcv_convit_tiny": ascend(2048, 7.2e-4, 1e-4, 5, mindcv(0.25, JITTER), 256),
    "mindcv_convit_tiny_plus": ascend(2048, 7.2e-4, 1e-4, 40, mindcv(0.25, JITTER), 257),
    "mindcv_convit_small": ascend(1536, 7e-4, 0.05, 40, mindcv(0.1, AUTO), 244),
    "mindcv_convit_small_plus": ascend(1536, 7e-4, 0.05, 40, mindcv(0.1, AUTO), 240),
    "mindcv_convit_base": ascend(1024, 7e-4, 0.1, 40, mindcv(0.1, AUTO), 240),
    "mindcv_convit_base_plus": ascend(1024, 7e-4, 0.1, 40, mindcv(0.1, AUTO), 242),
}


# --------------------------------------------------------------------------------------------------
# What the files build
# --------------------------------------------------------------------------------------------------
def header(path: Path) -> str:
    lines = path.read_text().splitlines()
    count = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:count])


def hardware(path: Path) -> tuple[int, int, int]:
    """Processes, images of each, and their product, as the header states them."""
    found = re.search(r"# Command, (\d+) process(?:es)? x (\d+) images = (\d+):", header(path))
    assert found, f"{path}: no command"
    return tuple(int(number) for number in found.groups())


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def built(nodes: Any) -> list:
    """Names and all fields of the transforms, defaults included."""
    return [
        (type(t).__name__, {key: plain(value) for key, value in asdict(t).items()})
        for t in build_transforms(nodes)
    ]


def options(target: Any, section: Any) -> dict[str, Any]:
    """All options of a section, defaults included."""
    return {key: option.default for key, option in options_of(target).items()} | dict(section)


def thin(cfg: Any) -> Model:
    """The recipe's network with all its layers, but narrow."""
    model = cfg.to_dict()["model"]
    architecture, heads = model["architecture"], model["architecture"]["num_heads"]
    if isinstance(heads, int):
        architecture |= {"embed_dim": 2 * heads, "img_size": 32}
        width = 2 * heads
    else:
        architecture["embed_dim"] = [2 * count for count in heads]
        width = 2 * heads[-1]
    head = {**model["head"], "in_channels": width, "num_classes": 3}
    return Model({"model": {"architecture": architecture, "head": head}})


def rates(cfg: Any, global_batch: int, images: int, epochs: list[float]) -> list[float]:
    """What the schedule gives at these times of a run with that batch."""
    steps = images // global_batch
    peak = scaled_lr(cfg.optimizer, global_batch)
    schedule = build_schedule(cfg.lr_scheduler, peak, steps, cfg.epochs)
    return [schedule(round(epoch * steps)) for epoch in epochs]


recipes = pytest.mark.parametrize("name", PUBLISHED)
everything = pytest.mark.parametrize("name", RECIPES)


def test_the_table_is_complete():
    """Six ConViT, five CvT, MindCV's six; what is fine-tuned or taught has its own tests."""
    own = {
        stem for stem, path in RECIPES.items() if path.parent.name not in ("finetune", "distilled")
    }
    assert own == PUBLISHED.keys()


@everything
def test_the_header_names_source_and_command(name):
    path = RECIPES[name]
    text = header(path)
    processes, images, product = hardware(path)
    assert processes * images == product
    assert get_config(path).dataloader.train.sampler.batch_size == images
    command = text.split("# Command", 1)[1]
    launched = re.search(r"bash tools/dist_train.sh (\S+) (\d+)(?: --nnodes (\d+))?", command)
    if launched:
        named = launched[1]
        assert processes == int(launched[2]) * int(launched[3] or 1)
    else:
        (named,) = re.findall(r"python tools/train.py -c (\S+)", command)
        assert processes == 1
    assert path.as_posix().endswith(named)
    assert re.search(
        r"Published|No score is published|score was published|score is published", text
    )
    assert "Recipe: " in text or "arXiv" in text or "MindCV" in text or "Ours" in text


@recipes
def test_learning_rate(name):
    """At the first and the last step of epochs, at the batch of the stated hardware."""
    row, cfg = PUBLISHED[name], get_config(RECIPES[name])
    *_, batch = hardware(RECIPES[name])
    assert batch == row.batch
    assert cfg.epochs == 300
    steps = IMAGENET // batch
    epochs = [epoch + end for epoch in (0, 1, 5, 150, 299) for end in (0.0, (steps - 1) / steps)]
    expected = [row.rate(row.peak, round(epoch * steps) / steps) for epoch in epochs]
    assert rates(cfg, batch, IMAGENET, epochs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convit_tiny", [1e-6, 2.008e-4, 9.99322e-4, 5.05e-4, 1.00271e-5]),
        ("convit_small_plus", [1e-6, 8.08e-5, 3.99733e-4, 2.05e-4, 1.00107e-5]),
        ("cvt_w24_384", [1e-6, 4.008e-4, 1.99864e-3, 1.005e-3, 1.00546e-5]),
    ],
)
def test_learning_rate_by_hand(name, expected):
    *_, batch = hardware(RECIPES[name])
    found = rates(get_config(RECIPES[name]), batch, IMAGENET, [0, 1, 5, 150, 299])
    assert found == pytest.approx(expected, rel=1e-5)


@recipes
def test_transforms_and_mixup(name):
    """Every transform with every option, in order; and how they are sampled and mixed."""
    row, cfg = PUBLISHED[name], get_config(RECIPES[name])
    assert built(cfg.dataloader.train.dataset.transforms) == row.train
    assert built(cfg.dataloader.val.dataset.transforms) == row.val

    sampler = BatchSampler(range(IMAGENET), 0, **cfg.dataloader.train.sampler)
    assert (sampler.repeats, sampler.shuffle, sampler.drop_last) == (row.repeats, True, True)
    val = BatchSampler(range(50_000), 0, **cfg.dataloader.val.sampler)
    assert (val.repeats, val.shuffle, val.drop_last) == (1, False, False)

    assert options(Mixup, cfg.dataloader.train.mixup) == {
        "mixup_alpha": row.mixup_alpha,
        "cutmix_alpha": 1.0,
        "cutmix_minmax": None,
        "prob": 1.0,
        "switch_prob": 0.5,
        "mode": "batch",
        "off_epoch": None,
    }


@recipes
def test_regularisation_and_precision(name):
    row, cfg = PUBLISHED[name], get_config(RECIPES[name])
    loss = build_loss(cfg.loss)
    assert type(loss).__name__ == "CrossEntropy"
    assert loss.label_smoothing == 0.1
    assert options(Precision, cfg.amp) == row.amp
    # Nobody clipped, averaged or accumulated.
    assert not {"ema", "accumulate", "freeze", "distillation"} & cfg.keys()
    assert not {"grad_clip", "layer_decay"} & cfg.optimizer.keys()


@recipes
def test_drop_path(name):
    """From 0 in the first block to the rate in the last; in CvT's last stage only. Each block drops
    its two branches alike.
    """
    row, cfg = PUBLISHED[name], get_config(RECIPES[name])
    depth = cfg.model.architecture.depth
    if isinstance(depth, int):
        assert depth == 12
        expected = np.linspace(0, row.drop_path, depth)
    else:
        expected = [0.0] * sum(depth[:-1]) + list(np.linspace(0, row.drop_path, depth[-1]))
    model = thin(cfg)
    found = [layer.rate for layer in model.sublayers() if isinstance(layer, DropPath)]
    assert found in (pytest.approx(expected), pytest.approx(np.repeat(expected, 2)))
    dropouts = [layer.p for layer in model.sublayers() if isinstance(layer, nn.Dropout)]
    assert set(dropouts) <= {0}


@recipes
def test_optimizer(name):
    """Two steps of the built optimizer on all parameters of the network are AdamW's by its formula
    (arXiv 1711.05101), with decay where the authors' rule has it.
    """
    row, cfg = PUBLISHED[name], get_config(RECIPES[name])
    model = thin(cfg)
    optimizer = build_optimizer(cfg.optimizer, model)
    optimizer.set_lr(0.1)
    trained = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
    for parameter in trained.values():
        parameter.set_value(np.ones(parameter.shape, "float32"))
    # Numbers that float32 rounds: 1 - 0.999 has three digits less.
    rate, beta1, beta2 = (Rounded(number, number) for number in (0.1, 0.9, 0.999))
    expected = {wd: Rounded(1.0) for wd in (0.0, row.weight_decay)}
    m = v = 0.0
    for t, gradient in enumerate((0.3, -0.2), start=1):
        paddle.add_n([p.sum() for p in trained.values()]).scale(gradient).backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        g = Rounded(gradient, abs(gradient))
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        step = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + 1e-8)
        expected = {wd: w - rate * Rounded(wd, wd) * w - rate * step for wd, w in expected.items()}
    apart = expected[0.0] - expected[row.weight_decay]
    assert apart.value > 2.0**-24 * apart.error  # so the two are told apart
    norms = {
        id(parameter)
        for layer in model.sublayers()
        if isinstance(layer, nn.BatchNorm2D | nn.LayerNorm)
        for parameter in layer.parameters()
    }
    for own, parameter in trained.items():
        decay = row.weight_decay if row.decays(own, parameter, norms) else 0.0
        expected[decay].map(lambda part, p=parameter: np.full(p.shape, part)).check(parameter)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("mindcv")])
def test_mindcv_networks_are_the_same_with_the_numerics_of_mindspore(name):
    ours = get_config(RECIPES[name.removeprefix("mindcv_")]).to_dict()["model"]
    theirs = get_config(RECIPES[name]).to_dict()["model"]
    numerics = {key: theirs["architecture"].pop(key) for key in ("act", "norm_eps")}
    assert numerics == {"act": "gelu_tanh", "norm_eps": 1e-7}
    assert theirs == ours
    backbone = thin(get_config(RECIPES[name])).backbone
    assert (backbone.act, backbone.norm_eps) == ("gelu_tanh", 1e-7)


# --------------------------------------------------------------------------------------------------
# Fine-tuning and distillation
# --------------------------------------------------------------------------------------------------
FINE_TUNED = [name for name, path in RECIPES.items() if path.parent.name == "finetune"]


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuning_starts_from_weights_that_fit(name):
    """The zoo's entry is of the same network but for what `fit` names."""
    cfg = get_config(RECIPES[name])
    ours = cfg.to_dict()["model"]
    theirs = get_config(RECIPES[find(ours["pretrained"]).model]).to_dict()["model"]
    fitted = set()
    if ours["head"].pop("num_classes") != theirs["head"].pop("num_classes"):
        fitted.add("classes")
    sizes = [model["architecture"].pop("img_size", None) for model in (ours, theirs)]
    if sizes[0] != sizes[1]:
        fitted.add("resolution")
    assert ours["architecture"] == theirs["architecture"]
    assert ours["head"] == theirs["head"]
    assert set(ours.get("fit", ())) == fitted


@pytest.mark.parametrize(
    ("name", "images", "steps"),
    [
        ("cvt_13_224_to_384", IMAGENET, 20_000),
        ("cvt_21_224_to_384", IMAGENET, 20_000),
        ("cvt_13_cifar10", 50_000, 10_000),
        ("cvt_13_cifar100", 50_000, 10_000),
        ("cvt_13_pets", 3_680, 500),
        ("cvt_13_flowers102", 2_040, 500),
    ],
)
def test_fine_tuning_of_cvt(name, images, steps):
    """Section 4.1 of its paper: momentum 0.9, 512 images a step, so many steps; as in ViT, cosine
    to 0, no decay, gradients of norm 1 at most.
    """
    cfg = get_config(RECIPES[name])
    *_, batch = hardware(RECIPES[name])
    assert batch == 512
    per_epoch = BatchSampler(
        range(images), 0, **{**cfg.dataloader.train.sampler, "batch_size": 512}
    )
    assert cfg.epochs == round(steps / len(per_epoch))
    assert f"{cfg.epochs} epochs" in " ".join(header(RECIPES[name]).replace("# ", "").split())
    halves = [0, cfg.epochs / 2, cfg.epochs]
    found = rates(cfg, batch, images, halves)
    assert found == pytest.approx([0.003, 0.0015, 0.0], abs=3e-5)

    model = thin(cfg)
    optimizer = build_optimizer(cfg.optimizer, model)
    optimizer.set_lr(0.1)
    trained = [p for p in model.parameters() if not p.stop_gradient]
    for parameter in trained:
        parameter.set_value(np.ones(parameter.shape, "float32"))
    squares = 49 * sum(p.size for p in trained)
    assert squares < 2**24  # so float32 sums them exactly
    part = 7 / Rounded(squares).sqrt()  # of a gradient of norm 1
    for _ in range(2):
        paddle.add_n([p.sum() for p in trained]).scale(7.0).backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    expected = 1 - Rounded(0.1, 0.1) * part * (1 + Rounded(1.9, 1.9))
    for parameter in trained:
        expected.map(lambda part, p=parameter: np.full(p.shape, part)).check(parameter)
    assert build_loss(cfg.loss).label_smoothing == 0
    labels = paddle.to_tensor([0, 1])
    mixup = build_mixup(cfg.dataloader.train.get("mixup"), 2)
    assert mixup(paddle.zeros([2, 3, 4, 4]), labels, 0, np.random.default_rng(0))[1] is labels

    size = 224 if "cifar" in name else 384
    normalize = built(cfg.dataloader.train.dataset.transforms)[-1]
    squash = {"size": [size + 32, size + 32], "interpolation": "bilinear"}
    assert built(cfg.dataloader.train.dataset.transforms) == [
        ("Resize", squash),
        ("RandomCrop", {"size": size, "padding": 0, "pad_if_needed": False}),
        FLIP,
        normalize,
    ]
    assert normalize == NORMALIZE
    assert built(cfg.dataloader.val.dataset.transforms) == [
        ("Resize", {"size": [size, size], "interpolation": "bicubic"}),
        NORMALIZE,
    ]


def test_fine_tuning_of_convit_at_384():
    """DeiT's command: --lr 5e-6 --min-lr 5e-6 --weight-decay 1e-8 --epochs 30, its other defaults
    as in the training: five epochs of warm-up from 1e-6, augmentation, three of each image.
    """
    path = RECIPES["convit_small_224_to_384"]
    cfg = get_config(path)
    *_, batch = hardware(path)
    assert (batch, cfg.epochs) == (512, 30)
    found = rates(cfg, batch, IMAGENET, [0, 1, 5, 15, 29])
    assert found == pytest.approx([1e-6, 1.8e-6, 5e-6, 5e-6, 5e-6], rel=1e-9)
    assert cfg.optimizer.weight_decay == 1e-8
    assert built(cfg.dataloader.train.dataset.transforms) == deit(384)
    assert built(cfg.dataloader.val.dataset.transforms) == resize_and_crop(438, 384)
    assert cfg.dataloader.train.sampler.repeats == 3
    assert cfg.model.architecture.img_size == 384


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_of_mindcv(classes):
    """transforms_cifar of mindcv/data/transforms_factory.py; momentum at 0.001."""
    cfg = get_config(RECIPES[f"convit_tiny_cifar{classes}"])
    normalize = (
        "Normalize",
        {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
    )
    resize = ("Resize", {"size": 224, "interpolation": "bilinear"})
    random_crop = ("RandomCrop", {"size": 32, "padding": 4, "pad_if_needed": False})
    assert built(cfg.dataloader.train.dataset.transforms) == [
        random_crop,
        FLIP,
        resize,
        normalize,
    ]
    assert built(cfg.dataloader.val.dataset.transforms) == [resize, normalize]
    assert cfg.model.head.num_classes == classes
    assert rates(cfg, 64, 50_000, [0, 5, 10]) == pytest.approx([1e-3, 5e-4, 0.0], abs=1e-9)
    assert (cfg.optimizer.name, cfg.optimizer.momentum) == ("Momentum", 0.9)


def test_distillation_is_the_recipe_with_a_teacher():
    taught = get_config(RECIPES["convit_small_plus_distilled"]).to_dict()
    alone = get_config(RECIPES["convit_small_plus"]).to_dict()
    teacher = taught.pop("distillation")
    assert (teacher["kind"], teacher["alpha"]) == ("hard", 0.5)
    assert get_config(teacher["teacher"]).file.stem == find(teacher["weights"]).model
    assert taught.pop("output_dir") != alone.pop("output_dir")
    assert taught == alone


@everything
def test_docs_recipes_agrees(name):
    """docs/recipes.md links every file, and states the hardware of its header."""
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    path = RECIPES[name]
    link = f"(../configs/{path.as_posix().rpartition('configs/')[2]})"
    (row,) = [line for line in page.splitlines() if link in line]
    if name in PUBLISHED:
        processes, images, product = hardware(path)
        assert f"| {processes} x {images} = {product} |" in row
        cells = [cell.strip() for cell in row.split("|")]
        assert float(cells[3]) == PUBLISHED[name].peak
        assert float(cells[4]) == PUBLISHED[name].weight_decay
        assert cells[-2].split(",")[0].split(" /")[0] in header(path)  # the published score


def test_files_are_short():
    """A file says what is special about its recipe; what many share is in _base_."""
    for path in RECIPES.values():
        assert len(path.read_text().splitlines()) <= 65, path
