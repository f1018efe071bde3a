"""Configs: inheritance, merging, overrides, origins, and that nothing changes them."""

from __future__ import annotations

import copy
import os
import pickle
import re
from pathlib import Path

import pytest

from passl.errors import ConfigError
from passl.utils.config import (
    COMMAND_LINE,
    CONFIG_ROOT,
    Config,
    closest,
    find_config,
    get_config,
    leaves,
    merge,
    recipe_of,
    shipped_configs,
    storable,
)
from passl.utils.yaml import parse, to_yaml

BASE = """\
epochs: 10
optimizer: {name: AdamW, lr: 1e-3, betas: [0.9, 0.999]}
transforms:
  - {name: Resize, size: 256}
  - {name: Flip, p: 0.5}
sizes: [1, 2, 3]
empty: []
"""


@pytest.fixture
def write(tmp_path):
    """Write a file below tmp_path and get its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def load(write):
    """BASE with overrides, as a plain dict."""
    path = write("base.yaml", BASE)

    def load_with(*overrides: str) -> dict:
        return get_config(path, overrides).to_dict()

    return load_with


# -------------------------------------------------------------------------------------------------
# Inheritance
# -------------------------------------------------------------------------------------------------
def test_a_file_without_base(write):
    path = write("a.yaml", "b: {c: [1, {d: 2}]}\n")
    cfg = get_config(path)
    assert cfg.to_dict() == {"b": {"c": [1, {"d": 2}]}}
    assert cfg.file == path
    assert get_config(str(path)) == cfg


def test_mappings_merge_and_lists_replace(write):
    write("bases/base.yaml", BASE)
    cfg = get_config(
        write("a.yaml", "_base_: bases/base.yaml\noptimizer: {lr: 2.0}\nsizes: [9]\nnew: {x: 1}\n")
    )
    assert cfg.to_dict() == {
        "epochs": 10,
        "optimizer": {"name": "AdamW", "lr": 2.0, "betas": [0.9, 0.999]},
        "transforms": [{"name": "Resize", "size": 256}, {"name": "Flip", "p": 0.5}],
        "sizes": [9],
        "empty": [],
        "new": {"x": 1},
    }


def test_bases_are_relative_to_their_file(write, tmp_path, monkeypatch):
    write("bases/base.yaml", "a: 1\n")
    write("inner/a.yaml", "_base_: ../bases/base.yaml\nb: 2\n")
    monkeypatch.chdir(tmp_path / "bases")
    assert get_config("../inner/a.yaml").to_dict() == {"a": 1, "b": 2}


def test_file_changes_an_item_of_a_list_by_its_index(write):
    write("base.yaml", BASE)
    path = write("a.yaml", '_base_: base.yaml\ntransforms:\n  "0": {size: 8}\n')
    cfg = get_config(path)
    assert cfg.transforms[0].to_dict() == {"name": "Resize", "size": 8}
    assert cfg.origins["transforms", 0, "size"] == f"{path}:3"
    write("a.yaml", '_base_: base.yaml\ntransforms:\n  "2": {size: 8}\n')
    with pytest.raises(ConfigError, match=rf"^{path}:3: transforms is a list of 2, .*'2' is not"):
        get_config(path)


def test_bases_of_bases(write):
    """To any depth; each is relative to the file that names it."""
    write("a/one.yaml", "a: 1\nb: 1\nc: 1\nd: 1\n")
    write("a/b/two.yaml", "_base_: ../one.yaml\nb: 2\nc: 2\nd: 2\n")
    write("three.yaml", "_base_: [a/b/two.yaml]\nc: 3\nd: 3\n")
    cfg = get_config(write("c/four.yaml", "_base_: ../three.yaml\nd: 4\n"))
    assert cfg.to_dict() == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_a_long_chain_of_bases(write):
    write("0.yaml", "v0: 0\n")
    for n in range(1, 101):
        path = write(f"{n}.yaml", f"_base_: {n - 1}.yaml\nv{n}: {n}\n")
    assert get_config(path).to_dict() == {f"v{n}": n for n in range(101)}


def test_a_base_of_two_bases(write):
    """As of classes that share an ancestor; what only the ancestor says counts once, and a later
    base stands above an earlier one in all that it comes to.
    """
    write("root.yaml", "a: 0\nb: 0\nc: 0\n")
    write("left.yaml", "_base_: root.yaml\na: 1\nb: 1\n")
    write("right.yaml", "_base_: root.yaml\nb: 2\n")
    cfg = get_config(write("a.yaml", "_base_: [left.yaml, right.yaml]\n"))
    assert cfg.to_dict() == {"a": 0, "b": 2, "c": 0}


def test_a_base_of_many_is_read_once(write):
    """Forty files that each name the next twice are 2 ** 40 ways to the last."""
    write("40.yaml", "a: 1\n")
    for n in reversed(range(40)):
        path = write(f"{n}.yaml", f"_base_: [{n + 1}.yaml, ./{n + 1}.yaml]\n")
    assert get_config(path).to_dict() == {"a": 1}


def test_null_removes_a_mapping_of_a_base_of_a_base(write):
    write("one.yaml", "ema: {decay: 0.9}\na: 1\n")
    write("two.yaml", "_base_: one.yaml\nema: null\n")
    assert get_config(write("a.yaml", "_base_: two.yaml\n")).to_dict() == {"a": 1}


def test_null_may_leave_an_empty_mapping(write):
    write("one.yaml", "a: {b: {c: 1}}\n")
    path = write("two.yaml", "_base_: one.yaml\na:\n  b: null\n")
    assert get_config(path).to_dict() == {"a": {}}


def test_recipe_is_the_nearest_shipped_config(write):
    mine = write("mine.yaml", "_base_: [common.yaml, digits/cvt]\n")
    write("common.yaml", "epochs: 3\n")
    assert recipe_of(mine) == "digits/cvt"
    assert recipe_of(write("again.yaml", "_base_: mine.yaml\n")) == "digits/cvt"
    assert recipe_of(find_config("digits/multilabel")) == "digits/multilabel"  # its base is shipped
    linked = mine.parent / "linked" / "cvt.yaml"
    linked.parent.mkdir()
    linked.symlink_to(find_config("digits/cvt"))
    (mine.parent / "_base_").symlink_to(linked.resolve().parents[1] / "_base_")
    assert recipe_of(linked) == "digits/cvt"
    assert recipe_of(write("none.yaml", "_base_: common.yaml\n")) is None


def test_a_cycle_of_bases_is_an_error(write, tmp_path):
    one = write("one.yaml", "\n_base_: two.yaml\n")
    two = write("two.yaml", "_base_: [sub/three.yaml]\n")
    three = write("sub/three.yaml", "a: 1\n_base_: ../two.yaml\n")
    with pytest.raises(ConfigError) as caught:
        get_config(one)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{three}:2: _base_: {two} is a base of itself: ")
    assert f": {two} -> {three} -> {two};" in problem


@pytest.mark.parametrize("own", ["a.yaml", "./a.yaml", "link.yaml", "../{folder}/a.yaml"])
def test_a_file_that_is_its_own_base(write, tmp_path, own):
    path = write("a.yaml", f"_base_: {own.format(folder=tmp_path.name)}\nb: 1\n")
    (tmp_path / "link.yaml").symlink_to(path)
    with pytest.raises(ConfigError, match=rf"^{path}:1: _base_: .* is a base of itself"):
        get_config(path)


def test_a_base_beside_a_linked_folder(write, tmp_path):
    """`..` of a link leads beside the folder that it stands for, as in a shell's `cat`."""
    write("real/_base_/base.yaml", "a: 1\n")
    write("real/digits/a.yaml", "_base_: ../_base_/base.yaml\nb: 2\n")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "digits")
    assert get_config(tmp_path / "link" / "a.yaml").to_dict() == {"a": 1, "b": 2}


