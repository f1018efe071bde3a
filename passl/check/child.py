"""A process of a probe: python -m passl.check.child TASK, started by `passl.check.runner`."""

from __future__ import annotations

import faulthandler
import importlib
import json
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from passl.check.findings import NotRun, Setup


def main(task: str) -> None:
    """Call the function of a probe, and write its outcome as JSON.

    Args:
        task: JSON: `function`, MODULE:NAME; `device`, `folder` and `quick` of the `Setup`; and
            `result`, the file to write.
    """
    # A crash, and SIGABRT at the end of the time limit, print where Python was.
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    told = json.loads(task)
    outcome: dict[str, Any]
    try:
        module, name = told["function"].split(":")
        probe = getattr(importlib.import_module(module), name)
        if "paddle" in sys.modules:
            sys.modules["paddle"].set_device(told["device"])
        setup = Setup(told["device"], Path(told["folder"]), told["quick"])
        outcome = probe(setup).to_dict()
    except NotRun as reason:
        outcome = {"status": "not run", "reason": str(reason)}
    except Exception as error:
        traceback.print_exc()
        outcome = {"status": "failed", "error": last_line(error), "kind": type(error).__name__}
    Path(told["result"]).write_text(json.dumps(outcome), encoding="utf-8")


def last_line(error: BaseException) -> str:
    """The last line of an exception's traceback that says something."""
    lines = "".join(traceback.format_exception_only(error)).splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), type(error).__name__)


if __name__ == "__main__":
    main(sys.argv[1])
