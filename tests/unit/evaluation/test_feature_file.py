"""Feature files: written in parts, complete or not there, and read back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from passl.errors import ConfigError
from passl.evaluation.feature_file import (
    Unfinished,
    labels_beside,
    output_problems,
    read_features,
)
from tests.full_disk import file_limit

ROWS = np.random.default_rng(0).normal(size=(7, 3, 2)).astype("float32")
LABELS = np.arange(7) % 2
NAMES = ["a/1.png", "图.png", "caf\udce9.png", *"4567"]
ABOUT = {"layer": 1, "sizes": (1, 2)}


def write(out, rows=ROWS, about=ABOUT, until=7):
    """Write rows as far as `until`, and the output if these are all."""
    unfinished = Unfinished(out, rows.shape, rows.dtype.name, about)
    for start in range(unfinished.done, until, 2):
        unfinished.append(rows[start : min(start + 2, until)])
    if until == len(rows):
        unfinished.finish(LABELS, NAMES, ["cat", "dog"])
    return unfinished


@pytest.mark.parametrize("ending", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_is_read_as_it_was_written(tmp_path, ending, dtype):
    out = tmp_path / f"f{ending}"
    write(out, ROWS.astype(dtype))
    found = read_features(out)
    np.testing.assert_array_equal(found.values, ROWS.astype(dtype))
    assert found.values.dtype == dtype
    assert found.labels.tolist() == LABELS.tolist()
    assert found.names.tolist() == NAMES
    assert found.classes == ["cat", "dog"]
    assert found.about == {"layer": 1, "sizes": [1, 2]}
    beside = [] if ending == ".npz" else [labels_beside(out)]
    assert sorted(tmp_path.iterdir()) == sorted([out, *beside])


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_an_interrupted_file_is_continued(tmp_path, ending):
    whole, parts = tmp_path / f"whole{ending}", tmp_path / f"parts{ending}"
    write(whole)
    write(parts, until=4)
    with pytest.raises(ConfigError, match="is unfinished; call `passl features` as before"):
        read_features(parts)
    assert list(output_problems(parts)) == []
    assert Unfinished(parts, ROWS.shape, "float32", ABOUT).done == 4
    write(parts)
    np.testing.assert_array_equal(read_features(parts).values, ROWS)
    if ending == ".npy":
        assert parts.read_bytes() == whole.read_bytes()


def test_an_interruption_between_the_two_files_is_continued(tmp_path, monkeypatch):
    out = tmp_path / "f.npy"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("passl.evaluation.feature_file.os.replace", interrupted_by(".npy"))
        write(out)
    assert labels_beside(out).exists()
    assert not out.exists()
    assert list(output_problems(out)) == []
    write(out)
    np.testing.assert_array_equal(read_features(out).values, ROWS)


def interrupted_by(ending):
    from os import replace

    def move(source, target):
        if str(target).endswith(ending):
            raise KeyboardInterrupt
        replace(source, target)

    return move


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": {**ABOUT, "layer": 2}}, "it differs in layer"),
        ({"rows": ROWS.astype("float16")}, "it differs in shape"),
        ({"rows": ROWS[:, :2]}, "it differs in shape"),
    ],
)
def test_an_unfinished_file_of_something_else_is_refused(tmp_path, change, message):
    out = tmp_path / "f.npy"
    write(out, until=4)
    with pytest.raises(ConfigError, match=message):
        write(out, **change)
    write(out)
    np.testing.assert_array_equal(read_features(out).values, ROWS)


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"done": 99, "about": {}}', '{"done": "1", "about": {}}']
)
def test_a_damaged_record_is_refused(tmp_path, record):
    out = tmp_path / "f.npy"
    write(out, until=4)
    (tmp_path / "f.npy.partial" / "record.json").write_text(record)
    with pytest.raises(ConfigError, match="is damaged .* remove .* to begin again"):
        write(out)
    shutil.rmtree(tmp_path / "f.npy.partial")
    write(out)


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path):
    out = tmp_path / "f.npy"
    unfinished = write(out, until=2)
    with file_limit(128 + 2 * ROWS[0].nbytes), pytest.raises(OSError, match="features.npy"):
        unfinished.append(ROWS[2:6])
    assert json.loads((tmp_path / "f.npy.partial" / "record.json").read_text())["done"] == 2
    write(out)
    np.testing.assert_array_equal(read_features(out).values, ROWS)


def test_files_are_not_overwritten(tmp_path):
    for name in ("f.npy", "f.npz", "g.txt", "none/h.npy"):
        if name.startswith("f"):
            write(tmp_path / name)
        assert len(list(output_problems(tmp_path / name))) >= 1, name
    labels_beside(tmp_path / "lone.npy").touch()
    (problem,) = output_problems(tmp_path / "lone.npy")
    assert "lone.labels.npz: is there already" in problem


def damage(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damaged_files_are_refused(tmp_path):
    for ending in (".npy", ".npz"):
        out = tmp_path / f"f{ending}"
        write(out)
        whole = out.read_bytes()
        for place in (len(whole) - 3, len(whole) // 2, 140):
            damage(out, place)
            if ending == ".npy" or place < len(whole) - 3:
                with pytest.raises(ConfigError, match="is damaged"):
                    read_features(out)
            out.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(ConfigError, match="is damaged"):
                read_features(out)
            out.write_bytes(whole)
    beside = labels_beside(tmp_path / "f.npy")
    beside.write_bytes(beside.read_bytes()[:100])
    with pytest.raises(ConfigError, match="is damaged"):
        read_features(tmp_path / "f.npy")
    beside.unlink()
    with pytest.raises(ConfigError, match=r"has no labels; .*f\.labels\.npz is missing"):
        read_features(tmp_path / "f.npy")


def test_other_files_are_refused_and_nothing_in_them_is_executed(tmp_path):
    with pytest.raises(ConfigError, match="there is no such feature file"):
        read_features(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match=r"must end in \.npy or \.npz"):
        read_features(tmp_path / "f.txt")
    pickled = np.array([{"a": 1}], dtype=object)
    write(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        good = dict(file)
    changes = {
        "features": [pickled, ROWS[:3], ROWS[:, 0, 0], ROWS.astype("float64")],
        "labels": [pickled, LABELS.astype("float64"), LABELS[:, None]],
        "names": [pickled, good["names"][:2]],
        "about": [pickled, np.array("{"), np.array("")],
    }
    for key, values in changes.items():
        for value in values:
            path = tmp_path / "bad.npz"
            np.savez(path, **{**good, key: value})
            with pytest.raises(ConfigError, match="is damaged, or was not written by"):
                read_features(path)