def test_a_missing_base(write, tmp_path):
    path = write("a.yaml", "_base_: bases/gone.yaml\na: 1\n")
    with pytest.raises(
        ConfigError,
        match=rf"{path}:1: _base_: {tmp_path}/bases/gone\.yaml: there is no such config file",
    ):
        get_config(path)


def test_all_missing_bases_at_once(write):
    path = write("a.yaml", "_base_:\n  - one.yaml\n  - two.yaml\n")
    with pytest.raises(
        ConfigError, match=r"(?s):2: .*one\.yaml: there is no.*:3: .*two\.yaml: there"
    ):
        get_config(path)


def test_problems_of_all_bases_at_once(write):
    write("root.yaml", "a: 1\na: 2\n")
    write("one.yaml", "_base_: root.yaml\n")
    write("two.yaml", "_base_: [root.yaml, gone.yaml]\n")
    with pytest.raises(ConfigError) as caught:
        get_config(write("a.yaml", "_base_: [one.yaml, two.yaml]\n"))
    assert ["root.yaml:2" in p for p in caught.value.problems] == [True, False]
    assert "gone.yaml: there is no such" in caught.value.problems[1]


@pytest.mark.parametrize("value", ["5", "null", "", "true"])
def test_a_base_must_be_a_path(write, value):
    path = write("a.yaml", f"_base_: {value}\na: 1\n")
    with pytest.raises(ConfigError, match=rf"^{path}:1: _base_: must be the path of a config"):
        get_config(path)


