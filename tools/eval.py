"""Evaluate weights: python tools/eval.py -c configs/digits/convit.yaml --weights
RUN/best.safetensors
"""

import argparse
import json

from _main import add_config_options, read_config, run

TRANSFORMS = "dataloader.val.dataset.transforms"


def preset_of(args: argparse.Namespace) -> list[str]:
    """For weights of the model zoo, the pictures that belong to them, unless told otherwise."""
    from passl.engine.preset import transforms_of
    from passl.porting.resolve import zoo_entry

    entry = zoo_entry(args.weights)
    told = any(pair.startswith(TRANSFORMS) for pairs in args.override for pair in pairs)
    return (
        [] if entry is None or told else [f"{TRANSFORMS}={json.dumps(transforms_of(entry.preset))}"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(
            "Score weights on the validation data of a config. The last line on stdout is "
            "the result as JSON."
        )
    )
    add_config_options(parser)
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help=(
            "weight file of any kind, https address, or name of the model zoo, whose pictures are "
            "then used too"
        ),
    )
    args = parser.parse_args()
    cfg = read_config(args, preset_of(args))

    from passl.engine.check import check_config

    check_config(cfg, for_training=False)

    from passl.data.loader import build_loader
    from passl.engine import distributed
    from passl.engine.evaluate import evaluate
    from passl.modeling import Model
    from passl.utils.logging import get_logger, log_to_console

    log_to_console()
    ranks = distributed.start(cfg.get("device", "auto"))
    model = Model(cfg, args.weights)
    scores = evaluate(
        model, build_loader(cfg.dataloader.val, cfg.get("seed", 0), ranks.rank, ranks.world), ranks
    )
    if ranks.is_first:
        get_logger().info(
            "%d pictures: top1 %.2f %%, top5 %.2f %%, loss %.4f",
            scores.samples,
            scores.top1,
            scores.top5,
            scores.loss,
        )
        print(json.dumps({"weights": args.weights, **scores.to_dict()}))


if __name__ == "__main__":
    run(main)
