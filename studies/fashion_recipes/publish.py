"""Make the weights of a finished run part of the package:
python studies/fashion_recipes/publish.py fashion_cvt RUN_0 RUN_1 RUN_2

The folders are of runs of one recipe with different seeds. The weights of the first one, after its
last epoch, are written in float16 to passl/porting/weights, so no run is chosen by its test images.
Writes the model card beside them and prints the entry for passl/porting/zoo.yaml.
"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from passl.cli.options import as_path
from passl.deploy.convert import plan_conversion, write_converted
from passl.deploy.from_weights import stored_model
from passl.distributed.ranks import Ranks
from passl.engine.metrics import read_metrics
from passl.engine.run_folder import LAST
from passl.evaluation.evaluate import Options, evaluate_weights
from passl.io.files import sha256_of, write_text
from passl.porting.weight_file import read_file
from passl.porting.zoo import PACKAGED
from passl.utils.config import Config, get_config

CARD = """\
# {name}

{parameters:,} parameters in float16, {size:,} bytes, SHA-256 `{sha256}`.

* Network: {network}, gray images of 28 x 28 pixels, 10 classes; the config has every option.
* Data: Fashion-MNIST (Xiao et al., arXiv 1708.07747; MIT licence), 60,000 training images. The
  recipe was tuned on 5,000 of them that were held out; test images were not used for that.
* Recipe: [`configs/{config}.yaml`](../../../configs/{config}.yaml), {epochs} epochs, seed {seed},
  passl {passl} at commit {commit}, {world} process(es) on a CPU.
* Top-1 accuracy on the {samples:,} test images after the last epoch: **{top1:.2f} %** for this file
  (standard error {error:.2f} points). In float32, by seed: {scores}; mean of {runs}: {mean:.2f} %.
  This file is of the first seed: none was chosen by its test images.
* Use: product photos as in the dataset, light on black and filling the frame. On other photos the
  prediction means little.
* Licence: Apache-2.0, as the package.

## Confusion

Rows are true classes, columns predictions.

{confusion}
"""
ENTRY = """\
  {name}.fashion_mnist:
    model: {name}
    config: {config}
    source: own
    url: null
    file: {name}.safetensors
    sha256: {sha256}
    size: {size}
    licence: Apache-2.0
    preset: fashion_28
    top1: {top1}
    top5: {top5}
    scores: the model card beside the file
    verified: true
    default: true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", help="of the model, such as fashion_cvt")
    parser.add_argument("runs", nargs="+", type=as_path, help="folders of finished runs")
    args = parser.parse_args()
    config = args.name.replace("_", "/", 1)
    configs = [check_run(run, get_config(config)) for run in args.runs]
    rows = [read_metrics(run)[-1] for run in args.runs]
    out = PACKAGED / f"{args.name}.safetensors"
    PACKAGED.mkdir(exist_ok=True)
    file = read_file(args.runs[0] / LAST)
    section = stored_model(file)
    plan = plan_conversion(file, section["architecture"], section["head"])
    parameters = sum(array.size for name, array in plan.weights.items() if not is_statistic(name))
    write_converted(file, plan, section["architecture"], out, "float16")

    found, confusion = evaluate(configs[0], out)
    start = json.loads((args.runs[0] / "starts.jsonl").read_text().splitlines()[0])
    scores = [row["top1"] for row in rows]
    facts = {
        "name": args.name,
        "config": config,
        "network": section["architecture"]["name"],
        "parameters": parameters,
        "size": out.stat().st_size,
        "sha256": sha256_of(out),
        "epochs": configs[0].epochs,
        "seed": configs[0].seed,
        "runs": len(configs),
        "passl": start["passl"],
        "commit": f"`{start['commit']}`{' with changes' if start['changed'] else ''}",
        "world": start["world_size"],
        "samples": found["samples"],
        "top1": round(found["top1"], 2),
        "top5": round(found["top5"], 2),
        "scores": ", ".join(
            f"{cfg.seed}: {score:.2f} %" for cfg, score in zip(configs, scores, strict=True)
        ),
        "mean": statistics.mean(scores),
        "error": (found["top1"] * (100 - found["top1"]) / found["samples"]) ** 0.5,
        "confusion": confusion,
    }
    write_text(out.with_suffix(".md"), CARD.format(**facts))
    print(ENTRY.format(**facts))


def check_run(run: Path, recipe: Config) -> Config:
    """Return the config of a run, which is the recipe but for seed and places.

    Raises:
        SystemExit: it is of another recipe, or the run is not finished.
    """
    cfg = get_config(run / "config.yaml")
    for node in ("model", "epochs", "optimizer", "lr_scheduler", "loss"):
        theirs, ours = (json.loads(json.dumps(tree.to_dict()[node])) for tree in (cfg, recipe))
        if not contains(theirs, ours):
            raise SystemExit(f"{run}: {node} is not that of the recipe {recipe.file}")
    for part in ("train", "val"):
        datasets = [tree.dataloader[part].dataset for tree in (cfg, recipe)]
        if len({(node.name, node.split) for node in datasets}) > 1:
            raise SystemExit(f"{run}: its {part} data is not that of the recipe {recipe.file}")
    last = read_metrics(run)[-1]
    if last["phase"] != "val" or last["epoch"] != cfg.epochs:
        raise SystemExit(f"{run}: is not finished; its last row is of epoch {last['epoch']}")
    return cfg


def contains(resolved: object, written: object) -> bool:
    """Whether a resolved config, which has all defaults, has the values of a written one."""
    if isinstance(written, dict) and isinstance(resolved, dict):
        return all(contains(resolved.get(key), value) for key, value in written.items())
    return resolved == written


def is_statistic(name: str) -> bool:
    """Whether a weight is a statistic of BatchNorm, not a parameter."""
    return name.endswith(("._mean", "._variance"))


def evaluate(cfg: Config, weights: Path) -> tuple[dict, str]:
    """Score the written file; return the scores, and the confusion matrix as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "confusion.csv"
        found = evaluate_weights(cfg, weights, Options(confusion=table), Ranks())
        with table.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
    lines = [f"| {' | '.join(row)} |" for row in ([""] + head[1:], ["---", *["---:"] * 10], *rows)]
    return found, "\n".join(lines)


if __name__ == "__main__":
    main()