def test_problems_of_a_base_name_the_base(write):
    base = write("base.yaml", "a: 1\na: 2\n")
    with pytest.raises(ConfigError, match=rf"{base}:2: a: "):
        get_config(write("a.yaml", "_base_: base.yaml\n"))


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file(write, text):
    assert get_config(write("a.yaml", text)).to_dict() == {}


def test_a_file_with_an_empty_mapping(write):
    assert get_config(write("a.yaml", "{}\n")).to_dict() == {}


def test_an_empty_base(write):
    write("base.yaml", "# nothing yet\n")
    assert get_config(write("a.yaml", "_base_: base.yaml\na: 1\n")).to_dict() == {"a": 1}


# -------------------------------------------------------------------------------------------------
# Merging plain data
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}, "c": 2}, {"a": None}, {"c": 2}),
        ({"a": 5}, {"a": None}, {"a": None}),
        ({}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": [1, 2]}, {"a": []}, {"a": []}),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, {"a": [{"c": 1}]}),
        ({"name": "A", "x": 1}, {"name": "B"}, {"name": "B"}),
        ({"name": "A", "x": 1}, {"name": "A"}, {"name": "A", "x": 1}),
        ({"name": "A", "x": 1}, {"y": 2}, {"name": "A", "x": 1, "y": 2}),
        ({"x": 1}, {"name": "A"}, {"x": 1, "name": "A"}),
        ({"a": [1, {"b": 2, "c": 3}]}, {"a": {"1": {"c": 4}}}, {"a": [1, {"b": 2, "c": 4}]}),
    ],
)
def test_merge(base, over, expected):
    before = copy.deepcopy((base, over))
    assert merge(base, over) == expected
    assert (base, over) == before


def test_leaves_are_scalars_and_empty_containers():
    tree = {"a": {"b": [1, {"c": None}]}, "d": [], "e": {}, "f": (2,)}
    assert list(leaves(tree)) == [
        (("a", "b", 0), 1),
        (("a", "b", 1, "c"), None),
        (("d",), []),
        (("e",), {}),
        (("f", 0), 2),
    ]


# -------------------------------------------------------------------------------------------------
# Overrides
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("010", 10),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("", None),
        ("'5'", "5"),
        ("[1, 2]", [1, 2]),
        ("{a: {b: [1]}}", {"a": {"b": [1]}}),
        ("[]", []),
        (" 7 ", 7),
        ("runs/a=b=c", "runs/a=b=c"),
    ],
)
def test_the_value_of_an_override_is_yaml(load, text, value):
    new = load(f"epochs={text}")["epochs"]
    assert (new, type(new)) == (value, type(value))


