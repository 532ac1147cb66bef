"""Generate, complete, repair and edit strings with a trained checkpoint.

    python inference.py generate --num 20 --length 24 --sampler hybrid
    python inference.py complete "(+ 3" --num 5               # five strings that begin so; --suffix "=45" says how they end
    python inference.py complete "(+ 3" --stop "))" --loop_period 8 --max_tokens 500   # what ends a string; docs/repetition.md
    python inference.py repair "(+(*75)10=45"                 # the length may change
    python inference.py repair "(+(*75)10=46" --holds --top 5 --certain 3:6   # five candidates, true ones first
    python inference.py edit "(+(*??)10)=45"                  # ? is a blank (¿ in a language with ? as a symbol)
    python inference.py edit "(+(*75)10)=45" --mask 3:5       # symbols 3 and 4, counted from 0
    python inference.py edit "(+?(*24))=1?" --holds           # only what is true, searched for and verified
    python inference.py edit "(+(*75)10)=45" --replace 2:7 --length 5..9   # a span anew, with another length
    python inference.py solve "(+ 3 (* 2 4))" --strategy adaptive --show   # step by step; docs/stepwise.md
    python inference.py repair --input damaged.txt --json     # one string a line; - is standard input

Text output has four columns: the string, whether it parses or even holds, its score (log p per symbol, nats), evaluations; of
new strings and completions a fifth: why it ended (eos, stop, length, repetition; incomplete where blanks are left); and one
more where something is to be noted (an answer far from its input, symbols read as unreadable, candidates looked at). With
--script the edits follow in a line of their own, with --top the alternatives: rank, string, verdict, share, edits. With
--stream a completion appears as it is drawn. With --json every line is one object, see docs/formats.md. A bad line is reported
in its place, the others are processed, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from maskdiff import cli
from maskdiff.config import (
    CANDIDATES,
    MAX_ALTERNATIVES,
    MAX_BEAM,
    MAX_BOUND,
    MAX_CHANGE,
    MAX_STRINGS,
    MOST_CANDIDATES,
    CompletionConfig,
    ControlConfig,
    DecodeConfig,
    SamplerConfig,
)
from maskdiff.configio import add_config_flags, build, load_decoding, overrides, sampler_config
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.stepwise.door import add_verb, solve

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.tasks import Alternative, Result

SCHEMA = 2
CHANGE = cli.Whole(0, MAX_CHANGE)
LINES_AT_A_TIME = 256
SHOWN = 3  # foreign symbols in a note
WORTH_SAYING = 0.01  # share that a beam may have left out, above which its user is told
EDITOR = SamplerConfig("entropy", steps=0)  # what refinements of `edit` refine: it sees both sides of a blank


def build_parser() -> cli.Parser:
    """All flags of all verbs."""
    parser = cli.Parser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=cli.Parser)
    generate = verbs.add_parser("generate", help="new strings", description="New strings of the language.")
    generate.add_argument(
        "--num", type=cli.Whole(0, MAX_STRINGS), default=1, metavar="N", help="how many (default 1)"
    )
    generate.add_argument(
        "--length", type=cli.length_range, metavar="N", help="in symbols: N or N..M (default: as in the data)"
    )
    repair = _repair_verb(verbs)
    complete = verbs.add_parser(
        "complete",
        help="go on from what was typed",
        description="Strings that begin with what was typed, see docs/completion.md.",
    )
    complete.add_argument(
        "--num", type=cli.Whole(1, MAX_STRINGS), default=1, metavar="N",
        help="completions of each string (default 1)",
    )  # fmt: skip
    complete.add_argument("--suffix", default="", metavar="TEXT", help="how the strings end (drawn by the bidirectional mode)")
    complete.add_argument("--stream", action="store_true", help="show a completion character by character as it is drawn")
    edit = verbs.add_parser(
        "edit", help="fill blanks", description="Fill the blanks (?, or ¿ where ? is a symbol) of strings; all else stays."
    )
    edit.add_argument("--mask", type=cli.span, action="append", default=[], metavar="A:B", help="blank symbols A to B-1, too")
    edit.add_argument("--holds", action="store_true", help="search for a filling that is true, or say that there is none")
    edit.add_argument(
        "--bound", type=cli.Whole(1, MAX_BOUND), metavar="N",
        help="beginnings the search looks at (default 100000)",
    )  # fmt: skip
    edit.add_argument("--replace", type=cli.gap, metavar="A:B", help="new symbols for A to B-1; A:A inserts before symbol A")
    edit.add_argument("--length", type=cli.new_length, metavar="N", help="how many new ones: N or N..M (default: as before)")
    for verb in (repair, edit, complete):
        verb.add_argument("texts", nargs="*", metavar="TEXT", help="strings")
        verb.add_argument("--input", metavar="FILE", help="read strings from FILE, one a line; - is standard input")
    for verb in (repair, edit):
        add_search_flags(verb)
    generate.add_argument("--trace", action="store_true", help="print the run step by step")
    for verb in (generate, complete, repair, edit):
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        verb.add_argument("--pretty", action="store_true", help="print strings that parse with spaces")
        cli.add_machine_flags(verb)
        cli.add_language_flags(verb)
    for verb in (generate, edit):
        add_config_flags(verb, SamplerConfig)
    add_config_flags(complete, CompletionConfig)
    for verb in (generate, complete):
        add_config_flags(verb, ControlConfig)
        verb.add_argument(
            "--config", metavar="YAML", help="settings of sampling, see docs/repetition.md; flags go on top of it"
        )
    add_verb(verbs)
    return parser


def _repair_verb(verbs: Any) -> cli.Parser:
    """The verb `repair` with the flags that it alone has."""
    repair: cli.Parser = verbs.add_parser(
        "repair", help="mend damaged strings", description="What damaged strings were meant to be."
    )
    repair.add_argument("--method", default="channel", metavar="NAME", help="channel (default), draft, least_edits (no model)")
    repair.add_argument("--sigma", type=cli.unit, metavar="S", help="share of damaged symbols (default: several are tried)")
    repair.add_argument(
        "--slack", type=CHANGE, default=2, metavar="N",
        help="the length changes by at most N (default 2)",
    )  # fmt: skip
    repair.add_argument("--grammar", action="store_true", help="only strings that parse; one that parses stays as it is")
    repair.add_argument("--holds", action="store_true", help="strings that are true before others that parse")
    repair.add_argument(
        "--max_edits", type=CHANGE, metavar="N",
        help="at most N insertions, deletions and replacements",
    )  # fmt: skip
    repair.add_argument(
        "--certain", type=cli.span, action="append", default=[], metavar="A:B", help="symbols A to B-1 stay; may be repeated"
    )
    repair.add_argument(
        "--top", type=cli.Whole(1, MAX_ALTERNATIVES), default=1, metavar="N",
        help="list the N best alternatives (default 1)",
    )  # fmt: skip
    repair.add_argument("--script", action="store_true", help="print the edits that lead from the input to the result")
    return repair


def add_search_flags(verb: argparse.ArgumentParser) -> None:
    """The flags of verbs that search for the likeliest answer."""
    verb.add_argument(
        "--beam", type=cli.Whole(1, MAX_BEAM), default=16, metavar="N",
        help="hypotheses of the beam (default 16)",
    )  # fmt: skip
    verb.add_argument(
        "--candidates", type=cli.Whole(1, MOST_CANDIDATES), default=CANDIDATES, metavar="N",
        help=f"the likeliest, looked at for one that is valid (default {CANDIDATES})",
    )  # fmt: skip
    verb.add_argument("--trace", action="store_true", help="print the run step by step")


def decoding(args: argparse.Namespace) -> DecodeConfig:
    """The settings of new strings and completions: those of --config, the flags on top of it. Raises ConfigError."""
    base = load_decoding(args.config) if args.config else DecodeConfig()
    completion = build(
        CompletionConfig, overrides(args, CompletionConfig) if args.verb == "complete" else {}, base=base.completion
    )
    control = build(ControlConfig, overrides(args, ControlConfig), base=base.control)
    return DecodeConfig(sampler_config(args, base.sampler), completion, control)


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
        settings = decoding(args)
        yield from tasks.generating(
            loaded, args.num, length=args.length, sampler=settings.sampler, seed=args.seed, trace=args.trace,
            control=settings.control,
        )  # fmt: skip
        return
    texts = requests(args)
    first = next(texts, None)
    if first is None:
        raise DataError(f"nothing to {args.verb}: the input is empty")
    texts = itertools.chain([first], texts)
    if args.verb == "complete":
        yield from completed(args, loaded, texts)
        return
    while batch := list(itertools.islice(texts, LINES_AT_A_TIME)):
        if args.verb == "repair":
            yield from tasks.repair(
                loaded, batch, method=args.method, sigma=args.sigma, beam=args.beam, slack=args.slack, grammar=args.grammar,
                holds=args.holds, max_edits=args.max_edits, top=args.top,
                candidates=args.candidates, certain=args.certain, seed=args.seed, trace=args.trace,
            )  # fmt: skip
        else:
            yield from edited(args, loaded, batch)


def completed(args: argparse.Namespace, loaded: Loaded, texts: Iterable[str | DataError]) -> Iterator[Result]:
    """The results of `complete`; with --stream their characters are printed as they come."""
    from maskdiff import tasks

    if args.stream and args.pretty:
        raise ConfigError("--pretty needs a whole string, and --stream shows its parts; give one of them")

    settings = decoding(args)
    if args.stream and settings.control.first_complete:
        raise ConfigError("--first_complete needs a whole string, and --stream shows its parts; give one of them")
    texts, request = iter(texts), 0

    def counted() -> Iterator[str | DataError]:
        nonlocal request
        for text in texts:
            request += 1
            yield text

    def watch(number: int, characters: str) -> None:
        if args.json:
            event = {"schema": SCHEMA, "verb": "complete", "index": request, "sample": number + 1, "delta": characters}
            print(json.dumps(event), flush=True)
        else:
            print(cli.printable(characters), end="", flush=True)

    seen = watch if args.stream else None
    yield from tasks.completing(
        loaded, counted(), num=args.num, suffix=args.suffix, settings=settings.completion, seed=args.seed,
        control=settings.control, watch=seen,
    )  # fmt: skip


def numbered(args: argparse.Namespace, results: Iterable[Result]) -> Iterator[tuple[int, int, Result]]:
    """Results with the number of their request and, of a request that has several, their own; both from 1."""
    most = args.num if args.verb == "complete" else 1
    request, sample = 0, most
    for result in results:
        request, sample = (request + 1, 1) if sample == most else (request, sample + 1)
        yield request, sample, result
        if result.error is not None:  # one error stands for all samples of its request
            sample = most


def edited(args: argparse.Namespace, loaded: Loaded, batch: Sequence[str | DataError]) -> list[Result]:
    """The results of `edit`: blanks filled, or a span rewritten, or what has to hold searched for. Raises ConfigError."""
    from maskdiff import tasks
    from maskdiff.solve import BOUND

    settings = overrides(args, SamplerConfig)
    grammar = bool(settings.pop("grammar", False))  # no setting of a draw: without any of those, the best filling
    sampler = sampler_config(args, EDITOR) if settings else None
    if args.holds and settings:
        raise ConfigError(f"--holds searches and draws nothing; leave out --{' --'.join(settings)}")
    if args.bound is not None and not args.holds:
        raise ConfigError("--bound is that of a search; give --holds, too")
    if args.length is not None and args.replace is None:
        raise ConfigError("--length is that of new symbols; give --replace A:B, too")
    bound = args.bound or BOUND
    if args.replace is not None:
        return tasks.rewrite(
            loaded, batch, replace=args.replace, length=args.length, masks=args.mask, holds=args.holds, bound=bound,
            sampler=sampler, beam=args.beam, candidates=args.candidates, grammar=grammar,
            seed=args.seed, trace=args.trace,
        )  # fmt: skip
    if args.holds:
        return tasks.solve(loaded, batch, masks=args.mask, bound=bound, trace=args.trace)
    if not args.mask:
        batch = [with_a_blank(text, loaded) for text in batch]
    return tasks.edit(
        loaded, batch, masks=args.mask, sampler=sampler, beam=args.beam, candidates=args.candidates,
        grammar=grammar, seed=args.seed, trace=args.trace,
    )  # fmt: skip


def with_a_blank(text: str | DataError, loaded: Loaded) -> str | DataError:
    """The text, or an error in its place where it has `?` for blanks and that is a symbol of the language."""
    blank = loaded.language.vocabulary.blank
    if isinstance(text, str) and "?" in text and blank not in text:
        return DataError(
            f"nothing to fill in {quote(text)}: ? is a symbol of {loaded.language.name}, a blank is written {blank}"
        )
    return text


def as_object(verb: str, result: Result, number: int, sample: int) -> dict[str, Any]:
    """The JSON object of a result; `input` and `error` only where there is one."""
    item: dict[str, Any] = {"schema": SCHEMA, "verb": verb, "index": number}
    if verb == "complete":
        item["sample"] = sample
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
    if result.candidates is not None:
        item["candidates"] = result.candidates
    if result.foreign:
        item["foreign"] = [{"position": i, "symbol": s} for i, s in result.foreign.items()]
    if result.change is not None:
        item["change"] = asdict(result.change) | {"far": result.change.far}
    if result.completion is not None:
        item["completion"] = asdict(result.completion)
    if result.edits is not None:
        item["edits"] = [asdict(edit) for edit in result.edits]
    if result.alternatives:
        item["alternatives"] = [asdict(alternative) for alternative in result.alternatives]
    if result.error:
        item["error"] = result.error
    if result.trace is not None:
        item["trace"] = list(result.trace)
    return item


def as_text(result: Result, loaded: Loaded, pretty: bool, why: bool) -> str:
    """The columns of a result, separated by tabs: four, why it ended, what is to be noted."""
    text = loaded.language.pretty(result.text) if pretty and result.parses else result.text
    score = "-" if result.score is None else f"{result.score:.3f}"
    columns = [cli.printable(text), verdict(result), score, str(result.evaluations)]
    columns += [result.finish_reason] if why else []
    if noted := "; ".join(notes(result)):
        columns.append(cli.printable(noted))
    return "\t".join(columns)


def notes(result: Result) -> Iterator[str]:
    """What is to be known of an answer beside its verdict; mostly nothing."""
    if result.change is not None and result.change.far:
        changed, given = result.change.changed, result.change.given
        yield f"far from the language: {changed} of {given} symbols changed"
    if result.foreign:
        shown = [f"{quote(s)} at {i}" for i, s in [*result.foreign.items()][:SHOWN]]
        more = len(result.foreign) - len(shown)
        yield f"read as unreadable: {', '.join(shown)}" + (f" and {more} more" if more else "")
    looked = result.candidates or 1
    if looked > 1:
        counted = f"{looked} candidates"
        yield f"{counted} looked at" if result.parses else f"none of {counted} is valid"


def verdict(item: Result | Alternative) -> str:
    """What the language says of a string."""
    return "holds" if item.holds else "parses" if item.parses else "unchecked" if item.parses is None else "invalid"


def more_lines(result: Result, script: bool) -> Iterator[str]:
    """The indented lines under a repaired string: its edits, then the alternatives with rank, verdict, share and edits."""
    from maskdiff.edits import render

    if script and result.edits is not None:
        yield f"  {cli.printable(render(result.edits))}"
    for rank, item in enumerate(result.alternatives, start=1):
        yield f"  {rank}\t{cli.printable(item.text)}\t{verdict(item)}\t{item.share:.3f}\t{cli.printable(render(item.edits))}"


def show(args: argparse.Namespace, loaded: Loaded, result: Result, number: int, sample: int) -> None:
    """Print one result; in text an error goes to the error stream, and an empty line keeps its place in a batch."""
    if args.json:
        print(json.dumps(as_object(args.verb, result, number, sample)))
        return
    if result.trace is not None:
        print("\n".join(result.trace))
    summary = result.completion
    if summary is not None and sample == 1 and summary.mode == "beam" and summary.dropped > WORTH_SAYING:
        told = f"up to {summary.dropped:.2g} of the probability may lie in histories that the beam left out; widen --beam"
        print(f"inference.py: string {number}: {told}", file=sys.stderr)
    if result.error is None and getattr(args, "stream", False):
        print(as_text(replace(result, text=""), loaded, False, True))  # its first column is there already
        return
    if result.error is None:
        why = args.verb in ("generate", "complete")
        print("\n".join([as_text(result, loaded, args.pretty, why), *more_lines(result, getattr(args, "script", False))]))
        if args.verb == "repair" and args.holds and not result.holds:
            print(
                f"inference.py: string {number}: nothing near it was found that holds; the answer only parses", file=sys.stderr
            )
        return
    print(f"inference.py: string {number}: {result.error}", file=sys.stderr)
    if getattr(args, "input", None) is not None:
        print()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, answer; 2 if any request failed. Raises UserError."""
    args = build_parser().parse_args(argv)
    cli.use_threads(args.threads)
    if args.verb == "solve":
        return solve(args)
    from maskdiff.checkpoint import Spoken, load_denoiser

    path = args.checkpoint or cli.default_checkpoint()
    spoken = Spoken.of(args)
    loaded = load_denoiser(path, args.device, spoken)
    failed = False
    total = args.num if args.verb == "generate" else None
    quiet = sys.stdout.isatty() or not sys.stderr.isatty()  # a bar only where it does not run into the answers
    bar = tqdm(answers(args, loaded), total=total, unit="string", disable=quiet)
    for made, (number, sample, result) in enumerate(numbered(args, bar), start=1):
        show(args, loaded, result, number, sample)
        failed = failed or result.error is not None
        if made % LINES_AT_A_TIME == 0:
            sys.stdout.flush()
    return cli.BAD_INPUT if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run_door(main))
