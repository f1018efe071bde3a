"""Measure: python tools/benchmark.py convert [--model cvt_w24_384]"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _main import run

CONVERTER = Path(__file__).with_name("convert_weights.py")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure speed and memory; one JSON line each.")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    convert = benchmarks.add_parser("convert", help="memory and time of converting a weight file")
    convert.add_argument(
        "--model", default="cvt_w24_384", help="a published variant (random weights)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure_conversion(args.model, Path(folder))))


def measure_conversion(model: str, folder: Path) -> dict[str, object]:
    """Convert a file of that variant in its authors' names, in a process of its own, and ask the
    operating system for its largest memory.
    """
    file = folder / "theirs.safetensors"
    target = "timm" if model.startswith("convit") else "microsoft"
    # Made in a process of its own too, so that this one stays small.
    make = (
        "import sys; sys.path.insert(0, sys.argv[4])\n"
        "from pathlib import Path\nimport passl\n"
        "from passl.modeling.conversion import plan_conversion, write_for\n"
        "from passl.porting.files import WeightFile\n"
        "from passl.utils.config import get_config\n"
        "m = passl.create_model(sys.argv[1])\n"
        "w = {k: t.numpy() for k, t in m.state_dict().items()}\n"
        "f = WeightFile(Path('random'), w, None, {}, {})\n"
        "c = get_config(f'{sys.argv[1].split(chr(95))[0]}/{sys.argv[1]}.yaml').to_dict()['model']\n"
        "p = plan_conversion(f, c['architecture'], c['head'])\n"
        "write_for(sys.argv[2], f, p, Path(sys.argv[3]))\n"
    )
    root = str(CONVERTER.parents[1])
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", make, model, target, str(file), root], check=True
    )
    start = time.perf_counter()
    command = [sys.executable, str(CONVERTER), str(file), str(folder / "ours.safetensors")]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = _peak_of(child)
    seconds = time.perf_counter() - start
    size = file.stat().st_size
    return {
        "benchmark": "convert",
        "model": model,
        "file_mib": round(size / 2**20, 1),
        "peak_mib": round(peak / 2**20, 1),
        "peak_over_file": round(peak / size, 2),
        "seconds": round(seconds, 1),
    }


def _peak_of(child: subprocess.Popen) -> int:
    """The largest resident memory of a process, in bytes, once it has ended well."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(child.returncode)
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    run(main)
