"""The command `passl`: its options, what it prints, and its exit codes."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import pytest

import passl
from passl.cli import dispatch, launch
from passl.cli.options import add_config_options, complete_config, read_config
from passl.errors import ConfigError, RunError, Stopped
from passl.utils.config import shipped_names


def test_help_lists_every_command(call):
    code, out, _ = call("--help")
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("    ")]
    assert code == 0
    assert [word for word in listed if word in dispatch.COMMANDS] == list(dispatch.COMMANDS)


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_each_command_has_help_with_examples(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0
    assert f"usage: passl {name}" in out
    assert f"passl {name}" in out.partition("examples:")[2]


def test_a_wrong_command_or_option(call):
    code, _, err = call("trian")
    assert code == 2
    assert "'trian'" in err and "train" in err  # noqa: PT018 (the name and the way out)
    code, _, err = call("config", "digits/convit", "--no-such-option")
    assert code == 2
    assert "unrecognized arguments: --no-such-option" in err


def test_no_command_shows_the_help(call):
    code, out, err = call()
    assert (code, out) == (2, "")
    assert all(name in err for name in dispatch.COMMANDS)


def test_version(call):
    assert call("--version")[1].strip() == f"passl {passl.__version__}"


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ConfigError("a", "b\x1b"), 2, "2 errors:\n  a\n  b\\x1b\n"),
        (ConfigError("a"), 2, "error: a\n"),
        (RunError("a"), 1, "error: a\n"),
        (Stopped("SIGTERM"), 75, "stopped by SIGTERM; continue with --resume auto\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(capsys, error, code, shown):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        dispatch.run(fail)
    assert ended.value.code == code
    assert capsys.readouterr().err == shown


# --------------------------------------------------------------------------------------------------
# Configs
# --------------------------------------------------------------------------------------------------
def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    parser.add_argument("--weights")
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("digits/convit", "-o", "epochs=3", "seed=5"),
        ("--weights", "w.pth", "digits/convit", "-o", "epochs=3", "-o", "seed=5"),
        ("-c", "digits/convit", "-o", "epochs=3", "seed=5"),
        ("-o", "epochs=3", "seed=5", "-c", "configs/digits/convit.yaml"),
    ],
)
def test_a_config_is_named_by_position_or_by_option(arguments):
    cfg = read_config(parsed(*arguments))
    assert (cfg.epochs, cfg.seed, cfg.model.architecture.name) == (3, 5, "ConViT")


def test_two_configs_are_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("digits/convit", "-c", "digits/cvt")
    assert "two configs: digits/convit and digits/cvt" in capsys.readouterr().err


def test_no_config_is_named():
    """A config after -o is taken for a value."""
    with pytest.raises(ConfigError, match="no config is named; name one before -o"):
        read_config(parsed("-o", "epochs=1", "digits/convit"))


def test_the_shipped_configs_are_listed(call):
    _, out, _ = call("config", "--list")
    assert {"digits/convit", "cvt/cvt_13_224"} <= set(out.splitlines())
    assert not [name for name in out.splitlines() if name.startswith("_base_/")]


def test_completion_of_configs(tmp_path, monkeypatch):
    pytest.importorskip("argcomplete")
    monkeypatch.chdir(tmp_path)
    Path("digits.yaml").touch()
    assert {"digits/convit", "digits/cvt", "digits.yaml"} <= set(complete_config("digits"))
    assert complete_config("digits/c") == ["digits/convit", "digits/cvt"]


# --------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------
def test_models_are_filtered(call):
    code, out, _ = call("models", "cvt", "--source", "microsoft", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert found
    assert all("cvt" in row["name"] and row["source"] == "microsoft" for row in found)
    _, table, _ = call("models", "cvt", "--source", "microsoft")
    assert all(row["name"] in table for row in found)
    assert "convit" not in table
    _, out, _ = call("models", "--default", "--json")
    assert {json.loads(line)["model"] for line in out.splitlines()} == set(passl.list_models())


def test_layers_of_a_model(call):
    code, out, _ = call("models", "convit_tiny.timm_in1k", "--layers", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert sum(row["parameters"] for row in rows) == 5_710_512  # README's
    first = next(row for row in rows if row["name"] == "backbone.blocks.0.attn")
    # arXiv 2103.10697: q, k, v and the projection; three numbers and a bias for each head's
    # position; a gate for each head.
    assert (first["kind"], first["parameters"]) == ("GPSA", 4 * 192**2 + 192 + 4 * 4 + 4)
    _, table, _ = call("models", "digits/convit", "--layers", "--depth", "1", "-o", "seed=1")
    assert table.splitlines()[-1].split()[:2] == ["total", "213,446"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("convit_tyni", "--layers"), "did you mean 'convit_tiny'?"),
        (("digits/convitt", "--layers"), "did you mean 'digits/convit'?"),
        (("convit_tiny", "--layers", "--size", "225", "224"), "224x224"),
        (("convit", "cvt", "--layers"), "one model"),
        (("convit_tiny", "--depth", "2"), "--layers"),
    ],
)
def test_wrong_calls_for_layers(call, arguments, word):
    code, _, err = call("models", *arguments)
    assert code == 2 and word in err


def test_models_that_do_not_exist(call):
    code, _, err = call("models", "resnet")
    assert (code, err) == (2, "error: no published weights match; `passl models` lists all\n")
    code, _, err = call("models", "--source", "microsft")
    assert (code, "did you mean 'microsoft'" in err) == (2, True)


def test_the_environment_of_a_report(call, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AWS_SECRET", "hunter2")
    code, out, _ = call("env", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["passl"] == passl.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["paddle"]["device"] == "cpu"
    assert found["settings"]["OMP_NUM_THREADS"] == "1"
    _, shown, _ = call("env")
    assert f"python {platform.python_version()}" in shown
    assert "hunter2" not in out + shown


def test_the_environment_without_paddle(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", None)
    code, out, _ = call("env", "--json")
    assert code == 0
    assert "paddle" in json.loads(out)["paddle"]["error"]


def test_check_data_takes_a_config_by_position(call, tmp_path):
    code, out, _ = call("check-data", "digits/convit", "--part", "val", "--workers", "0")
    assert (code, "360 samples of 10 classes" in out) == (0, True)
    code, _, err = call("check-data", "digits/convit", tmp_path)
    assert code == 2
    assert "digits/convit" in err
    code, _, err = call("check-data")
    assert (code, err) == (2, "error: name a config, or one or two folders\n")


# --------------------------------------------------------------------------------------------------
# Launch
# --------------------------------------------------------------------------------------------------
@pytest.fixture
def jobs(monkeypatch):
    """What is launched, instead of launching it."""
    found = []

    def launched(job, restarts, waits):
        found.append((job, restarts, waits))
        return 75

    monkeypatch.setattr("passl.distributed.launcher.launch", launched)
    return found


@pytest.mark.parametrize("command", ["train", "train.py"])
def test_launch_passes_on_the_options_of_the_command(call, jobs, tmp_path, command):
    rest = ["digits/convit", "-o", f"output_dir={tmp_path}", "epochs=1", "--resume", "auto"]
    code, _, _ = call("launch", command, "--nproc_per_node", 2, "--restarts", 1, *rest)
    ((job, restarts, waits),) = jobs
    assert code == 75
    assert (job.processes, restarts, waits) == (2, 1, [5, 10, 20])
    assert (job.logs, job.checkpoint) == (tmp_path / "launch", tmp_path / "last.safetensors")
    assert job.command[0] == sys.executable
    assert Path(job.command[2]) == Path(passl.__file__).with_name("__main__.py")
    assert job.command[3:] == ["train", *rest]


def test_options_of_the_launcher_stand_anywhere(call, jobs):
    call(
        "launch", "eval", "-c", "digits/cvt", "--weights", "w", "--nproc_per_node", 2, "--tta=flip"
    )
    ((job, _, _),) = jobs
    assert job.command[3:] == ["eval", "-c", "digits/cvt", "--weights", "w", "--tta=flip"]
    assert job.checkpoint is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "digits/convit", "--resum", "auto", "--rest"), "unrecognized arguments: --rest"),
        (("eval", "digits/cvt", "--restarts", 1), "--restarts 1 is for training"),
        (("train", "digits/cvt", "--restarts", 1, "--nnodes", 2), "docs/distributed.md"),
        (("train", "digits/cvt", "--grace", -1), "-1 must be at least 0"),
        (("train", "digits/cvt", "--restart_waits", "5;6"), "must be seconds"),
        (("train", "digits/cvtt"), "did you mean digits/cvt?"),
        (("train", "configs/fashion/convitt.yaml"), "did you mean fashion/convit?"),
    ],
)
def test_wrong_calls_of_the_launcher(call, jobs, arguments, message):
    code, _, err = call("launch", *arguments, "--nproc_per_node", 2)
    assert (code, jobs) == (2, [])
    assert message in err


def test_each_command_is_a_module_of_its_own():
    folder = Path(launch.__file__).parent
    modules = {path.stem.replace("_", "-") for path in folder.glob("*.py")}
    assert modules == {*dispatch.COMMANDS, "--init--", "dispatch", "options"}
    assert "digits/convit" in shipped_names()
