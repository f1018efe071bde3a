"""Whatever is wrong with a config is said at once: file and line, value, rule, way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.engine.check import TRAINING, check_config
from passl.errors import ConfigError
from passl.modeling.backbones.cvt import CvT
from passl.utils.config import get_config
from passl.utils.schema import Choice, Section


def problems(path: Path, *overrides: str, for_training: bool = True) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(get_config(path, overrides), for_training)
    return str(caught.value)


def test_a_correct_config_passes(tiny_config):
    check_config(get_config(tiny_config("ConViT")))
    check_config(get_config(tiny_config("CvT")))
    check_config(get_config(tiny_config("CvT"), ["model.pretrained=null"]))


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("epoch=3", "epoch: 'epoch' is not a key; did you mean 'epochs'?"),
        (
            "model.architecture.num_head=3",
            "'num_head' is not an option of ConViT; did you mean 'num_heads'?",
        ),
        (
            "model.architecture.num_classes=3",
            "a backbone knows no classes; set model.head.num_classes",
        ),
        ("model.architecture.act_layer=gelu", "the activation is called act here"),
        (
            "model.architecture.act=gelo",
            "must be one of gelu, gelu_tanh, quick_gelu, relu, not 'gelo'",
        ),
        (
            "model.architecture={name: ConVit}",
            "there is no backbone 'ConVit'; did you mean 'ConViT'?",
        ),
        (
            "model.architecture.embed_dim=[16]",
            "embed_dim: must be a whole number of at least 1",
        ),
        ("model.head.num_classes=9", "9 is not the 10 classes of dataloader.train; set it to 10"),
        ("model.name=CvtWrapper", "must be one of Model, CvTWrapper, not 'CvtWrapper'"),
        ("optimizer.lr=fast", "lr: must be a number of at least 0"),
        ("optimizer.lr=-1", "lr: must be a number of at least 0"),
        ("optimizer.name=Adan", "there is no optimizer 'Adan'; did you mean 'Adam'"),
        ("optimizer.grad_clip={name: norm, value: 1}", "there is no gradient clipping 'norm'"),
        ("accumulate=129", "129 parts are more than the 128 samples of a batch"),
        (
            "freeze={names: [head.*], epochs: 0}",
            "epochs: must be a whole number of at least 1",
        ),
        ("recompute=1", "must be true or false, not 1"),
        ("dataloader.train.mixup={prob: 2}", "prob: must be a number from 0 to 1"),
        ("dataloader.train.mixup={alpha: 2}", "'alpha' is not a key; did you mean"),
        ("dataloader.val.mixup={prob: 1}", "'mixup' is not a key"),
        ("dataloader.train.dataset.labels=[cat]", "'cat' is not a class of the data"),
        (
            "dataloader.train.dataset.transforms.0={name: RandAugment, policy: rand-m9-foo3}",
            "foo3",
        ),
        (
            "dataloader.train.dataset.transforms=[{name: RandomErasing}, {name: Normalize}]",
            "RandomErasing works on arrays; it must stand after Normalize",
        ),
        (
            "dataloader.val.dataset.transforms=[{name: Normalize}, {name: Resize, size: 32}]",
            "Resize works on images; it must stand before Normalize",
        ),
        (
            "distillation={teacher: nothing.yaml, weights: none.pdparams}",
            "nothing.yaml",
        ),
        ("loss={name: BinaryCrossEntropy, smoothing: 0.1}", "did you mean 'label_smoothing'"),
        ("epochs=ten", "epochs: must be a whole number of at least 1"),
        ("lr_scheduler.warmup_epochs=9", "9 must lie between 0 and the 2 epochs of the run"),
        (
            "dataloader.train.loader.workers=1",
            "'workers' is not a key; did you mean 'num_workers'?",
        ),
        (
            "dataloader.train.dataset.transforms.0.size=31",
            "31 does not divide into patches of 8 pixels",
        ),
        ("model.architecture.img_size=36", "36 does not divide into patches of 8 pixels"),
        ("model.architecture.img_size=[32, 12]", "does not divide into patches of 8 pixels"),
        ("dataloader.train.dataset.transforms.0.size=[64]", "must be one number of pixels, or ["),
        ("dataloader.train.dataset.transforms.0.scale=[1.0, 0.5]", "in ascending order"),
        (
            "dataloader.train.dataset.transforms.0.scale=[1]",
            "must be a list of 2, each a number, not [1]",
        ),
        (
            "dataloader.val.dataset.transforms=[{name: CenterCrop, size: 32}]",
            "must have Normalize once",
        ),
        ("dataloader.val.dataset.transforms=[]", "must have Normalize once"),
        ("dataloader.val.dataset.transforms=3", "must be a list, not 3"),
        ("dataloader.val.dataset.split=test", "must be one of train, val, not 'test'"),
        ("loss.name=null", "there is no loss null; there are"),
        (
            "loss.class_weights=even",
            "class_weights: must be balanced",
        ),
        ("loss.class_weights=[1, 2]", "2 numbers are not one for each of the 10 classes"),
        ("loss.class_weights=[1, 1, 1, 1, 1, 1, 1, 1, 1, -2]", "-2 must be finite and not negat"),
        ("loss.class_weights=[1, 1, 1, 1, 1, 1, 1, 1, 1, .nan]", "nan must be finite"),
        ("loss.class_weights=[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]", "are all 0"),
        ("dataloader.val.sampler={batch_size: 8, shuffle: true, balanced: true}", "is for train"),
        ("dataloader.train.sampler={shuffle: false, balanced: true}", "set shuffle: true"),
        ("log_config=3", "must be a mapping, not 3"),
    ],
)
def test_one_problem(tiny_config, override, rule):
    message = problems(tiny_config(), override)
    assert rule in message
    assert message.startswith(f"the command line (-o): {override.split('=')[0].split('.')[0]}")
    assert len(message.splitlines()) == 1


def test_problems_of_text_files_are_those_of_the_option(tiny_config, tmp_path):
    images = tmp_path / "list.txt"
    images.write_text("a.png 0\nb.png one\nc\n")
    node = "{name: ImageList, dataroot: data, list_file: %s, transforms: [{name: Normalize}]}"
    lines = problems(tiny_config(), f"dataloader.train.dataset={node % images}").splitlines()
    place = "the command line (-o): dataloader.train.dataset.list_file"
    assert [line.strip().startswith(f"{place}: {images}:") for line in lines] == [True, True]
    line = problems(tiny_config(), "dataloader.train.dataset.labels=[1, one]")
    assert line.startswith("the command line (-o): dataloader.train.dataset.labels: 'one' is not")


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_derived_values_may_be_left_out(tiny_config, name):
    left_out = ["model.head.in_channels=null", "model.head.num_classes=null"]
    check_config(get_config(tiny_config(name), left_out))
    head = "model={head: {name: CvTClsHead}}"
    check_config(get_config(tiny_config(name), [head]))
    message = problems(tiny_config(name), *left_out, "loss.class_weights=[1, 2]")
    assert "2 numbers are not one for each of the 10 classes" in message


def test_another_number_of_classes_than_the_pretrained_weights(tiny_config):
    other = ("model.head.num_classes=11", "model.pretrained=imagenet.pth")
    assert "leave it out, and model.fit: [classes] if" in problems(tiny_config(), *other)
    assert problems(tiny_config(), *other, "model.fit=[classes]").endswith("or leave it out")


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("model.architecture.num_heads=5", "embed_dim 16 does not divide into 5 heads"),
        ("model.architecture.head_dim=5", "embed_dim 16 does not divide into 4 heads of 5"),
        ("model.architecture.local_up_to_layer=2", "lower it below depth 2"),
        ("model.architecture.mlp_ratio=-1", "mlp_ratio: must be a number above 0"),
        ("model.architecture.img_size=[32, 32, 32]", "one number of pixels, or [height, width]"),
        (
            "model.architecture.hybrid_backbone={name: CvT, depth: 0}",
            "depth: must be a whole number of at least 1",
        ),
        ("model.head.num_classes=0", "num_classes: must be a whole number of at least 1"),
        ("optimizer.lr=.nan", "lr: must be a number of at least 0"),
        ("optimizer.lr_scale=sqrt", "give the batch that lr is meant for"),
        (
            "optimizer.betas=[1, 0]",
            "betas: must be a list of 2, each a number of at least 0 and below 1",
        ),
        ("optimizer.grad_clip.value=0", "value: must be a number above 0"),
        ("dataloader.val.sampler.repeats=2", "repeats 2 needs shuffle"),
    ],
)
def test_values_out_of_range(tiny_config, override, rule):
    """The rules of the parts are known before they are built."""
    test_one_problem(tiny_config, override, rule)


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("num_heads=[1, 2, 5]", "embed_dim 16 of stage 2 does not divide into 5 heads"),
        ("num_heads=[1, 2]", "num_heads [1, 2] has 2 values for 3 stages"),
        ("num_stages=2", "num_stages 2 is not the length of embed_dim"),
        ("kernel_size=2", "kernel_size 2 of stage 0 must be odd"),
        ("kernel_size=5", "use stride_q 1 and padding_q 2"),
    ],
)
def test_values_of_cvt_out_of_range(tiny_config, override, rule):
    message = problems(tiny_config("CvT"), f"model.architecture.{override}")
    assert message.startswith("the command line (-o): model.architecture")
    assert rule in message
    assert len(message.splitlines()) == 1


def test_options_of_a_dataset_that_do_not_go_together(tiny_config):
    node = "name: TarShards, shards: no, class_file: no, label_key: .jpg, transforms: []"
    assert "must be endings" in problems(tiny_config(), f"dataloader.val.dataset={{{node}}}")


def test_attention_is_measured_where_there_is_one(tiny_config, monkeypatch):
    path = tiny_config("CvT", log_config={"interval": 2, "attention": {"images": 0, "mode": "F"}})
    text = problems(path)
    assert "log_config.attention.images: must be a whole number of at least 1, not 0" in text
    assert "must be one of paper, fb, not 'F'" in text
    path = tiny_config("CvT", log_config={"interval": 2, "attention": {"mode": "fb"}})
    line = path.read_text().splitlines().index("    mode: fb") + 1
    assert f"{path}:{line}: log_config.attention.mode: fb is for ConViT" in problems(path)
    check_config(get_config(path, ["log_config.attention.mode=paper"]))
    monkeypatch.delattr(CvT, "attention_inputs")
    assert "log_config.attention: CvT has no attention to show" in problems(path)


def test_pair_mixup_needs_an_even_batch(tiny_config):
    told = ("dataloader.train.mixup={mode: pair}", "dataloader.train.sampler.batch_size=127")
    rule = "an even dataloader.train.sampler.batch_size, not 127, and drop_last: true"
    assert rule in problems(tiny_config(), *told)
    told = (told[0], "dataloader.train.sampler.drop_last=false")
    assert "and drop_last: true" in problems(tiny_config(), *told)
    # Evaluation mixes nothing.
    check_config(get_config(tiny_config(), told), for_training=False)


# --------------------------------------------------------------------------------------------------
# Channels
# --------------------------------------------------------------------------------------------------
GREY = ("dataloader.train.dataset.mode=L", "dataloader.val.dataset.mode=L")


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_network_and_images_have_the_same_channels(tiny_config, name, mode, channels):
    told = [told.replace("=L", f"={mode}") for told in GREY]
    told.append(f"model.architecture.in_chans={channels}")
    check_config(get_config(tiny_config(name), told))
    message = problems(tiny_config(name), *told[:-1], "model.architecture.in_chans=5")
    assert "model.architecture.in_chans: the network takes 5 channels" in message
    assert f"mode {mode}) have {channels} channel" in message
    assert f"set it to {channels}" in message
    assert len(message.splitlines()) == 2  # training and validation


def test_the_message_names_the_mode_that_fits_the_network(tiny_config):
    message = problems(tiny_config(), "model.architecture.in_chans=1", GREY[0])
    assert "set it to 3 or dataloader.val.dataset.mode to L" in message
    assert "dataloader.train" not in message
    message = problems(tiny_config(), *GREY, for_training=False)
    assert "set it to 1 or dataloader.val.dataset.mode to RGB" in message
    assert "dataloader.train" not in message


def test_a_mean_for_other_channels(tiny_config):
    told = (*GREY, "model.architecture.in_chans=1")
    wrong = "dataloader.val.dataset.transforms=[{name: Normalize, mean: [0.5, 0.5, 0.5]}]"
    message = problems(tiny_config(), *told, wrong)
    assert "dataloader.val.dataset.transforms: for images of mode L: Normalize: mean" in message
    assert "is for 3 channels, but an image has 1; give 1" in message
    assert len(message.splitlines()) == 1
    check_config(get_config(tiny_config(), [*told, wrong.replace("[0.5, 0.5, 0.5]", "[0.5]")]))


def test_a_background_without_transparency(tiny_config):
    message = problems(tiny_config(), "dataloader.val.dataset.background=[0, 0, 300]")
    assert "background: must be a list of 3, each a whole number from 0 to 255" in message


def test_a_teacher_with_other_channels(tiny_config):
    student, teacher = tiny_config("ConViT"), tiny_config("CvT")
    told = (*GREY, "model.architecture.in_chans=1")
    told = (*told, f"distillation={{teacher: '{teacher}', weights: w.safetensors}}")
    assert "it takes 3 channels, but the student 1 channel;" in problems(student, *told)


class Colourise:
    """A user's transform: grey in, colours out."""

    def __call__(self, image: Image.Image, rng) -> Image.Image:
        return image.convert("RGB")


