"""A log file that cannot be written is said once, in a line."""

from __future__ import annotations

import resource
import signal

from passl.utils.logging import get_logger, log_to_file, stop_logging_to


def test_a_log_that_cannot_be_written(tmp_path, capsys):
    path = tmp_path / "train.log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = log_to_file(path)
    get_logger().info("kept")
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        for _ in range(3):
            get_logger().info("lost")
        stop_logging_to(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    said = f"{path} cannot be written (File too large); the run goes on\n"
    assert capsys.readouterr().err == said
    assert path.read_text().endswith("INFO: kept\n")
