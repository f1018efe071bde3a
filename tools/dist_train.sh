#!/usr/bin/env bash
# Train in N processes, one for each GPU or on the CPU:
#   bash tools/dist_train.sh CONFIG N [options of tools/launch.py and tools/train.py]
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: bash tools/dist_train.sh CONFIG N [options of tools/launch.py and tools/train.py]" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
# exec: signals for this script are the launcher's, and the exit code is the launcher's
exec python "$(dirname "$0")/launch.py" train --nproc_per_node "$processes" -c "$config" "$@"
