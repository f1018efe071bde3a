"""The options that several commands have, and what they mean."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from passl.errors import ConfigError
from passl.utils.paths import expand

if TYPE_CHECKING:
    from passl.deploy.exported import Description
    from passl.modeling.classifier import Model
    from passl.utils.config import Config

T = TypeVar("T")
TRANSFORMS = "dataloader.val.dataset.transforms"


def about(module: Any, as_part: bool = False) -> dict[str, Any]:
    """The arguments of the parser of a command, or of a part of one.

    Args:
        module: with a docstring, its description, and `EXAMPLES`.
        as_part: whether a list of commands shows the first sentence.
    """
    text = module.__doc__ or ""
    summary = {"help": " ".join(text.partition(".")[0].split())} if as_part else {}
    return {**summary, "description": text, **epilog(module.EXAMPLES)}


def epilog(examples: str) -> dict[str, Any]:
    """The arguments of a parser whose help ends with examples."""
    return {
        "epilog": f"examples:\n{textwrap.indent(examples, '  ')}",
        "formatter_class": lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 26),
    }


def path_or_name(text: str) -> str:
    """Type of an option that may be a path: `~` and environment variables are expanded, since no
    shell does so in `--weights=~/w.pth` or in a job's `command:`.
    """
    try:
        return text if "://" in text else expand(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def as_path(text: str) -> Path:
    """Type of an option that is a path."""
    return Path(path_or_name(text))


def at_least(least: float, number: type = int) -> Callable[[str], Any]:
    """Type of an option that is a number from `least` on."""

    def parse(text: str) -> Any:
        if not number(text) >= least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        return number(text)

    parse.__name__ = number.__name__  # for messages
    return parse


FIGURES = (".png", ".svg")
"""Suffixes of figures."""


def port(text: str) -> int:
    """A number of a port; 0 stands for any free one."""
    if not 0 <= int(text) <= 65535:  # the system would take another one, modulo 65536
        raise argparse.ArgumentTypeError(f"{text} must be 0 to 65535")
    return int(text)


port.__name__ = "int"  # for messages


def out_problems(
    option: str, out: Path | None, suffixes: Sequence[str] = (), force: bool | None = None
) -> list[str]:
    """What is wrong with a file to write, before anything is computed.

    Args:
        option: its name.
        out: the file; null if it is not written.
        suffixes: one of which it must end in, in letters of any case; none: any.
        force: whether an existing file is replaced; null if the command has no --force.
    """
    from passl.io.files import obstacles

    if out is not None and suffixes and out.suffix.lower() not in suffixes:
        return [f"{option} {out}: must end in {' or '.join(suffixes)}"]
    if out is None or (force and out.is_file()):
        return []
    way = "; --force replaces it" if force is not None and out.is_file() else ""
    return [f"{option} {out}: {rule}{way}" for rule in obstacles(out)]


def filled(kind: type[T], args: argparse.Namespace) -> T:
    """A dataclass whose fields are options of the command, with their values."""
    return kind(**{each.name: getattr(args, each.name) for each in fields(kind)})  # type: ignore[arg-type]


class _OneConfig(argparse.Action):
    """Stores a config that is named either by position or by -c."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values is None:  # no positional argument
            return
        if namespace.config is not None:
            parser.error(f"two configs: {namespace.config} and {values}; name one")
        namespace.config = values


def add_config_options(parser: argparse.ArgumentParser, positional: bool = True) -> None:
    """CONFIG or -c CONFIG, and -o KEY=VALUE.

    Args:
        positional: whether a config can be named without -c.
    """
    kinds: dict[str, Any] = {"type": path_or_name, "action": _OneConfig, "metavar": "CONFIG"}
    named = "config file, or the name of a shipped one such as digits/convit"
    if positional:
        argument = parser.add_argument("config", nargs="?", help=named, **kinds)
        argument.completer = complete_config  # type: ignore[attr-defined]  # of argcomplete
        named = "the same"
    option = parser.add_argument("-c", "--config", help=named, **kinds)
    option.completer = complete_config  # type: ignore[attr-defined]
    add_override_option(parser)