def test_a_transform_that_changes_the_channels(tiny_config, monkeypatch):
    monkeypatch.setitem(TRANSFORMS._registered, "Colourise", Colourise)
    told = "dataloader.val.dataset.transforms=[{name: Colourise}, {name: Normalize}]"
    check_config(get_config(tiny_config(), [GREY[1], told]))


def test_problems_name_file_and_line(tiny_config):
    path = tiny_config()
    text = path.read_text().replace("embed_dim: 16", "embed_dims: 16")
    path.write_text(text)
    line = 1 + text.splitlines().index("    embed_dims: 16")
    assert problems(path).startswith(
        f"{path}:{line}: model.architecture.embed_dims: 'embed_dims' is not an option"
    )


def test_problems_between_values_name_the_changed_value(tiny_config, tmp_path):
    """Of a node that several files make up, not its first line."""
    base = tiny_config("ConViT")
    path = tmp_path / "more.yaml"
    path.write_text(
        f"_base_: {base.name}\nseed: 1\nmodel: {{architecture: {{depth: 3}}}}\n"
        "loss:\n  label_smoothing: 1.5\noptimizer: {weight_decay: -1}\n"
    )
    heads, smoothing, decay = problems(
        path, "model.architecture.num_heads=5", "optimizer.lr=1.0"
    ).splitlines()
    assert smoothing.startswith(f"{path}:5: loss.label_smoothing: must be a number")
    assert decay.startswith(f"{path}:6: optimizer.weight_decay: must be a number")
    assert heads.startswith("the command line (-o): model.architecture: embed_dim 16")
    path.write_text(path.read_text().replace("depth: 3", "num_heads: 5"))
    assert f"{path}:3: model.architecture: embed_dim 16" in problems(path)


