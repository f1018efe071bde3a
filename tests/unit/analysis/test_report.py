"""The report is complete, self-contained, safe and readable, in a parser and in a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import save_file

from passl.analysis.charts import chart
from passl.analysis.compare import read_runs
from passl.analysis.report import write_report
from passl.analysis.report_attention import attention_part
from passl.analysis.report_evaluation import evaluation_of
from passl.analysis.run_facts import changes, read_starts, remarks, timing
from passl.errors import ConfigError
from passl.modeling import Model
from passl.porting.weight_file import OURS
from passl.utils.config import Config
from passl.utils.yaml import to_yaml
from tests.browser import CONTRAST, show_as
from tests.images import noise

SCRIPT = "<script>alert(1)</script>"
CLASSES = [
    SCRIPT,
    "数字 $1$",
    "a class with a very long name" + ", very long" * 10,
    '" onload="alert(2)',
]
START = {
    "time": "2026-11-22T01:39:08+00:00",
    "host": f"{SCRIPT}",
    "world_size": 1,
    "device": "cpu",
    "cpu": "a processor",
    "argv": ["tools/train.py", "-c", f"configs/{SCRIPT}.yaml"],
    "folder": "/somewhere",
    "passl": "0.1.0",
    "recipe": "digits/cvt",
    "versions": {"paddlepaddle": "3.3.1"},
    "resumed_from": None,
    "epoch": 0,
    "step": 0,
    "error": None,
}


def write_run(folder: Path, data: Path, epochs: int = 6) -> Path:
    """The folder of a run with its data, whose names are hostile, and an untrained network."""
    node = {
        "name": "ImageList",
        "dataroot": str(data),
        "list_file": str(data / "list.txt"),
        "class_file": str(data / "classes.txt"),
        "transforms": [{"name": "Normalize"}],
    }
    config = {
        "epochs": 7,
        "output_dir": str(folder),
        "seed": 0,
        "model": {
            "architecture": {
                "name": "ConViT",
                "img_size": 32,
                "patch_size": 8,
                "embed_dim": 16,
                "depth": 2,
                "num_heads": 4,
                "local_up_to_layer": 1,
            },
            "head": {"name": "ClsHead", "num_classes": len(CLASSES), "in_channels": 16},
        },
        "dataloader": {
            part: {"dataset": node, "sampler": {"batch_size": 4}} for part in ("train", "val")
        },
        "loss": {"name": "CrossEntropy"},
        "optimizer": {"name": "AdamW", "lr": 0.01},
        "lr_scheduler": {"name": "Cosine"},
        "log_config": {"interval": 2},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    paddle.seed(0)
    cfg = Config(config)
    weights = {name: value.numpy() for name, value in Model(cfg).state_dict().items()}
    told = {"config": json.dumps(config), "classes": json.dumps(CLASSES)}
    save_file(weights, folder / "best.safetensors", {OURS: "0", **told})
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "step": 10 * epoch, "time": 100.0 * epoch}
        times = {"batch_cost": 0.5, "reader_cost": 0.2, "ips": 64.0}
        rows.append({"phase": "train", **row, "lr": 0.1 / epoch, "loss": 2 / epoch, **times})
        scores = {"top1": 10.0 * epoch, "top5": 90.0}
        loss = 1 + (epoch - 2) ** 2 / 10  # the lowest in epoch 2
        rows.append({"phase": "val", **row, "loss": loss, "samples": 8, "ips": 4.0, **scores})
        blocks = {
            "0": {"kind": "GPSA", "gate": [0.5, 0.125 * epoch], "entropy": [1.0, None]},
            "1": {"kind": "MHSA", "entropy": [20.0, 1e-5]},
        }
        rows.append({"phase": "attention", **row, "images": 8, "mode": "paper", "blocks": blocks})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = {"resumed_from": "last.safetensors", "epoch": 2, "step": 25}
    starts = [START, START | again, START | {"error": f"RunError: {SCRIPT}"}]
    (folder / "starts.jsonl").write_text("".join(json.dumps(s) + "\n" for s in starts) + '{"cut')
    (folder / "nonfinite_step_12.txt").touch()
    line = "[2026/11/22 01:40:00] passl WARNING: bad sample 1, left out: a.png: cannot be read\n"
    fine = "[2026/11/22 01:40:01] passl INFO: the run a: its WARNING: is no warning\n"
    (folder / "train.log").write_text(f"{2 * line}{fine}")
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data")
    (data / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    lines = []
    for index in range(8):
        noise(32, 32, index).save(data / f"{index}<b>.png")
        lines.append(f"{index}<b>.png {index % len(CLASSES)}\n")
    (data / "list.txt").write_text("".join(lines))
    return write_run(tmp_path_factory.mktemp("runs") / "run <b>&amp;", data)


@pytest.fixture(scope="module")
def report(run_folder) -> Path:
    """The report on the run and on the same one without its data."""
    other = shutil.copytree(run_folder, run_folder.parent / "other")
    (other / "best.safetensors").unlink()
    out = run_folder.parent / "report.html"
    write_report([run_folder, other], out)
    return out


class Page(HTMLParser):
    """What a test looks for in a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._is_script = tag == "script"

    def handle_endtag(self, tag):
        self._is_script = False

    def handle_data(self, data):
        (self.scripts if self._is_script else self.texts).append(data)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_foreign_text_is_only_text(page):
    """Names of classes, files and runs, settings and errors make no element and no attribute."""
    text = "".join(page.texts)
    for name in (*CLASSES[:2], "0<b>.png", "run <b>&amp;", f"configs/{SCRIPT}.yaml"):
        assert name in text
    own = [script for script in page.scripts if not script.startswith("{")]
    assert len(own) == 1
    assert not [script for script in page.scripts if "alert" in script]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert "b" not in [tag for tag, _ in page.tags]
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_nothing_is_loaded_and_everything_is_labelled(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        for key in ("src", "href", "data", "action", "poster", "srcset"):
            value = attrs.get(key) or "#"
            assert value.startswith(("#", "data:image/")), (tag, value)
            assert value == "#" or value[0] != "#" or value[1:] in ids
        if tag == "img":
            assert attrs["alt"]
        if tag == "th":
            assert attrs["scope"] in ("col", "row")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_what_the_report_tells(page, run_folder):
    text = "".join(page.texts)
    for part in (
        "60.00 %",  # the best score, in epoch 6
        "6 of 7",
        "evaluated for this report on 8 images",
        "mistakes on 8 images",
        "best.safetensors is not there",  # of the other run
        "digits/cvt",
        "optimizer.lr",
        "paddlepaddle",
        f"RunError: {SCRIPT}",
    ):
        assert part in text, part


def test_attention_over_the_epochs(run_folder):
    (run,) = read_runs([run_folder])
    part = attention_part(run, {})
    assert part["head"][:3] == ["block", "kind", "head"]
    assert part["rows"] == [
        ["0", "GPSA", 0, "0.5", "1"],
        ["0", "GPSA", 1, "0.75", None],
        ["1", "MHSA", 0, None, "20"],
        ["1", "MHSA", 1, None, "1e-05"],
    ]
    gates, entropies = part["charts"]
    (line,) = gates.lines
    assert (line.name, line.xs, line.ys[-1]) == ("0", [1, 2, 3, 4, 5, 6], 0.625)
    assert [each.ys[0] for each in entropies.lines] == pytest.approx([1.0, 10.000005])


def test_attention_is_measured_for_a_run_that_has_not(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(r for r in rows if '"attention"' not in r))
    (run,) = read_runs([folder])
    evaluation = evaluation_of(run, 1)
    assert evaluation.maps.startswith("data:image/png;base64,")
    part = attention_part(run, evaluation.attention)
    assert [row[:3] for row in part["rows"][::4]] == [
        ["blocks.0", "GPSA", 0],
        ["blocks.1", "MHSA", 0],
    ]
    assert part["charts"] == []
    assert attention_part(run, {}) is None


def test_remarks(run_folder):
    (run,) = read_runs([run_folder])
    starts = read_starts(run_folder)
    assert len(starts) == 3  # the last line is cut short
    found = remarks(run, starts)
    words = ("6 of 7 epochs", "resumed once", "start failed", "step 12", "40 % of the training")
    words += ("lowest in epoch 2 (1.0000)", "cannot be read (twice)")
    assert len(found) == len(words)
    for remark, word in zip(found, words, strict=True):
        assert word in remark
    time = timing(run)
    assert (time.training, time.waiting, time.evaluation, time.wall) == (30, 12, 12, 500)


def test_overfitting_needs_a_rise_and_a_falling_training_loss(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    def remarked(**changed) -> bool:
        lines = [
            row | {k: v(row["epoch"]) for k, v in changed.get(row["phase"], {}).items()}
            for row in rows
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        return any("overfitting" in text for text in remarks(read_runs([folder])[0], []))

    assert remarked()
    assert not remarked(train={"loss": lambda epoch: 1 + epoch})
    assert not remarked(val={"loss": lambda epoch: 1 / epoch})
    assert not remarked(val={"loss": lambda epoch: 1 + 0.04 * (epoch > 2)})
    assert not remarked(val={"loss": lambda epoch: 1 if epoch == 4 else 2})  # too late to tell


def test_differences_from_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    config = {
        "epochs": 5,
        "model": {"head": {"name": "ClsHead"}, "list": [1, 2]},
        "loss": {"name": "A", "smoothing": 0.1},
        "output_dir": "a",
    }
    recipe.write_text(to_yaml(config))
    settings = {
        "epochs": 5,
        "model.head.name": "ClsHead",
        "model.head.num_classes": 3,  # derived from the data, as the next one
        "model.head.in_channels.0": 3,
        "model.head.drop_rate": 0.5,
        "model.list.0": 1,
        "loss.name": "A",
        "loss.smoothing": 0,
        "output_dir": "b",
    }
    found = {each.key: (each.before, each.after) for each in changes(settings, str(recipe))}
    assert found == {
        "model.list.1": ("2", None),
        "loss.smoothing": ("0.1", "0"),
        "model.head.drop_rate": (None, "0.5"),
    }


def test_chart_has_the_extremes_and_no_infinity():
    xs = np.linspace(0.01, 30, 5000)
    ys = np.sin(xs)
    ys[1234] = 9.0
    points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    made = chart("Loss", [("a", points), ("b", [(1.0, float("nan"))]), ("c", [(2.0, -3.0)])])
    a, c = made.lines
    assert (a.name, c.name, c.ys) == ("a", "c", [-3.0])  # a line without a finite point is none
    assert len(a.xs) < 1000
    assert max(a.ys) == 9.0
    assert min(a.ys) == ys.min()
    assert (a.xs[0], a.xs[-1]) == (xs[0], xs[-1])
    assert a.xs == sorted(a.xs)
    assert made.y_ticks[0][1] >= 0
    assert made.y_ticks[-1][1] <= 100
    numbers = [float(n) for n in re.findall(r"-?[0-9.]+", a.path + c.path)]
    assert 0 <= min(numbers) <= max(numbers) <= 1000
    assert chart("Loss", [("a", [])]) is None
    flat = chart("Loss", [("a", [(1.0, 0.0), (2.0, 0.0)])])
    assert len(flat.y_ticks) > 1
    before = chart("Loss", [("a", [(0.0, 2.0)])])  # a run's evaluation before its first step
    assert before.lines[0].path.startswith("M0.0 ")


def test_command(run_folder, run_tool, tmp_path):
    out = tmp_path / "report.html"
    done = run_tool("report.py", run_folder, "--no-eval", "--recipe", "digits/convit", "--out", out)
    assert done.stdout == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    assert "--no-eval" in text
    assert "digits/convit" in text
    done = run_tool("report.py", run_folder, "--no-eval", "--out", out, expect=2)
    assert "--force" in done.stderr
    assert out.read_text(encoding="utf-8") == text
    run_tool("report.py", run_folder, "--no-eval", "--out", out, "--force")
    run_tool("report.py", run_folder, "--out", tmp_path / "a.pdf", expect=2)
    done = run_tool("report.py", tmp_path, "--out", tmp_path / "b.html", expect=2)
    assert "name the output_dir" in done.stderr
    gone = shutil.copytree(run_folder, tmp_path / "gone")
    (gone / "starts.jsonl").write_text(json.dumps(START | {"recipe": "of/a_later_version"}))
    write_report([gone], gone / "report.html", evaluates=False)
    assert "of/a_later_version cannot be read" in (gone / "report.html").read_text("utf-8")
    with pytest.raises(ConfigError, match="no_such"):
        write_report([run_folder], out, recipe="no_such", evaluates=False)


# --------------------------------------------------------------------------------------------------
# In a browser
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(browser, report, width, scheme):
    show_as(browser, width, scheme)
    browser.get(report.as_uri())
    inner, scrolled = browser.execute_script("return [innerWidth, document.body.scrollWidth]")
    assert inner == width
    assert scrolled <= width  # nothing overflows to the side
    assert browser.execute_script(CONTRAST) == []
    page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    is_light = sum(map(int, re.findall("[0-9]+", page)[:3])) > 384
    assert is_light == (scheme == "light")
    broken = "return [...document.images].filter((i) => !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    assert browser.title == "run <b>&amp;, other"
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("L"))
    assert pixels.std() > 5  # something is drawn
    assert browser.get_log("browser") == []


def test_hover_keys_and_sorting(browser, report):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(report.as_uri())
    figure = browser.find_element(By.CSS_SELECTOR, "#run-1-curves .chart")
    plot = figure.find_element(By.CSS_SELECTOR, ".plot")

    def shown() -> tuple[str, list[str]]:
        at = figure.find_element(By.CSS_SELECTOR, ".at").text
        return at, [each.text for each in figure.find_elements(By.CSS_SELECTOR, ".legend output")]

    assert shown() == ("", ["0.3333", "2.6"])  # the last training and validation loss
    browser.execute_script("arguments[0].focus()", plot)
    plot.send_keys(Keys.HOME)
    assert shown() == ("1", ["2", "1.1"])
    plot.send_keys(Keys.ARROW_RIGHT)
    assert shown() == ("2", ["1", "1"])
    ActionChains(browser).move_to_element(plot).perform()  # the middle of 0 to 6
    assert shown() == ("3", ["0.6667", "1.1"])

    heads = browser.find_elements(By.CSS_SELECTOR, "#run-1 table.sortable th button")
    names = "#run-1 table.sortable tbody th"
    before = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, names)]
    heads[0].click()
    after = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, names)]
    assert sorted(before) == sorted(after)
    assert before != after
    entropy = browser.find_elements(By.CSS_SELECTOR, "#run-1-attention table.sortable th button")[4]
    cells = "#run-1-attention table.sortable tbody tr td:last-child"
    for wanted in (["1e-05", "1", "20", "-"], ["20", "1", "1e-05", "-"]):
        entropy.click()
        assert [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, cells)] == wanted
    assert browser.get_log("browser") == []
