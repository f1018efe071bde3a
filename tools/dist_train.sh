#!/usr/bin/env bash
# Train in N processes on this machine: bash tools/dist_train.sh CONFIG N [options of tools/train.py]
# With GPUs, N of them (the first N, or those of CUDA_VISIBLE_DEVICES); without, N processes on the CPU.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: bash tools/dist_train.sh CONFIG N [options of tools/train.py]" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
cd "$(dirname "$0")/.."
if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null 2>&1; then
  devices=${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((processes - 1)))}
  exec python -m paddle.distributed.launch --devices "$devices" tools/train.py -c "$config" "$@"
fi
unset CUDA_VISIBLE_DEVICES # even when it is empty, Paddle's launcher takes it for a sign of GPUs
exec python -m paddle.distributed.launch --nproc_per_node "$processes" tools/train.py -c "$config" "$@"
