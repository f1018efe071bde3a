"""Where the time of a trace goes, and the trace of a tiny training."""

from __future__ import annotations

import json

import pytest

from passl.analysis.profile import profile
from passl.analysis.trace import Event, costs, outermost, read_trace
from passl.engine.run_folder import check_start
from passl.utils.config import get_config


def event(name: str, start: float, duration: float, thread: str = "a") -> Event:
    return Event(name, "Operator", thread, start, duration)


def test_time_without_what_is_inside():
    """attn (0 to 10) has two products (1 to 4, 5 to 9); the second calls itself (6 to 8). Another
    thread runs beside it.
    """
    events = [
        event("matmul", 6, 2),
        event("attn", 0, 10),
        event("matmul", 1, 3),
        event("read", 2, 5, thread="b"),
        event("matmul", 5, 4),
        event("norm", 10, 1),
    ]
    found = costs(events)
    assert {name: (c.calls, c.total, c.own) for name, c in found.items()} == {
        "attn": (1, 10, 3),
        "matmul": (3, 7, 7),
        "norm": (1, 1, 1),
        "read": (1, 5, 5),
    }
    assert [e.name for e in outermost(events)] == ["attn", "norm", "read"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two steps of a tiny ConViT in two parts each: config, trace and printed lines."""
    folder = tmp_path_factory.mktemp("run")
    network = "{patch_size: 8, embed_dim: 16, depth: 2, num_heads: 4, local_up_to_layer: 1}"
    cfg = get_config(
        "digits/convit",
        [
            f"model.architecture={{name: ConViT, img_size: 32, {network[1:]}",
            "model.head.in_channels=16",
            f"output_dir={folder}",
            "accumulate=2",
            "dataloader.train.loader.num_workers=0",
        ],
    )
    started_in = tmp_path_factory.mktemp("started")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(started_in)
        lines = profile(cfg, 2, folder / "profile.json")
    assert list(started_in.iterdir()) == []  # Paddle's own default writes there
    return folder, read_trace(folder / "profile.json"), lines


def test_the_trace_has_each_layer_of_the_recorded_steps_only(recorded):
    folder, events, _ = recorded
    calls = costs(events)
    assert calls["training step"].calls == calls["reading"].calls == 2
    # Two steps of two parts each; a name of the network, not of a class.
    for name in ("backbone", "backbone.blocks.0.attn.qk", "backbone.blocks.1.mlp.fc1", "head"):
        assert calls[f"layer {name}"].calls == 4, name
    assert calls["layer backbone.blocks.0.attn.qk"].total < calls["layer backbone"].total
    assert calls["layer backbone"].total < calls["training step"].total
    with (folder / "profile.json").open() as file:
        assert json.load(file)["traceEvents"]  # Chrome's format


def test_the_tables_add_up(recorded):
    _, events, lines = recorded
    whole = float(lines[0].split()[2])
    tables = "\n".join(lines).split("\n\n")[1:]
    phases, operators, layers = ([line.split() for line in t.splitlines()[1:]] for t in tables)
    assert sum(float(row[-4]) for row in phases) == pytest.approx(whole, abs=0.06)
    assert [row[0] for row in phases] == [
        "reading",
        "mixup",
        "forward",
        "backward",
        "optimizer",
        "the",
    ]
    assert all(float(row[-2]) >= 0 for row in [*phases, *operators, *layers])
    own = sum(float(row[-2]) for row in operators)
    assert own == pytest.approx(
        sum(c.own for c in costs(e for e in events if e.kind == "Operator").values()) / 2000,
        abs=0.02,
    )
    assert own < whole
    assert "matmul" in {row[0] for row in operators}
    shown = [row[0] for row in layers]
    assert shown[0] == "backbone" and "backbone.blocks.0.attn" in shown
    assert "backbone.blocks.0.attn.qk" not in shown  # deeper than the table goes


def test_a_run_can_start_in_the_folder(recorded):
    folder, _, _ = recorded
    assert [path.name for path in folder.iterdir()] == ["profile.json"]
    check_start(folder, None)
