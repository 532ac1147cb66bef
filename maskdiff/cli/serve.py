"""`maskdiff serve`: a checkpoint behind OpenAI's HTTP interface, until Ctrl-C or SIGTERM.

    maskdiff serve --checkpoint checkpoints/arithmetic-steps.pt
    maskdiff serve --checkpoint checkpoints/arithmetic-steps.pt --port 0 --prefill restart

`maskdiff --help` imports this module, so functions import heavy and optional packages themselves.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from maskdiff.cli import arguments as cli
from maskdiff.config_io import add_config_flags, build, overrides
from maskdiff.errors import ConfigError
from maskdiff.serving.model import LOOPBACK, PREFILLS, ServedModel, ServerLimits

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Stepwise
    from maskdiff.stepwise.causal import CausalBackend

MAX_TOKENS = 1024  # default room for prompt and answer
MOST_TOKENS = 16_384  # the most that our causal mode has room for


def add_verb(verbs: argparse._SubParsersAction[cli.Parser]) -> None:
    """Add the verb `serve` and its flags."""
    verb = verbs.add_parser(
        "serve",
        help="answer OpenAI's clients over HTTP",
        description="A checkpoint behind OpenAI's HTTP interface (docs/serving.md). "
        "There is no authentication.",
    )
    verb.add_argument(
        "--host", default="127.0.0.1", metavar="HOST",
        help="address to listen on (default 127.0.0.1)",
    )  # fmt: skip
    verb.add_argument(
        "--port", type=cli.IntegerRange(0, 65_535), default=8000, metavar="N",
        help="0 picks a free one (default 8000)",
    )  # fmt: skip
    verb.add_argument(
        "--name", default="", metavar="NAME",
        help="name of the model for clients (default: that of its training)",
    )  # fmt: skip
    modes = ", ".join(PREFILLS)
    verb.add_argument(
        "--prefill", choices=PREFILLS, default="continue", metavar="MODE",
        help=f"how to answer a chat that ends with the assistant: {modes} (default continue)",
    )  # fmt: skip
    verb.add_argument(
        "--max_tokens", type=cli.IntegerRange(2, MOST_TOKENS), default=MAX_TOKENS, metavar="N",
        help=f"room for prompt and answer, in tokens (default {MAX_TOKENS})",
    )  # fmt: skip
    cli.add_machine_flags(
        verb,
        checkpoint="what to serve (default checkpoints/arithmetic-steps.pt)",
        seed_help="not used: a request has its own, or none",
    )
    cli.add_language_flags(verb)
    add_config_flags(verb, ServerLimits)


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal ends the process; return 0. Raises UserError."""
    _check_extra()
    from maskdiff.serving.app import create_app
    from maskdiff.serving.server import GRACE, Server, open_listener

    limits = limits_of(args)
    # The socket comes first, so that a port in use is found before the model is loaded.
    with exit_on_signals(), open_listener(args.host, args.port) as listener:
        model = load_model(args)
        address, port = listener.getsockname()[:2]
        url = f"http://{_bracketed(args.host)}:{port}/v1"
        app = create_app(model, limits, args.prefill, host_names(args.host, address))
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            _log(f"{args.host} may be reached by others, and there is no authentication")
        try:
            Server(app, lambda: _log(f"serving {model.name} on {url}")).run(sockets=[listener])
        except SystemExit:  # a signal
            if not app.state.scheduler.idle.wait(GRACE):  # Python would wait for the running call
                sys.stderr.flush()
                os._exit(0)
            raise
    return 0


def limits_of(args: argparse.Namespace) -> ServerLimits:
    """Return the limits of the flags, with fewer connections than open files are allowed.

    Raises ConfigError.
    """
    from maskdiff.serving.server import raise_file_limit

    given = overrides(args, ServerLimits)
    limits, most = build(ServerLimits, given), raise_file_limit() * 3 // 4
    if limits.max_connections <= most:
        return limits
    if "max_connections" in given:
        raise ConfigError(
            f"max_connections is {limits.max_connections}; at most {most} are possible, three "
            "quarters of the open files that this process may have (ulimit -n)"
        )
    return replace(limits, max_connections=most)


def host_names(host: str, address: str) -> tuple[str, ...]:
    """Return the allowed host names of a server that listens on `address` for --host `host`."""
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
        return ("*",)
    return tuple(dict.fromkeys((*LOOPBACK, _bracketed(host), _bracketed(address))))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def load_model(args: argparse.Namespace) -> ServedModel:
    """Return the model of the checkpoint. Raises UserError."""
    from maskdiff.checkpoint import LanguageOverride, load_denoiser
    from maskdiff.config import TrainConfig
    from maskdiff.languages import Stepwise

    if args.max_tokens > MOST_TOKENS:
        raise ConfigError(f"max_tokens is {args.max_tokens}; at most {MOST_TOKENS} are possible")
    path = args.checkpoint or cli.default_checkpoint("arithmetic-steps.pt")
    loaded = load_denoiser(path, args.device, LanguageOverride.of(args))
    language, run = loaded.language, loaded.config.train.name
    name = args.name or (run if run != TrainConfig().name else Path(path).stem)
    memory = 2 * build(ServerLimits, overrides(args, ServerLimits)).answer_bytes
    backend = open_backend(loaded, name, memory)
    return ServedModel(
        backend=backend,
        name=name,
        chat_prompt=_problem_prompt(language) if isinstance(language, Stepwise) else str,
        max_tokens=args.max_tokens,
        count_tokens=lambda text: len(loaded.vocabulary.encode(text)),
        trim=trimmer("".join(loaded.vocabulary.symbols)),
        token_bytes=backend.token_bytes,
    )


def _problem_prompt(language: Stepwise) -> Callable[[str], str]:
    return lambda text: language.prompt(text.strip())


def trimmer(readable: str) -> Callable[[str], str]:
    """Return a function that strips white space except the `readable` characters from a text."""
    spaces = (c for c in map(chr, range(0x3001)) if c.isspace())  # the last one is U+3000
    white = "".join(c for c in spaces if c not in readable)
    return lambda text: text.strip(white)


def open_backend(loaded: Loaded, name: str, memory: int) -> CausalBackend:
    """Return the backend, which caches up to `memory` bytes.

    Raises ConfigError for a model without a causal mode.
    """
    from maskdiff.stepwise.causal import CausalBackend

    return CausalBackend(loaded, name, memory)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM exit with status 0 in the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'serving needs the packages fastapi and uvicorn: pip install "maskdiff[serve]"'
        ) from error


def _log(line: str) -> None:
    print(f"maskdiff: {line}", file=sys.stderr, flush=True)


__all__ = [
    "add_verb", "exit_on_signals", "host_names", "limits_of", "load_model", "open_backend", "serve",
    "trimmer",
]  # fmt: skip