def add_override_option(parser: argparse.ArgumentParser) -> None:
    """-o KEY=VALUE."""
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change a value, e.g. -o epochs=10 optimizer.lr=5e-4 or "
        "dataloader.train.dataset.transforms.0.size=224; may be repeated",
    )


def complete_config(prefix: str, **unused: Any) -> list[str]:
    """Names of shipped configs and files, for a shell's completion."""
    from argcomplete.completers import FilesCompleter

    from passl.utils.config import shipped_names

    shipped = [name for name in shipped_names() if name.startswith(prefix)]
    return [*shipped, *FilesCompleter(["yaml"])(prefix)]


def read_config(args: argparse.Namespace, before: Sequence[str] = ()) -> Config:
    """The config that the options name.

    Args:
        before: overrides that are applied before those of -o.
    """
    from passl.utils.config import get_config

    if args.config is None:
        raise ConfigError(
            "no config is named; name one before -o (CONFIG -o KEY=VALUE), or by -c CONFIG"
        )
    return get_config(args.config, [*before, *overrides(args)])


def check_overrides(args: argparse.Namespace) -> None:
    """Refuse -o without a config whose values it could change.

    Raises:
        ConfigError: no config is named.
    """
    if args.override and args.config is None:
        raise ConfigError("-o changes a value of a config; name one by -c")


def overrides(args: argparse.Namespace) -> list[str]:
    """Every KEY=VALUE of -o, in order."""
    return [pair for pairs in args.override for pair in pairs]


def changes_transforms(cfg: Config) -> bool:
    """Whether -o changes the transforms of the validation images."""
    from passl.utils.config import COMMAND_LINE, dotted

    changed = [dotted(keys) for keys, origin in cfg.origins.items() if origin == COMMAND_LINE]
    return any(f"{name}.".startswith(f"{TRANSFORMS}.") for name in changed)


OF_EVALUATION = (
    "weight file of any kind, https address, or name of the model zoo; the transforms of the zoo's "
    "published score are then used, unless -o changes them"
)


def add_weights_option(parser: Any, text: str = OF_EVALUATION, required: bool = True) -> None:
    """--weights FILE, with that text as its help."""
    options = {"type": path_or_name, "required": required, "metavar": "FILE", "help": text}
    parser.add_argument("--weights", **options)


def add_thresholds_option(parser: argparse.ArgumentParser, default: str = "0.5") -> None:
    """--thresholds of multi-label models."""
    parser.add_argument(
        "--thresholds",
        type=path_or_name,
        metavar="VALUE|FILE.csv",
        help="of a multi-label model: the probability above which a label is predicted (default "
        f"{default}), or a file with one for each class, of `passl eval --best-thresholds`",
    )


def add_network_options(
    parser: argparse.ArgumentParser,
    of_size: str = "of the input, if the transforms do not fix it",
) -> None:
    """-c CONFIG, -o KEY=VALUE and --size, none of which is needed if the weights name their
    network.

    Args:
        of_size: help of --size.
    """
    add_config_options(parser, positional=False)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help=of_size,
    )
    add_allow_imports_option(parser)


def add_allow_imports_option(parser: argparse.ArgumentParser) -> None:
    """--allow-imports."""
    parser.add_argument(
        "--allow-imports",
        action="store_true",
        help="import the modules that a checkpoint or an exported folder names, which runs their "
        "code",
    )


def load_network(args: argparse.Namespace, resize: bool = False) -> tuple[Model, Description]:
    """The model that --weights, -c and -o name, and its description.

    Weights of the model zoo use the transforms of their published score, unless -o changes them.

    Args:
        resize: whether --size replaces the size that the transforms fix.
    """
    check_overrides(args)
    cfg = None if args.config is None else read_config(args)

    from passl.deploy.from_weights import load
    from passl.evaluation.preset import transforms_of
    from passl.porting.resolve import zoo_entry

    entry = zoo_entry(args.weights)
    is_chosen = cfg is not None and changes_transforms(cfg)
    transforms = None if entry is None or is_chosen else transforms_of(entry.preset)
    return load(args.weights, cfg, transforms, args.size, args.allow_imports, resize)