def test_an_override_changes_one_value_and_nothing_else(load):
    expected = load()
    expected["optimizer"]["lr"] = 0.5
    assert load("optimizer.lr=0.5") == expected


def test_list_items_by_index(load):
    expected = load()
    expected["transforms"][1]["p"] = 1.0
    expected["transforms"][0]["size"] = [192, 192]
    expected["sizes"][2] = 30
    changed = load("transforms.1.p=1.0", "transforms.0.size=[192, 192]", "sizes.2=30")
    assert changed == expected


def test_an_index_into_a_list_from_another_override(load):
    assert load("sizes=[[1, 2], 3]", "sizes.0.1=9")["sizes"] == [[1, 9], 3]


def test_new_keys_at_any_depth(load):
    changed = load("new.deep.er=1", "optimizer.eps=1e-8", "transforms.0.interpolation=nearest")
    assert changed["new"] == {"deep": {"er": 1}}
    assert changed["optimizer"] == {"name": "AdamW", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8}
    assert changed["transforms"][0] == {"name": "Resize", "size": 256, "interpolation": "nearest"}


def test_null_removes_a_mapping_at_any_depth(load):
    before = load("a.b.c={d: 1}", "a.b.e=2")
    assert load("a.b.c={d: 1}", "a.b.e=2", "a.b.c=null")["a"] == {"b": {"e": 2}}
    assert load("a.b.c={d: 1}", "a.b.e=2", "a.b=null")["a"] == {}
    assert load("a.b.c={d: 1}", "a.b.c=null")["a"] == {"b": {}}
    assert before["a"]["b"]["c"] == {"d": 1}


def test_overrides_apply_in_their_order(load):
    assert load("epochs=1", "epochs=2")["epochs"] == 2
    assert load("optimizer.name=SGD", "optimizer.lr=3")["optimizer"] == {"name": "SGD", "lr": 3}
    assert load("optimizer.lr=3", "optimizer.name=SGD")["optimizer"] == {"name": "SGD"}


def test_spaces_around_the_key_are_ignored(load):
    assert load(" optimizer.lr = 3")["optimizer"]["lr"] == 3


@pytest.mark.parametrize("index", ["3", "-1", "x", "x.0", "9999", "", "1_0", "0x1"])
def test_a_bad_index(load, index):
    rule = f"sizes is a list of 3, .*; {index.split('.')[0]!r} is not an index of it"
    with pytest.raises(ConfigError, match=rf"^the command line \(-o\): {rule}$"):
        load(f"sizes.{index}=1")


@pytest.mark.parametrize("override", ["epochs", "epochs:5", "", "=5", "  =5"])
def test_no_key_or_no_value(load, override):
    with pytest.raises(ConfigError, match=rf"^-o {override}: an override is KEY=VALUE, .*-o "):
        load(override)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("[1, 2", "not YAML"),
        ("{a: 1, a: 2}", "a: the key is given twice"),
        ("!x 1", "the tag '!x' is not allowed"),
        ("{5: 1}", "the key '5' is not a word"),
    ],
)
def test_a_value_that_a_file_refuses_is_refused_in_an_override(load, value, rule):
    with pytest.raises(ConfigError, match=rf"^-o epochs={re.escape(value)}.*{rule}"):
        load(f"epochs={value}")


def test_a_key_that_is_too_deep(load):
    with pytest.raises(ConfigError, match=r"^-o a\.a.*: 5000 levels are more than 100"):
        load(".".join(["a"] * 5000) + "=1")


def test_values_are_never_evaluated(load, tmp_path):
    text = f"__import__('os').mkdir('{tmp_path}/made')"
    assert load(f"epochs={text}")["epochs"] == text
    assert not (tmp_path / "made").exists()


