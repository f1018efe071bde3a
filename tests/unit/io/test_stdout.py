from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from passl.io.stdout import captured_stdout


def test_lines_of_python_and_compiled_code(capfd):
    sys.stdout.write("before\n")
    with pytest.raises(ValueError, match="broken"), captured_stdout() as lines:
        sys.stdout.write("python\n")
        sys.stdout.flush()
        os.write(1, b"compiled \xff\n")
        raise ValueError("broken")
    sys.stdout.write("after\n")
    os.write(1, b"compiled\n")
    assert lines == ["python\n", "compiled \ufffd\n"]
    assert sorted(capfd.readouterr().out.split()) == ["after", "before", "compiled"]


@pytest.mark.parametrize("stdout", [None, io.StringIO()])
def test_no_stdout(monkeypatch, stdout):
    if stdout is not None:
        stdout.close()
    monkeypatch.setattr(sys, "stdout", stdout)
    with captured_stdout() as lines:
        pass
    assert lines == []


def test_closed_stdout(root):
    """As of a daemon: no file takes its place."""
    code = "import os; os.close(1)\nfrom passl.io.stdout import captured_stdout\n"
    code += "with captured_stdout() as lines: pass\n"
    code += "assert lines == []\nassert os.open(os.devnull, os.O_RDONLY) == 1"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