def test_missing_sections_and_keys(tiny_config):
    path = tiny_config()
    path.write_text(
        path.read_text().replace("epochs: 2\n", "").replace("lr: 0.002", "weight_decay: 0.1")
    )
    message = problems(path)
    assert "epochs is missing" in message
    assert "optimizer.lr is missing" in message


def test_all_problems_are_reported_together(tiny_config):
    """Of form and of sense together, as long as they concern different sections."""
    message = problems(
        tiny_config(), "epoch=1", "model.head.num_classes=3", "optimizer.lr=x", "loss.name=L1"
    )
    for rule in (
        "'epoch' is not a key",
        "set it to 10",
        "must be a number",
        "there is no loss 'L1'",
    ):
        assert rule in message
    assert len(message.splitlines()) == 4


def folder(root: Path, *classes: str) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "a.png")
    return root


def data(part: str, root: Path) -> str:
    transforms = "[{name: CenterCrop, size: 32}, {name: Normalize}]"
    node = f"name: ImageFolder, dataroot: '{root}', transforms: {transforms}"
    return f"dataloader.{part}.dataset={{{node}}}"


def test_data_folders(tiny_config, tmp_path):
    (tmp_path / "empty").mkdir()
    missing = problems(
        tiny_config(), data("train", tmp_path / "nothing"), data("val", tmp_path / "empty")
    )
    assert "nothing: the data folder does not exist" in missing
    assert "empty: the data folder has no class" in missing
    assert len(missing.splitlines()) == 2


