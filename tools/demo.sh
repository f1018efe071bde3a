#!/usr/bin/env bash
# The demo of `make demo`: train a small network on the embedded digits, evaluate its best checkpoint, draw both on one page.
# Usage: demo.sh BIN MODEL PORT [options of tools/train.py].
# BIN is the bin folder of the environment; RUN in the environment names another run folder.
set -euo pipefail
bin=$1 model=$2 port=$3
config=configs/digits/$model.yaml
if [ "$model" != convit ] && [ "$model" != cvt ]; then
  echo "error: MODEL=$model: there is convit and cvt" >&2
  exit 2
fi
run=${RUN:-runs/demo-$model-$(date +%Y%m%d-%H%M%S)}

"$bin/python" tools/train.py -c "$config" -o output_dir="$run" "${@:4}"
"$bin/python" tools/eval.py -c "$run/config.yaml" --weights "$run/best.safetensors" > "$run/eval.json"
"$bin/python" tools/visualize.py overview "$run" > /dev/null
top1=$("$bin/python" -c 'import json, sys; print("%.2f" % json.load(open(sys.argv[1]))["top1"])' "$run/eval.json")

cat <<END

top-1 of the best checkpoint on the 360 validation digits: $top1 %
the run on one page, with its curves, predictions and mistakes: $run/overview.png
run folder: $run (overview.png, metrics.jsonl, best.safetensors, last.safetensors, config.yaml, train.log)
curves in the browser: $bin/visualdl --logdir $run/vdl --host 127.0.0.1 --port $port --language en --disable-telemetry
END
