"""Answer HTTP requests with the predictions of networks, until SIGTERM or Ctrl-C. A web page at `/`
tries them, and one at `/docs` describes the requests. It needs the extra `serve`: in a checkout,
pip install '.[serve]'.
"""

import argparse
import os
from pathlib import Path
from urllib.parse import urlsplit

from passl.cli.options import as_path, at_least, port
from passl.errors import ConfigError

EXAMPLES = """\
passl serve exported
passl serve boots=runs/boots fashion_cvt --port 9000
passl serve exported --host 0.0.0.0 --token-file token.txt
curl --data-binary @boot.png http://127.0.0.1:8866/v1/models/exported:predict
"""
_SHORTEST_TOKEN = 16
_TOKEN = "PASSL_SERVE_TOKEN"
_COUNT, _DURATION = at_least(1), at_least(0, float)
_LIMITS = (
    ("--max-batch", _COUNT, "N", "images that are computed at once (16)"),
    ("--max-delay", _DURATION, "MS", "that an idle model waits for a second image (2)"),
    ("--max-waiting", _COUNT, "N", "images that may wait; above it, status 503 (256)"),
    ("--max-megabytes", _COUNT, "N", "of a request (16)"),
    ("--max-pixels", _COUNT, "N", "of an image (40,000,000)"),
    ("--max-images", _COUNT, "N", "of a request (32)"),
    ("--max-connections", _COUNT, "N", "at once (256)"),
    ("--timeout", at_least(1), "S", "of a request (30)"),
    ("--reload-interval", _DURATION, "S", "between two looks for changed models (5; 0: never)"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="an exported folder, a run's folder (its best weights), a weight file, or a name of "
        "the model zoo; NAME is its name in addresses (default: that of the folder)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=port, default=8866, help="default %(default)s; 0 for any")
    parser.add_argument(
        "--engine",
        default="paddle",
        metavar="NAME",
        help="paddle (default), paddle_plain, onnxruntime, openvino, or auto: the fastest, "
        "measured once",
    )
    parser.add_argument(
        "--precision", default="fp32", metavar="NAME", help="fp32 (default), bf16 or int8"
    )
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="default: all processors")
    parser.add_argument(
        "--token-file",
        type=as_path,
        metavar="FILE",
        help=f"a token that requests must carry, as `Authorization: Bearer TOKEN`; or {_TOKEN} in "
        "the environment",
    )
    parser.add_argument(
        "--origin",
        type=_origin,
        action="append",
        default=[],
        metavar="URL",
        help="a web site whose scripts may call the server (CORS), such as https://example.org; "
        "may be repeated; * for all",
    )
    limits = parser.add_argument_group("limits")
    for option, number, metavar, text in _LIMITS:
        limits.add_argument(option, type=number, metavar=metavar, help=text)
    parser.add_argument(
        "--allow-imports",
        action="store_true",
        help="import the modules that a model names, which runs their code",
    )


def _origin(text: str) -> str:
    """What browsers send as `Origin`: scheme, host and port alone."""
    parts = urlsplit(text)
    is_origin = parts.scheme in ("http", "https") and parts.hostname
    if text != "*" and (not is_origin or text != f"{parts.scheme}://{parts.netloc}".lower()):
        raise argparse.ArgumentTypeError(
            f"{text} is no web site such as https://example.org, in small letters, with no path"
        )
    return text


def main(args: argparse.Namespace) -> None:
    try:
        import fastapi  # noqa: F401
        import fastapi_offline  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"passl serve needs {error.name}; install it: in a checkout, pip install '.[serve]'"
        ) from None

    from passl.deploy.engines import check_engine
    from passl.logging import log_to_console
    from passl.serving.models import parse_source
    from passl.serving.run import serve

    log_to_console()
    check_engine(args.engine, args.precision, args.threads or 1)
    settings = _settings(args)
    sources = [parse_source(text) for text in args.models]
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two models have the name {twice[0]!r}; name one by NAME=MODEL")
    serve(sources, settings, args.host, args.port)


def _settings(args: argparse.Namespace):
    from passl.machine import usable_processors
    from passl.serving.settings import Settings

    same = (
        *("engine", "precision", "allow_imports", "max_batch", "max_waiting", "max_pixels"),
        *("max_images", "max_connections", "timeout", "reload_interval"),
    )
    given = {name: getattr(args, name) for name in same}
    given["threads"] = args.threads or usable_processors()
    if args.max_delay is not None:
        given["max_delay"] = args.max_delay / 1000
    if args.max_megabytes is not None:
        given["max_bytes"] = args.max_megabytes << 20
    chosen = {name: value for name, value in given.items() if value is not None}
    return Settings(token=_token(args.token_file), origins=args.origin, **chosen)


def _token(file: Path | None) -> str | None:
    """The token of a file or of the environment."""
    where, token = _TOKEN, os.environ.get(_TOKEN)
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigError(f"{where}: cannot be read: {reason}") from None
    if token is None:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"{where}: a token has at least {_SHORTEST_TOKEN} printable ASCII characters, this one "
            f"{len(token)}; make one by: openssl rand -hex 32"
        )
    return token