def test_classes_of_training_and_validation_agree(tiny_config, tmp_path):
    train, val = folder(tmp_path / "t", "cat", "dog"), folder(tmp_path / "v", "cat", "dogs")
    message = problems(
        tiny_config(), data("train", train), data("val", val), "model.head.num_classes=2"
    )
    assert "only one of them has dog, dogs" in message
    message = problems(tiny_config(), data("train", train), data("val", train))
    assert "10 is not the 2 classes of dataloader.train; set it to 2" in message


# --------------------------------------------------------------------------------------------------
# Sizes of images
# --------------------------------------------------------------------------------------------------
def images(root: Path, *sizes: tuple[int, int]) -> Path:
    """One class folder with images of these widths and heights."""
    (root / "cat").mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(root / "cat" / f"{number}.png")
    return root


def node(part: str, root: Path, *transforms: str) -> tuple[str, str]:
    listed = ", ".join([*transforms, "{name: Normalize}"])
    return (
        f"dataloader.{part}.dataset={{name: ImageFolder, dataroot: '{root}', "
        f"transforms: [{listed}]}}",
        "model.head.num_classes=1",
    )


RESIZE = "{name: Resize, size: 32}"


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("transforms", [[], [RESIZE], ["{name: RandomHorizontalFlip}"]])
def test_images_of_several_sizes_are_an_error(tiny_config, tmp_path, part, transforms):
    other = {"train": "val", "val": "train"}[part]
    root = images(tmp_path / "data", (40, 30), (40, 30), (30, 60))
    told = [*node(part, root, *transforms), *node(other, root, "{name: CenterCrop, size: 32}")]
    message = problems(tiny_config(), *told)
    assert f"dataloader.{part}.dataset.transforms: make images of several sizes" in message
    assert "0.png" in message
    assert "2.png" in message
    assert "Resize and CenterCrop" in message
    assert len(message.splitlines()) == 1
    # One image a batch may have any size.
    check_config(get_config(tiny_config(), [*told, f"dataloader.{part}.sampler.batch_size=1"]))