# -------------------------------------------------------------------------------------------------
# Origins
# -------------------------------------------------------------------------------------------------
def test_origins_after_merging(write):
    base = write("base.yaml", "a: 1\nn: {x: 1, y: 1}\nl: [1, 2]\nh: {name: A, z: 1}\nk: {q: 1}\n")
    path = write("a.yaml", "_base_: base.yaml\n\nn: {y: 2}\nl: [3]\nh: {name: B}\nk: {}\n")
    assert get_config(path).origins == {
        ("a",): f"{base}:1",
        ("n", "x"): f"{base}:2",
        ("n", "y"): f"{path}:3",
        ("l", 0): f"{path}:4",
        ("h", "name"): f"{path}:5",
        ("k", "q"): f"{base}:5",
    }


def test_origins_through_bases_of_bases(write):
    one = write("one.yaml", "a: 1\nn: {x: 1, y: 1}\n\nz: 1\n")
    two = write("two.yaml", "_base_: one.yaml\n\nn: {y: 2}\n")
    path = write("a.yaml", "_base_: two.yaml\na: 3\n")
    assert get_config(path, ["z=2"]).origins == {
        ("a",): f"{path}:2",
        ("n", "x"): f"{one}:2",
        ("n", "y"): f"{two}:3",
        ("z",): COMMAND_LINE,
    }


def test_origins_after_overrides(write):
    path = write("a.yaml", "n: {x: 1, y: 1}\nl: [1, 2]\nh: {name: A, z: 1}\n")
    overrides = ["n.y=2", "l.0=5", "h.name=B", "new.key=[1, 2]"]
    assert get_config(path, overrides).origins == {
        ("n", "x"): f"{path}:1",
        ("n", "y"): COMMAND_LINE,
        ("l", 0): COMMAND_LINE,
        ("l", 1): f"{path}:2",
        ("h", "name"): COMMAND_LINE,
        ("new", "key", 0): COMMAND_LINE,
        ("new", "key", 1): COMMAND_LINE,
    }


@pytest.mark.parametrize("path", shipped_configs(), ids=lambda path: path.stem)
def test_every_leaf_of_a_shipped_config_has_an_origin(path):
    cfg = get_config(path, ["seed=3"])
    values = dict(leaves(cfg))
    assert set(cfg.origins) == set(values)
    assert cfg.origins.pop(("seed",)) == COMMAND_LINE
    for keys, origin in cfg.origins.items():
        file, _, line = origin.rpartition(":")
        text = Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        key = next(key for key in reversed(keys) if isinstance(key, str))
        assert f"{key}:" in text or str(values[keys]) in text


# -------------------------------------------------------------------------------------------------
# Finding the file
# -------------------------------------------------------------------------------------------------
def test_there_are_shipped_configs():
    names = {str(path.relative_to(CONFIG_ROOT)) for path in shipped_configs()}
    assert {"digits/convit.yaml", "digits/cvt.yaml", "cvt/cvt_13_224.yaml"} <= names
    assert not any(Path(name).parts[0] == "_base_" for name in names)


@pytest.mark.parametrize("prefix", ["", "configs"])
def test_a_shipped_config_by_its_relative_name(prefix, tmp_path, monkeypatch):
    path = CONFIG_ROOT / "digits" / "convit.yaml"
    expected = get_config(path)
    monkeypatch.chdir(tmp_path)
    cfg = get_config(Path(prefix) / path.relative_to(CONFIG_ROOT))
    assert cfg == expected
    assert cfg.file.samefile(path)


def test_a_local_file_takes_precedence_over_a_shipped_one(write, tmp_path, monkeypatch):
    write("digits/convit.yaml", "mine: true\n")
    write("configs/digits/cvt.yaml", "mine: true\n")
    monkeypatch.chdir(tmp_path)
    assert get_config("digits/convit.yaml").to_dict() == {"mine": True}
    assert get_config("configs/digits/cvt.yaml").to_dict() == {"mine": True}
    assert "model" in get_config("configs/digits/convit.yaml")


