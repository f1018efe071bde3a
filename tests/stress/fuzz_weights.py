"""Read damaged and hostile weight files: python tests/stress/fuzz_weights.py --files 2000 --seed 0

Each file must be read or refused by one line that names it, within a limit of time and memory. Exit
code 1 says that one was not.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from passl.cli.dispatch import run


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the readers of weight files.")
    parser.add_argument("--files", type=int, default=2000, help="files per format (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="decides the files (default: 0)")
    parser.add_argument("--keep", type=Path, help="folder for the files that were not refused well")
    args = parser.parse_args()

    from passl.errors import RunError
    from tests.stress import fuzzing

    violations = []
    for kind, files in fuzzing.valid_files().items():
        data = partial(fuzzing.mutation, kind, files, args.seed)
        outcome = fuzzing.fuzz(kind, fuzzing.READERS[kind], data, args.files)
        counts = outcome.counts
        print(
            f"{kind}: {counts['read']} read, {counts['refused']} refused, "
            f"{counts['violation']} violations",
            flush=True,
        )
        for index, what in outcome.violations:
            violations.append(f"{kind} file {index}: {what}")
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{index}.{fuzzing.SUFFIXES[kind]}").write_bytes(data(index))
    if violations:
        print("\n".join(violations))
        raise RunError(f"{len(violations)} violations; each file is a function of seed and number")


if __name__ == "__main__":
    run(main)
