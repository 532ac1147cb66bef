"""Generate, repair and edit strings with a trained checkpoint.

    python inference.py generate --num 20 --length 24 --sampler hybrid
    python inference.py repair "(+(*75)10=45"                 # the length may change
    python inference.py edit "(+(*??)10)=45"                  # ? is a blank
    python inference.py edit "(+(*75)10)=45" --mask 3:5       # symbols 3 and 4, counted from 0
    python inference.py repair --input damaged.txt --json     # one string a line; - is standard input

Text output has four columns: the string, whether it parses or even holds, its score (log p per symbol, nats), evaluations.
With --json every line is one object, see docs/formats.md. A bad line is reported in its place, the others are processed, and
the exit status is 2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from maskdiff import cli
from maskdiff.config import SamplerConfig
from maskdiff.configio import add_config_flags, overrides, sampler_config
from maskdiff.errors import DataError

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.tasks import Result

SCHEMA = 1
LINES_AT_A_TIME = 256
EDITOR = SamplerConfig("entropy", steps=0)  # what refinements of `edit` refine: it sees both sides of a blank


def build_parser() -> cli.Parser:
    """All flags of all verbs."""
    parser = cli.Parser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=cli.Parser)
    generate = verbs.add_parser("generate", help="new strings", description="New strings of the language.")
    generate.add_argument("--num", type=cli.natural, default=1, metavar="N", help="how many (default 1)")
    generate.add_argument(
        "--length", type=cli.length_range, metavar="N", help="in symbols: N or N..M (default: as in the data)"
    )
    repair = verbs.add_parser("repair", help="mend damaged strings", description="What damaged strings were meant to be.")
    repair.add_argument("--method", default="channel", metavar="NAME", help="channel (default), draft, least_edits (no model)")
    repair.add_argument("--sigma", type=cli.unit, metavar="S", help="share of damaged symbols (default: several are tried)")
    repair.add_argument("--slack", type=cli.natural, default=2, metavar="N", help="the length changes by at most N (default 2)")
    repair.add_argument("--grammar", action="store_true", help="only strings that parse; one that parses stays as it is")
    edit = verbs.add_parser("edit", help="fill blanks", description="Fill the blanks (?) of strings; all else stays.")
    edit.add_argument("--mask", type=cli.span, action="append", default=[], metavar="A:B", help="blank symbols A to B-1, too")
    for verb in (repair, edit):
        verb.add_argument("texts", nargs="*", metavar="TEXT", help="strings")
        verb.add_argument("--input", metavar="FILE", help="read strings from FILE, one a line; - is standard input")
        verb.add_argument("--beam", type=cli.positive, default=16, metavar="N", help="hypotheses of the beam (default 16)")
    for verb in (generate, repair, edit):
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        verb.add_argument("--trace", action="store_true", help="print the run step by step")
        verb.add_argument("--pretty", action="store_true", help="print strings that parse with spaces")
        cli.add_machine_flags(verb)
    for verb in (generate, edit):
        add_config_flags(verb, SamplerConfig)
    return parser


def requests(args: argparse.Namespace) -> Iterator[str | DataError]:
    """The strings to work on: the arguments, then the lines of --input."""
    texts: Iterable[str | DataError] = args.texts
    if args.input is not None:
        texts = itertools.chain(texts, cli.read_lines(args.input))
    elif not args.texts:
        raise DataError(f"nothing to {args.verb}; give strings as arguments, or --input FILE (- is standard input)")
    return iter(texts)


def answers(args: argparse.Namespace, loaded: Loaded) -> Iterator[Result]:
    """Results in the order of the requests, a batch at a time."""
    from maskdiff import tasks

    if args.verb == "generate":
        yield from tasks.generating(
            loaded, args.num, length=args.length, sampler=sampler_config(args), seed=args.seed, trace=args.trace
        )
        return
    texts = requests(args)
    first = next(texts, None)
    if first is None:
        raise DataError(f"nothing to {args.verb}: the input is empty")
    texts = itertools.chain([first], texts)
    while batch := list(itertools.islice(texts, LINES_AT_A_TIME)):
        if args.verb == "repair":
            yield from tasks.repair(
                loaded, batch, method=args.method, sigma=args.sigma, beam=args.beam, slack=args.slack, grammar=args.grammar,
                seed=args.seed, trace=args.trace,
            )  # fmt: skip
        else:
            settings = overrides(args, SamplerConfig)
            grammar = bool(settings.pop("grammar", False))  # no setting of a draw: without any of those, the best filling
            sampler = sampler_config(args, EDITOR) if settings else None
            yield from tasks.edit(
                loaded, batch, masks=args.mask, sampler=sampler, beam=args.beam, grammar=grammar, seed=args.seed,
                trace=args.trace,
            )  # fmt: skip


def as_object(verb: str, result: Result, number: int) -> dict[str, Any]:
    """The JSON object of a result; `input` and `error` only where there is one."""
    item: dict[str, Any] = {"schema": SCHEMA, "verb": verb, "index": number}
    if result.input is not None:
        item["input"] = result.input
    item |= {
        "text": None if result.error else result.text,
        "parses": result.parses,
        "holds": result.holds,
        "score": result.score,
        "evaluations": result.evaluations,
        "finish_reason": result.finish_reason,
    }
    if result.error:
        item["error"] = result.error
    if result.trace is not None:
        item["trace"] = list(result.trace)
    return item


def as_text(result: Result, loaded: Loaded, pretty: bool) -> str:
    """The four columns of a result, separated by tabs."""
    text = loaded.language.pretty(result.text) if pretty and result.parses else result.text
    verdict = "holds" if result.holds else "parses" if result.parses else "invalid"
    verdict = verdict if loaded.language.validity else "unchecked"
    score = "-" if result.score is None else f"{result.score:.3f}"
    return f"{text}\t{verdict}\t{score}\t{result.evaluations}"


def show(args: argparse.Namespace, loaded: Loaded, result: Result, number: int) -> None:
    """Print one result; in text an error goes to the error stream, and an empty line keeps its place in a batch."""
    if args.json:
        print(json.dumps(as_object(args.verb, result, number)))
        return
    if result.trace is not None:
        print("\n".join(result.trace))
    if result.error is None:
        print(as_text(result, loaded, args.pretty))
        return
    print(f"inference.py: string {number}: {result.error}", file=sys.stderr)
    if getattr(args, "input", None) is not None:
        print()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, answer; 2 if any request failed. Raises UserError."""
    args = build_parser().parse_args(argv)
    cli.use_threads(args.threads)
    from maskdiff.checkpoint import load_denoiser

    loaded = load_denoiser(args.checkpoint or cli.default_checkpoint(), args.device, args.validity)
    failed = False
    total = args.num if args.verb == "generate" else None
    quiet = sys.stdout.isatty() or not sys.stderr.isatty()  # a bar only where it does not run into the answers
    for number, result in enumerate(tqdm(answers(args, loaded), total=total, unit="string", disable=quiet), start=1):
        show(args, loaded, result, number)
        failed = failed or result.error is not None
        if number % LINES_AT_A_TIME == 0:
            sys.stdout.flush()
    return cli.BAD_INPUT if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run_door(main))