def test_a_file_in_the_home_folder(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("mine/a.yaml", "a: 1\n")
    assert get_config("~/mine/a.yaml").to_dict() == {"a": 1}


def test_a_missing_file_suggests_the_closest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"^convit_tini\.yaml: there is no such config file; did you mean (\S+)\?$",
    ) as caught:
        get_config("convit_tini.yaml")
    suggestion = re.search(r"mean (\S+)\?", str(caught.value)).group(1)
    assert find_config(suggestion).samefile(CONFIG_ROOT / "convit" / "convit_tiny.yaml")


def test_a_missing_file_without_a_similar_one(tmp_path):
    path = tmp_path / "qqqqqqqqqqqq.yaml"
    with pytest.raises(ConfigError, match=rf"^{path}: there is no such config file$"):
        find_config(path)


def test_a_folder_is_not_a_config(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, not a config file"):
        find_config(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=f"name {tmp_path}/config.yaml$"):
        find_config(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a regular file"):
        find_config(tmp_path / "pipe")


# -------------------------------------------------------------------------------------------------
# Paths
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def places(monkeypatch):
    monkeypatch.setenv("HOME", "/h/me")
    monkeypatch.setenv("DATA", "/big/data")
    monkeypatch.setenv("DOLLAR", "/a$b")
    monkeypatch.setenv("TILDE", "~/x")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOTHING", raising=False)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("runs/x", "runs/x"),
        ("'~'", "/h/me"),
        ("~/runs", "/h/me/runs"),
        ("a/~/b", "a/~/b"),
        ("./~", "./~"),
        ("$HOME/runs", "/h/me/runs"),
        ("${DATA}/train", "/big/data/train"),
        ("x-$DATA-${HOME}", "x-/big/data-/h/me"),
        ("$DATA.tar", "/big/data.tar"),
        ("${DATA}/a-{000..031}.tar", "/big/data/a-{000..031}.tar"),
        ("/mnt/c$$/data", "/mnt/c$/data"),
        ("$$HOME", "$HOME"),
        ("$DOLLAR/x", "/a$b/x"),
        ("$TILDE/y", "/h/me/x/y"),
        ("https://host/~me/$file", "https://host/~me/$file"),
    ],
)
@pytest.mark.parametrize(
    "key", ["output_dir", "model.pretrained", "data.dataroot", "data.class_file", "data.labels"]
)
def test_paths_are_expanded(load, places, text, path, key):
    tree = load(f"{key}={text}")
    for name in key.split("."):
        tree = tree[name]
    assert tree == path


def test_paths_of_files_and_bases_are_expanded(write, places, tmp_path, monkeypatch):
    monkeypatch.setenv("BASES", str(tmp_path / "bases"))
    write("bases/base.yaml", "data: {dataroot: ~/d, list_file: $DATA/l.txt}\n")
    cfg = get_config(write("a.yaml", "_base_: $BASES/base.yaml\noutput_dir: ${DATA}/runs\n"))
    assert cfg.to_dict() == {
        "data": {"dataroot": "/h/me/d", "list_file": "/big/data/l.txt"},
        "output_dir": "/big/data/runs",
    }
    assert cfg.origins["data", "dataroot"] == f"{tmp_path}/bases/base.yaml:1"


def test_other_texts_are_not_paths(load, places):
    classes = ["$HOME", "~", "US$", "${NOTHING}"]
    tree = load(f"labels={classes}", "title=~/$NOTHING", "weights=[$HOME]", "class_names=[$DATA]")
    assert tree["labels"] == classes
    assert tree["title"] == "~/$NOTHING"
    assert tree["weights"] == ["$HOME"]
    assert tree["class_names"] == ["$DATA"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("$NOTHING/x", "the environment variable NOTHING is not set"),
        ("a/${NOTHING}", "the environment variable NOTHING is not set"),
        ("$EMPTY/x", "the environment variable EMPTY is not set"),
        ("/mnt/c$/data", "write $$ for a dollar sign"),
        ("${DATA:-/tmp}/x", "write $$ for a dollar sign"),
        ("~no-such-user/x", "there is no user no-such-user"),
    ],
)
def test_paths_that_cannot_be_expanded(write, places, text, rule):
    path = write("a.yaml", f"a: 1\noutput_dir: {text}\n")
    with pytest.raises(ConfigError) as caught:
        get_config(path, [f"data.dataroot={text}"])
    own, told = caught.value.problems
    assert own.startswith(f"{path}:2: output_dir: {text}: ")
    assert told.startswith(f"the command line (-o): data.dataroot: {text}: ")
    assert rule in own
    assert rule in told


