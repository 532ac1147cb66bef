"""`maskdiff serve`: a checkpoint behind OpenAI's HTTP interface, until Ctrl-C or SIGTERM.

    maskdiff serve --checkpoint checkpoints/arithmetic-steps.pt
    maskdiff serve --checkpoint checkpoints/arithmetic-steps.pt --port 0 --prefill restart

For: flags -> app -> one call. Not for: routes (`app.py`). Easy to get wrong: `maskdiff --help` reads this file, so all that is
heavy, or an extra, is imported when it is needed.
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
from maskdiff.serving.served import LOOPBACK, PREFILLS, Limits, Served

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Stepwise
    from maskdiff.stepwise.causal import CausalBackend

MAX_TOKENS, MOST_TOKENS = (
    1024,
    16_384,
)  # room for prompt and answer: by default, and of our causal mode at most


def add_verb(verbs: argparse._SubParsersAction[cli.Parser]) -> None:
    """The verb `serve` and its flags."""
    verb = verbs.add_parser(
        "serve",
        help="answer OpenAI's clients over HTTP",
        description="A checkpoint behind OpenAI's HTTP interface (docs/serving.md). There is no authentication.",
    )
    verb.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on (default 127.0.0.1)",
    )
    verb.add_argument(
        "--port", type=cli.IntegerRange(0, 65_535), default=8000, metavar="N",
        help="0 picks a free one (default 8000)",
    )  # fmt: skip
    verb.add_argument(
        "--name",
        default="",
        metavar="NAME",
        help="of the model, for clients (default: of its training)",
    )
    verb.add_argument(
        "--prefill", choices=PREFILLS, default="continue", metavar="MODE",
        help=f"what becomes of a chat that ends with the assistant: {', '.join(PREFILLS)} (default continue)",
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
    add_config_flags(verb, Limits)


def serve(args: argparse.Namespace) -> int:
    """Listen until a signal ends it; 0. Raises UserError."""
    _check_extra()
    from maskdiff.serving.app import create_app
    from maskdiff.serving.local import GRACE, Server, listening

    limits = limits_of(args)
    with (
        ended_by_signals(),
        listening(args.host, args.port) as listener,
    ):  # a taken port is found before the model is read
        served = open_served(args)
        address, port = listener.getsockname()[:2]
        url = f"http://{_bracketed(args.host)}:{port}/v1"
        app = create_app(served, limits, args.prefill, hosts_of(args.host, address))
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            _say(f"{args.host} may be reached by others, and there is no authentication")
        try:
            Server(app, lambda: _say(f"serving {served.name} on {url}")).run(sockets=[listener])
        except SystemExit:  # a signal
            if not app.state.desk.idle.wait(GRACE):  # Python would wait for the running slice
                sys.stderr.flush()
                os._exit(0)
            raise
    return 0


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits of the flags, with fewer connections than open files are allowed.

    Raises ConfigError.
    """
    from maskdiff.serving.local import open_files

    given = overrides(args, Limits)
    limits, most = build(Limits, given), open_files() * 3 // 4
    if limits.max_connections <= most:
        return limits
    if "max_connections" in given:
        raise ConfigError(
            f"max_connections is {limits.max_connections}; at most {most} are possible, three "
            "quarters of the open files that this process may have (ulimit -n)"
        )
    return replace(limits, max_connections=most)


def hosts_of(host: str, address: str) -> tuple[str, ...]:
    """What clients may call a server that listens on `address` because of --host `host`."""
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
        return ("*",)
    return tuple(dict.fromkeys((*LOOPBACK, _bracketed(host), _bracketed(address))))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def open_served(args: argparse.Namespace) -> Served:
    """The checkpoint as something to serve. Raises UserError."""
    from maskdiff.checkpoint import LanguageOverride, load_denoiser
    from maskdiff.config import TrainConfig
    from maskdiff.languages import Stepwise

    if args.max_tokens > MOST_TOKENS:
        raise ConfigError(f"max_tokens is {args.max_tokens}; at most {MOST_TOKENS} are possible")
    path = args.checkpoint or cli.default_checkpoint("arithmetic-steps.pt")
    override = LanguageOverride.of(args)
    loaded = load_denoiser(path, args.device, override)
    run = loaded.config.train.name
    name = args.name or (run if run != TrainConfig().name else Path(path).stem)
    generator = open_backend(loaded, name, 2 * build(Limits, overrides(args, Limits)).room)
    return Served(
        generator=generator,
        name=name,
        turn=_problem_prompt(loaded.language) if isinstance(loaded.language, Stepwise) else str,
        max_tokens=args.max_tokens,
        count=lambda text: len(loaded.vocabulary.encode(text)),
        trim=trimmer("".join(loaded.vocabulary.symbols)),
        token_bytes=generator.token_bytes,
    )


def _problem_prompt(language: Stepwise) -> Callable[[str], str]:
    return lambda text: language.prompt(text.strip())


def trimmer(readable: str) -> Callable[[str], str]:
    """A function that removes white space at the ends of a text, except `readable` characters."""
    spaces = (c for c in map(chr, range(0x3001)) if c.isspace())  # the last one is U+3000
    white = "".join(c for c in spaces if c not in readable)
    return lambda text: text.strip(white)


def open_backend(loaded: Loaded, name: str, memory: int) -> CausalBackend:
    """What proposes the tokens and keeps `memory` bytes.

    Raises ConfigError for a model that cannot.
    """
    from maskdiff.stepwise.causal import CausalBackend

    return CausalBackend(loaded, name, memory)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM leave the block as an exit with status 0; outside the main thread nothing changes."""
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


def _say(line: str) -> None:
    print(f"maskdiff: {line}", file=sys.stderr, flush=True)


__all__ = [
    "add_verb", "ended_by_signals", "hosts_of", "limits_of", "open_backend", "open_served",
    "serve", "trimmer",
]  # fmt: skip