@pytest.mark.parametrize(
    "transforms",
    [
        ["{name: RandomResizedCrop, size: 32}"],
        [RESIZE, "{name: CenterCrop, size: 32}"],
        ["{name: Resize, size: [32, 32]}"],
        ["{name: RandomCrop, size: 240}"],  # larger than the first made-up images
        ["{name: RandomCrop, size: 8}", "{name: RandAugment, policy: rand-m9}"],
    ],
)
def test_transforms_with_one_output_size_read_no_images(tiny_config, tmp_path, transforms):
    root = images(tmp_path / "data", (40, 30), (30, 60))
    for path in root.rglob("*.png"):
        path.write_bytes(b"damaged")
    told = [*node("train", root, *transforms), *node("val", root, *transforms)]
    check_config(get_config(tiny_config("CvT"), told))


def test_the_data_may_have_one_size(tiny_config, tmp_path):
    """Unreadable files are the loader's matter; an image that no transform can take is not."""
    root = images(tmp_path / "data", (32, 32), (32, 32), (32, 32))
    (root / "cat" / "1.png").write_bytes(b"damaged")
    check_config(get_config(tiny_config(), [*node("train", root), *node("val", root)]))
    crop = "{name: RandomCrop, size: 4000}"
    message = problems(tiny_config("CvT"), *node("train", root, crop), *node("val", root))
    assert "0.png: RandomCrop: 4000 x 4000 pixels do not fit" in message


def test_datasets_of_a_known_size_are_not_read(tiny_config, tmp_path):
    """CIFAR's archives take seconds to read, and may have to be fetched first."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    for transforms in ("{name: RandomHorizontalFlip}", RESIZE):
        cifar = f"name: CIFAR10, dataroot: '{tmp_path}', transforms: [{transforms}, "
        told = [
            f"dataloader.{part}.dataset={{{cifar}{{name: Normalize}}], split: {part}}}"
            for part in ("train", "val")
        ]
        check_config(get_config(tiny_config(), told))
    crop = "dataloader.train.dataset.transforms=[{name: RandomCrop, size: 33}, {name: Normalize}]"
    assert "do not fit into an image of 32 x 32" in problems(tiny_config("CvT"), crop)


def test_evaluation_needs_no_training_data(tiny_config, tmp_path):
    cfg = get_config(tiny_config(), [data("train", tmp_path / "nothing")])
    check_config(cfg, for_training=False)
    with pytest.raises(ConfigError, match="does not exist"):
        check_config(cfg)


def test_every_key_is_documented():
    """docs/training.md has the keys of a training config, or says which page has them."""

    def keys(spec) -> set[str]:
        if isinstance(spec, Section):
            return {*spec.options}.union(*map(keys, spec.options.values()))
        return (
            {*spec.more}.union(*map(keys, spec.more.values()))
            if isinstance(spec, Choice)
            else set()
        )

    docs = Path(__file__).parents[3] / "docs"
    pages = ("training.md", "data.md", "distributed.md", "weights.md")
    text = "\n".join((docs / page).read_text(encoding="utf-8") for page in pages)
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    assert [key for key in sorted(keys(TRAINING)) if not re.search(rf"\b{key}\b", code)] == []