def test_a_base_that_cannot_be_expanded(write, places):
    path = write("a.yaml", "a: 1\n_base_: $NOTHING/a.yaml\n")
    with pytest.raises(ConfigError, match=rf"^{path}:2: _base_: .* variable NOTHING is not set"):
        get_config(path)


def test_a_path_that_is_overridden_is_not_expanded(write, places):
    path = write("a.yaml", "output_dir: $NOTHING/x\n")
    assert get_config(path, ["output_dir=runs/x"]).output_dir == "runs/x"


def test_a_stored_config_is_the_same_everywhere(load, places, write, monkeypatch):
    """It has what paths came to, and reads back to it whatever the variables are then."""
    tree = load("output_dir=$DOLLAR/x", "data.dataroot=~/d", "data.split=$x", "data.list_file=a$$b")
    monkeypatch.setenv("HOME", "/h/other")
    monkeypatch.setenv("b", "/c")
    path = write("stored.yaml", to_yaml(storable(tree)))
    assert get_config(path).to_dict() == tree
    assert tree["data"] == {"dataroot": "/h/me/d", "split": "$x", "list_file": "a$b"}


# -------------------------------------------------------------------------------------------------
# Read-only data
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def cfg() -> Config:
    tree, origins = parse(BASE, "base.yaml")
    return Config(tree, origins, Path("base.yaml"))


def test_items_and_attributes_are_the_same(cfg):
    assert cfg.optimizer.lr == cfg["optimizer"]["lr"] == 1e-3
    assert cfg.transforms[1].name == cfg["transforms"][1]["name"] == "Flip"
    assert list(cfg) == ["epochs", "optimizer", "transforms", "sizes", "empty"]
    assert len(cfg) == 5
    assert "epochs" in cfg
    assert cfg.get("gone", 7) == 7


def test_lists_are_tuples_and_mappings_are_configs(cfg):
    assert cfg.sizes == (1, 2, 3)
    assert cfg.empty == ()
    assert isinstance(cfg.transforms, tuple)
    assert all(isinstance(node, Config) for node in (cfg.optimizer, *cfg.transforms))
    assert Config({"a": [[1, [2]], {"b": [3]}]}).a == ((1, (2,)), Config({"b": [3]}))


def test_a_missing_key(cfg):
    with pytest.raises(AttributeError, match=r"no 'momentum' here; it has name, lr, betas"):
        cfg.optimizer.momentum  # noqa: B018
    with pytest.raises(KeyError, match="momentum"):
        cfg.optimizer["momentum"]
    with pytest.raises(AttributeError, match="nothing"):
        Config({}).anything  # noqa: B018
    assert not hasattr(cfg, "momentum")
    assert getattr(cfg, "momentum", 0.9) == 0.9


@pytest.mark.parametrize("key", ["epochs", "new", "file", "origins", "_data"])
def test_attributes_are_read_only(cfg, key):
    before = cfg.to_dict()
    with pytest.raises(TypeError, match=rf"read-only: '{key}'"):
        setattr(cfg, key, 1)
    with pytest.raises(TypeError, match=rf"read-only: '{key}'"):
        delattr(cfg, key)
    with pytest.raises(TypeError, match="read-only"):
        cfg.optimizer.lr = 1
    assert cfg.to_dict() == before
    assert cfg.file == Path("base.yaml")


