"""Names from data are shown, never acted on: by a log, a console or an error."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.images import read_image
from passl.errors import ConfigError, RunError
from passl.logging import get_logger, log_to_console, log_to_file, printable, stop_logging_to

GOLDEN = Path(__file__).parents[1] / "golden"
EVIL = "a\x1b]0;title\x07\x1b[2K\rb\nerror: \x9b31m\u2028\u202e.png"
SHOWN = r"a\x1b]0;title\x07\x1b[2K\rb\nerror: \x9b31m\u2028\u202e.png"


def test_what_is_printable_stays():
    for text in ("写真 é 👩‍👧 می‌خواهم", "a\\x1b", "C:\\new", " a  b "):
        assert printable(text) == text


def test_what_acts_is_escaped():
    assert printable(EVIL) == SHOWN
    assert all(one.isprintable() for one in printable(EVIL))


def test_log_file_and_console(tmp_path, capsys):
    log_to_console()
    handler = log_to_file(tmp_path / "train.log")
    get_logger().warning("cannot read %s", EVIL)
    stop_logging_to(handler)
    for text in ((tmp_path / "train.log").read_text(), capsys.readouterr().err):
        assert text.endswith(f"cannot read {SHOWN}\n")
        assert text.count("\n") == 1


def test_a_traceback_in_the_log_keeps_its_lines(tmp_path):
    handler = log_to_file(tmp_path / "train.log")
    try:
        raise ValueError("why")
    except ValueError:
        get_logger().exception("failed")
    stop_logging_to(handler)
    assert "\nValueError: why\n" in (tmp_path / "train.log").read_text()


def test_a_member_of_a_tar_in_an_error(tmp_path, run_tool):
    """Of a shard from elsewhere, whose label is none."""
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in ((EVIL, content.getvalue()), (EVIL[:-3] + "cls", b"\x1b[31m")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    data = {"name": "TarShards", "shards": f"{tmp_path}/*.tar"}
    data["class_file"] = f"{tmp_path}/classes.txt"
    node = ", ".join(f"{key}: '{value}'" for key, value in data.items())
    done = run_tool(
        *("check_data.py", "-c", "configs/digits/convit.yaml", "-o"),
        f"dataloader.train.dataset={{{node}, transforms: [{{name: Normalize}}]}}",
        expect=2,
    )
    assert SHOWN[:-3] in done.stderr
    assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(done.stderr)


ACTING = {"\x1b", "\r", "\x9b", "\u2028", "\u202e"}


@pytest.mark.parametrize("form", [(), ("--yaml",)])
def test_a_key_of_a_config_that_is_printed(tmp_path, run_tool, form):
    path = tmp_path / f"{EVIL}.yaml"
    path.write_text(f"{json.dumps(EVIL)}: 1\nother: {json.dumps('see' + EVIL)}\n")
    shown = run_tool("print_config.py", "-c", path, *form).stdout
    assert "a\\x1b" in shown or "a\\e" in shown
    assert not ACTING & set(shown)
    if form:
        assert yaml.safe_load(shown) == {EVIL: 1, "other": "see" + EVIL}


def test_a_path_that_is_printed(tmp_path, run_tool):
    source = GOLDEN / "convit_timm" / "model.safetensors"
    out = tmp_path / f"{EVIL}.safetensors"
    shown = run_tool("convert_weights.py", source, out).stdout
    assert out.exists()
    assert SHOWN in shown
    assert not ACTING & set(shown)


@pytest.mark.parametrize("tool_input", ["image", "list"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, tool_input):
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    if tool_input == "image":
        with pytest.raises(RunError, match="not a regular file"):
            read_image(str(pipe), str(pipe))
    else:
        with pytest.raises(ConfigError, match="not a regular file"):
            read_class_file(str(pipe))
