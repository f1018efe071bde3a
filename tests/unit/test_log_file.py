"""A log file that cannot be written is said once, in a line."""

from __future__ import annotations

import resource
import signal

from passl.logging import get_logger, log_to_file, name_process, stop_logging_to


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


def test_messages_name_the_process_of_a_run(tmp_path):
    logger = get_logger()
    before = list(logger.filters)
    handler = log_to_file(tmp_path / "train.log")
    try:
        logger.info("alone")
        name_process("rank 1 on gpu7")
        logger.warning("of many")
    finally:
        logger.filters[:] = before
        stop_logging_to(handler)
    alone, of_many = (tmp_path / "train.log").read_text().splitlines()
    assert alone.endswith("passl INFO: alone")
    assert of_many.endswith("passl rank 1 on gpu7 WARNING: of many")