def test_items_are_read_only(cfg):
    before = cfg.to_dict()
    with pytest.raises(TypeError, match="item assignment"):
        cfg["epochs"] = 1
    with pytest.raises(TypeError, match="item deletion"):
        del cfg["epochs"]
    with pytest.raises(TypeError, match="item assignment"):
        cfg.sizes[0] = 1
    with pytest.raises(TypeError, match="item assignment"):
        cfg.transforms[0]["size"] = 1
    assert cfg.to_dict() == before


def test_to_dict_is_a_copy_of_plain_data(cfg):
    copied = cfg.to_dict()
    assert copied == parse(BASE, "base.yaml")[0]
    assert type(copied["optimizer"]) is dict
    assert type(copied["sizes"]) is list
    assert type(copied["transforms"][0]) is dict
    copied["optimizer"]["lr"] = 0
    copied["transforms"][0]["size"] = 0
    copied["sizes"].append(4)
    assert cfg.optimizer.lr == 1e-3
    assert cfg.transforms[0].size == 256
    assert cfg.sizes == (1, 2, 3)


def test_input_mapping_is_not_modified():
    data, origins = {"a": {"b": [1]}}, {("a", "b", 0): "f:1"}
    cfg = Config(data, origins)
    data["a"]["b"].append(2)
    data["c"] = 1
    origins.clear()
    assert cfg.to_dict() == {"a": {"b": [1]}}
    assert cfg.origins == {("a", "b", 0): "f:1"}


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg))],  # noqa: S301
    ids=["copy", "deepcopy", "pickle"],
)
def test_round_trip_of_a_config(cfg, clone):
    other = clone(cfg)
    assert type(other) is Config
    assert other == cfg
    assert (other.to_dict(), other.origins, other.file) == (cfg.to_dict(), cfg.origins, cfg.file)
    assert other.optimizer.lr == 1e-3
    with pytest.raises(TypeError, match="read-only"):
        other.epochs = 1


def test_round_trip_through_yaml(cfg):
    assert parse(to_yaml(cfg), "again.yaml")[0] == cfg.to_dict()


def test_repr_shows_the_data():
    assert repr(Config({"a": {"b": [1]}})) == "Config({'a': {'b': [1]}})"


# -------------------------------------------------------------------------------------------------
# Words for messages
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "words", "expected"),
    [
        ("batchsize", ["shuffle", "batch_size"], "; did you mean 'batch_size'?"),
        ("zzz", ["b", "a"], "; there are a, b"),
        ("zzz", ["a"], "; there is a"),
        ("zzz", [], ""),
    ],
)
def test_closest(word, words, expected):
    assert closest(word, words) == expected


def test_config_root_is_found_from_the_package():
    assert (CONFIG_ROOT / "_base_" / "digits.yaml").is_file()
    assert os.path.isabs(CONFIG_ROOT)


def test_a_value_is_filled_in_where_there_is_none(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("head: {name: A, width: null, classes: 3}\n")
    cfg = get_config(path)
    full = cfg.filled(("head", "width"), 8).filled(("head", "classes"), 4)
    full = full.filled(("other", "key"), 1)
    assert full.to_dict() == {"head": {"name": "A", "width": 8, "classes": 3}, "other": {"key": 1}}
    assert full.origins["head", "width"] == "derived"
    assert full.origins["head", "classes"] == f"{path}:1"
    assert (full.file, cfg.head.width) == (path, None)


def test_base_is_a_shipped_config(tmp_path):
    (tmp_path / "own.yaml").write_text("_base_: digits/convit\nepochs: 7\n")
    cfg = get_config(tmp_path / "own.yaml")
    assert (cfg.epochs, cfg.model.architecture.name) == (7, "ConViT")


def test_base_beside_the_file_precedes_a_shipped_one(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "convit.yaml").write_text("epochs: 3\n")
    (tmp_path / "own.yaml").write_text("_base_: digits/convit.yaml\n")
    assert get_config(tmp_path / "own.yaml").to_dict() == {"epochs": 3}
