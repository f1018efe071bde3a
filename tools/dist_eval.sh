#!/usr/bin/env bash
# Score weights in N processes, one for each GPU or on the CPU; the last line on stdout is the result:
#   bash tools/dist_eval.sh CONFIG WEIGHTS N [options of tools/launch.py and tools/eval.py]
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: bash tools/dist_eval.sh CONFIG WEIGHTS N [options of tools/launch.py and tools/eval.py]" >&2
  exit 2
fi
config=$1 weights=$2 processes=$3
shift 3
exec python "$(dirname "$0")/launch.py" eval --nproc_per_node "$processes" -c "$config" --weights "$weights" "$@"
