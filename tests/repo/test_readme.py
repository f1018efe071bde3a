"""What the README says runs, runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(tool: str) -> list[list[str]]:
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line[0] == tool]


def call(args: list[str], expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def test_python_examples_run(monkeypatch):
    examples = blocks("python")
    assert len(examples) >= 2
    monkeypatch.chdir(ROOT)
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102


def test_the_first_command(run_tool, tmp_path, monkeypatch):
    """The photos are classified by the weights of the package, and drawn."""
    (args,) = commands("passl")
    assert args[1] == "predict"
    out = tmp_path / args.pop()
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path))
    printed = run_tool("predict.py", *args[2:], out).stdout
    assert printed.count("docs/images/fashion/") == 10
    assert out.is_file()


FEW = ["-o", "dataloader.train.dataset.fraction=0.2"]
"""Of the digits, for training."""


def test_python_commands_run(run_tool, tmp_path):
    """Each goes on where the one before ended, in a folder of the test, with less of everything. In
    this process: the demo starts processes.
    """
    found = [args for args in commands("python") if not any("convit_tiny" in arg for arg in args)]
    tools = ("train", "eval", "visualize", "export", "predict", "convert_weights", "check_data")
    assert {args[1] for args in found} >= {f"tools/{tool}.py" for tool in tools}
    quick = {"epochs=10": "epochs=3", "epochs=12": "epochs=4"}
    for args in found:
        changed = [
            quick.get(arg, arg).replace("runs/digits", str(tmp_path / "run")) for arg in args
        ]
        tool = Path(changed[1]).name
        done = run_tool(tool, *changed[2:], *(FEW if tool == "train.py" else []))
        if tool == "predict.py":
            assert len(re.findall(r"\d+\.\d\d %", done.stdout)) == 5
    for name in ("augmented.png", "curves.png", "confusion.csv", "confusion.png"):
        assert (tmp_path / "run" / name).is_file()


def test_imagenet_commands_miss_only_the_images():
    found = [args for args in commands("python") if any("convit_tiny." in arg for arg in args)]
    assert {args[1] for args in found} == {"tools/train.py", "tools/print_config.py"}
    for args in found:
        done = call([sys.executable, *args[1:]], expect=2 if args[1] == "tools/train.py" else 0)
        if done.returncode:
            problems = done.stderr.splitlines()[1:]
            assert len(problems) == 2
            assert all("the data folder does not exist" in problem for problem in problems)


def test_make_targets_exist():
    targets = {args[1] for args in commands("make")}
    assert targets == {"setup", "demo"}
    listed = call(["make"]).stdout
    for target in ("setup", "demo", "test", "lint", "format", "clean"):
        assert f"make {target}" in listed
    assert "tools/demo.sh" in call(["make", "--dry-run", "demo", "MODEL=cvt"]).stdout


def test_the_demo(tmp_path):
    """`make demo` but for its length: trains, evaluates, draws, and says where everything is."""
    bin_folder = Path(sys.executable).parent
    options = [*FEW, "epochs=1", "lr_scheduler.warmup_epochs=0"]
    run = f"RUN={tmp_path / 'run'}"
    done = call(["env", run, "bash", "tools/demo.sh", str(bin_folder), "cvt", "8040", *options])
    assert re.search(
        r"top-1 of the best checkpoint on the 360 validation digits: \d+\.\d\d %", done.stdout
    )
    assert "visualdl --logdir" in done.stdout
    for name in ("overview.png", "best.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).is_file()


def test_the_demo_of_no_such_model():
    done = call(["bash", "tools/demo.sh", "bin", "vit", "8040"], expect=2)
    assert "MODEL=vit: there is convit and cvt" in done.stderr


def headings(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            page = document.parent / target if target else document
            assert page.exists(), f"{document.name}: {target}"
            if anchor:
                assert anchor in headings(page), f"{document.name}: {target}#{anchor}"


def test_parameter_counts_are_those_of_the_contract():
    """The README's table against the table that the networks are counted by."""
    counted = (ROOT / "tests" / "contract" / "test_configs.py").read_text(encoding="utf-8")
    tested = dict(re.findall(r'^    "(\w+)": ([\d_]+),$', counted, re.MULTILINE))
    rows = dict(re.findall(r"^\| \[`(\w+)`\].*?\| ([\d,]+) \|", README, re.MULTILINE))
    assert len(rows) == 11
    assert {name: int(count.replace(",", "")) for name, count in rows.items()} == {
        name: int(count) for name, count in tested.items()
    }
