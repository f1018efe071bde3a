"""`passl visualize gates` and `positions`."""

from __future__ import annotations

import argparse
import json

import numpy as np
import paddle
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from passl.analysis import positions
from passl.analysis.gates import draw_now, draw_over_epochs, over_epochs
from passl.cli import visualize
from passl.errors import ConfigError
from passl.modeling import Model
from passl.porting.weight_file import OURS
from passl.utils.config import get_config
from tests.attention_nets import CONVIT, model_of


def call(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    visualize.add_options(parser)
    visualize.main(parser.parse_args([*map(str, arguments)]))


@pytest.fixture
def run_of(tiny_config, tmp_path):
    """The folder of a run with a checkpoint and these rows in its metrics."""

    def write(name: str, rows=(), *overrides: str):
        cfg = get_config(tiny_config(name), overrides)
        paddle.seed(0)
        arrays = {key: value.numpy() for key, value in Model(cfg).state_dict().items()}
        folder = tmp_path / f"run_{name}"
        folder.mkdir()
        told = {"config": cfg.to_dict(), "classes": [f"数字 {i}" for i in range(10)]}
        metadata = {OURS: "0", **{key: json.dumps(value) for key, value in told.items()}}
        save_file(arrays, folder / "best.safetensors", metadata)
        lines = [json.dumps({"phase": "val", "step": 3, "epoch": 1, "top1": 1.0}), *rows]
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return folder

    return write


def row(epoch: int, **blocks) -> str:
    return json.dumps({"phase": "attention", "step": 9 * epoch, "epoch": epoch, "blocks": blocks})


def rows():
    return [
        row(
            epoch,
            **{
                "blocks.0": {
                    "kind": "GPSA",
                    "gate": [0.7 - epoch / 10, 0.7],
                    "center_x": [1, None],
                },
                "blocks.1": {"kind": "MHSA", "entropy": [epoch, 2.0]},
            },
        )
        for epoch in range(4)
    ]


def lines_of(axes) -> dict[str, list[float]]:
    """The values of each line but the mean, which is the first."""
    return {f"head {i}": [*line.get_ydata()] for i, line in enumerate(axes.get_lines()[1:])}


def test_block_that_has_the_measure_in_some_epochs_only():
    """Blocks of a run that was resumed with another config."""
    read = [json.loads(row(1, a={"gate": [0.5]}, b={"gate": [0.4]}))]
    read.append(json.loads(row(2, b={"gate": [0.3]})))
    figure = draw_over_epochs(over_epochs(read, "gate"), "gate")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]


def test_lines_are_the_values_of_the_heads():
    read = [json.loads(line) for line in rows()]
    figure = draw_over_epochs(over_epochs(read, "gate"), "gate", "运行")
    (panel,) = figure.axes
    assert panel.get_title() == "blocks.0"
    heads = lines_of(panel)
    assert heads == {"head 0": pytest.approx([0.7, 0.6, 0.5, 0.4]), "head 1": [0.7] * 4}
    assert [*panel.get_lines()[0].get_ydata()] == pytest.approx([0.7, 0.65, 0.6, 0.55])
    assert [*panel.get_lines()[1].get_xdata()] == [0, 1, 2, 3]
    # A head without a value has none in the mean either.
    (panel,) = draw_over_epochs(over_epochs(read, "center_x"), "center_x").axes
    assert [*panel.get_lines()[0].get_ydata()] == [1] * 4
    assert np.isnan(lines_of(panel)["head 1"]).all()


def test_weights_alone_are_one_column_for_each_block():
    figure = draw_now({"blocks.0": [0.1, 0.9], "blocks.1": [0.4, None]}, "gate")
    (axes,) = figure.axes
    first, second = axes.get_lines()
    assert [*first.get_ydata()] == [0.1, 0.4]
    assert second.get_ydata()[0] == 0.9
    assert np.isnan(second.get_ydata()[1])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["blocks.0", "blocks.1"]


def test_gates_of_a_run_and_of_weights(run_of, capsys):
    folder = run_of("ConViT", rows())
    call("gates", folder)
    call("gates", folder, "--measure", "entropy", "--out", folder / "entropy.svg")
    call("gates", folder / "best.safetensors", "--out", folder / "now.png")
    files = [folder / name for name in ("gates.png", "entropy.svg", "now.png")]
    assert capsys.readouterr().out.splitlines() == [*map(str, files)]
    assert all(file.stat().st_size > 1000 for file in files)
    with pytest.raises(ConfigError, match="--force"):
        call("gates", folder)
    with pytest.raises(ConfigError, match=r"no block of this run has width; .*gate, entropy, cent"):
        call("gates", folder, "--measure", "width", "--force")
    without = folder / "best.safetensors"
    for measure, word in (
        ("entropy", r"which a run with log_config\.attention has"),
        ("gat", "did you mean 'gate'"),
    ):
        with pytest.raises(ConfigError, match=word):
            call("gates", without, "--measure", measure, "--out", folder / "other.png")


def test_a_network_without_positional_attention(run_of):
    folder = run_of("CvT")
    for figure, way in (("gates", "distance, nonlocality"), ("positions", "local_up_to_layer")):
        with pytest.raises(ConfigError, match=way):
            call(figure, folder)
        assert not (folder / f"{figure}.png").exists()
    call("gates", run_of("ConViT"), "--measure", "width")


def test_an_untrained_network_has_its_initial_positions(run_of, monkeypatch):
    """The second of two heads starts at random weights, which the seed of the run draws again."""
    folder = run_of("ConViT", (), "model.architecture.num_heads=2")
    drawn = []
    monkeypatch.setattr(positions, "draw_positions", lambda *args: drawn.append(args) or Figure())
    call("positions", folder, "--size", 64, 96)
    ((initial, learned, _),) = drawn
    for before, after in zip(initial, learned, strict=True):
        assert after.maps_HYX.shape == (2, 8, 12)
        np.testing.assert_array_equal(before.maps_HYX, after.maps_HYX)


def test_positions_are_rows_of_the_positional_attention():
    model = model_of(CONVIT)
    learned = positions.center_positions(model, 40, 24)
    assert [one.block for one in learned] == ["blocks.0", "blocks.1"]
    for one, block in zip(learned, model.backbone.blocks, strict=False):
        assert one.center == (2, 1)
        whole = block.attn.position_weights((5, 3)).numpy()[:, 2 * 3 + 1]
        np.testing.assert_allclose(one.maps_HYX.reshape(4, -1), whole, rtol=1e-6)
    figure = positions.draw_positions(learned, learned, "标题")
    assert len(figure.axes) == 2 * 2 * 4
