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

Text output has four columns: the string, whether it parses or even holds, its score (log p per
symbol, nats), evaluations; of new strings and completions a fifth: why it ended (eos, stop, length,
repetition; incomplete where blanks are left); and one more where something is to be noted (an
answer far from its input, symbols read as unreadable, candidates looked at). With --script the
edits follow in a line of their own, with --top the alternatives: rank, string, verdict, share,
edits. With --stream a completion appears as it is drawn. With --json every line is one object, see
docs/formats.md. A bad line is reported in its place, the others are processed, and the exit status
is 2. Results appear in small batches; equal strings are worked on once. --timeout limits the time
of each string; without an answer by then the exit status is 124.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from maskdiff.cli import arguments as cli
from maskdiff.cli.solve import add_solve_command, run_solve
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
from maskdiff.config_io import add_config_flags, build, load_decoding, overrides, sampler_config
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.utils.batches import LARGEST, LARGEST_ON_GPU, ProgressBar, Requests, answered, growing
from maskdiff.utils.deadline import Deadline, TimedOut
from maskdiff.utils.lines import Line, count_lines, open_lines

if TYPE_CHECKING:
    import torch

    from maskdiff.checkpoint import Loaded
    from maskdiff.cli.results import Stream
    from maskdiff.tasks import Result

    Work = Callable[
        [Sequence[Line]], Iterable[tuple[int, Result]]
    ]  # a batch -> (place in it, result)

CHANGE = cli.IntegerRange(0, MAX_CHANGE)
PERIOD = 256  # strings after which the random keys of `edit` and `repair` begin again
EDITOR = SamplerConfig(
    "entropy", steps=0
)  # what refinements of `edit` refine: it sees both sides of a blank


def build_parser() -> cli.Parser:
    """All flags of all verbs."""
    parser = cli.Parser(description=__doc__)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=cli.Parser
    )
    generate = verbs.add_parser(
        "generate", help="new strings", description="New strings of the language."
    )
    generate.add_argument(
        "--num",
        type=cli.IntegerRange(0, MAX_STRINGS),
        default=1,
        metavar="N",
        help="how many (default 1)",
    )
    generate.add_argument(
        "--length",
        type=cli.length_range,
        metavar="N",
        help="in symbols: N or N..M (default: as in the data)",
    )
    repair = _repair_verb(verbs)
    complete = verbs.add_parser(
        "complete",
        help="go on from what was typed",
        description="Strings that begin with what was typed, see docs/completion.md.",
    )
    complete.add_argument(
        "--num", type=cli.IntegerRange(1, MAX_STRINGS), default=1, metavar="N",
        help="completions of each string (default 1)",
    )  # fmt: skip
    complete.add_argument(
        "--suffix",
        default="",
        metavar="TEXT",
        help="how the strings end (drawn by the bidirectional mode)",
    )
    complete.add_argument(
        "--stream",
        action="store_true",
        help="show a completion character by character as it is drawn",
    )
    edit = verbs.add_parser(
        "edit",
        help="fill blanks",
        description="Fill the blanks (?, or ¿ where ? is a symbol) of strings; all else stays.",
    )
    edit.add_argument(
        "--mask",
        type=cli.span,
        action="append",
        default=[],
        metavar="A:B",
        help="blank symbols A to B-1, too",
    )
    edit.add_argument(
        "--holds",
        action="store_true",
        help="search for a filling that is true, or say that there is none",
    )
    edit.add_argument(
        "--bound", type=cli.IntegerRange(1, MAX_BOUND), metavar="N",
        help="beginnings the search looks at (default 100000)",
    )  # fmt: skip
    edit.add_argument(
        "--replace",
        type=cli.insertion_span,
        metavar="A:B",
        help="new symbols for A to B-1; A:A inserts before symbol A",
    )
    edit.add_argument(
        "--length",
        type=cli.new_length,
        metavar="N",
        help="how many new ones: N or N..M (default: as before)",
    )
    for verb in (repair, edit, complete):
        verb.add_argument("texts", nargs="*", metavar="TEXT", help="strings")
        verb.add_argument(
            "--input",
            metavar="FILE",
            help="read strings from FILE, one a line; - is standard input",
        )
    for verb in (repair, edit):
        add_search_flags(verb)
    generate.add_argument("--trace", action="store_true", help="print the run step by step")
    for verb in (generate, complete, repair, edit):
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        verb.add_argument(
            "--pretty", action="store_true", help="print strings that parse with spaces"
        )
        cli.add_timeout_flag(verb, *(["all strings together"] if verb is generate else []))
        cli.add_machine_flags(verb)
        cli.add_language_flags(verb)
    for verb in (generate, edit):
        add_config_flags(verb, SamplerConfig)
    add_config_flags(complete, CompletionConfig)
    for verb in (generate, complete):
        add_config_flags(verb, ControlConfig)
        verb.add_argument(
            "--config",
            metavar="YAML",
            help="settings of sampling, see docs/repetition.md; flags go on top of it",
        )
    add_solve_command(verbs)
    return parser


def _repair_verb(verbs: Any) -> cli.Parser:
    """The verb `repair` with the flags that it alone has."""
    repair: cli.Parser = verbs.add_parser(
        "repair", help="mend damaged strings", description="What damaged strings were meant to be."
    )
    repair.add_argument(
        "--method",
        default="channel",
        metavar="NAME",
        help="channel (default), draft, least_edits (no model)",
    )
    repair.add_argument(
        "--sigma",
        type=cli.share,
        metavar="S",
        help="share of damaged symbols (default: several are tried)",
    )
    repair.add_argument(
        "--slack", type=CHANGE, default=2, metavar="N",
        help="the length changes by at most N (default 2)",
    )  # fmt: skip
    repair.add_argument(
        "--grammar",
        action="store_true",
        help="only strings that parse; one that parses stays as it is",
    )
    repair.add_argument(
        "--holds", action="store_true", help="strings that are true before others that parse"
    )
    repair.add_argument(
        "--max_edits", type=CHANGE, metavar="N",
        help="at most N insertions, deletions and replacements",
    )  # fmt: skip
    repair.add_argument(
        "--certain",
        type=cli.span,
        action="append",
        default=[],
        metavar="A:B",
        help="symbols A to B-1 stay; may be repeated",
    )
    repair.add_argument(
        "--top", type=cli.IntegerRange(1, MAX_ALTERNATIVES), default=1, metavar="N",
        help="list the N best alternatives (default 1)",
    )  # fmt: skip
    repair.add_argument(
        "--script",
        action="store_true",
        help="print the edits that lead from the input to the result",
    )
    return repair


def add_search_flags(verb: argparse.ArgumentParser) -> None:
    """The flags of verbs that search for the likeliest answer."""
    verb.add_argument(
        "--beam", type=cli.IntegerRange(1, MAX_BEAM), default=16, metavar="N",
        help="hypotheses of the beam (default 16)",
    )  # fmt: skip
    verb.add_argument(
        "--candidates", type=cli.IntegerRange(1, MOST_CANDIDATES), default=CANDIDATES, metavar="N",
        help=f"the likeliest, looked at for one that is valid (default {CANDIDATES})",
    )  # fmt: skip
    verb.add_argument("--trace", action="store_true", help="print the run step by step")


def decoding(args: argparse.Namespace) -> DecodeConfig:
    """The settings of new strings and completions: those of --config, the flags on top of it. Raises ConfigError."""
    base = load_decoding(args.config) if args.config else DecodeConfig()
    completion = build(
        CompletionConfig,
        overrides(args, CompletionConfig) if args.verb == "complete" else {},
        base=base.completion,
    )
    control = build(ControlConfig, overrides(args, ControlConfig), base=base.control)
    return DecodeConfig(sampler_config(args, base.sampler), completion, control)


def requests(args: argparse.Namespace) -> Requests:
    """The strings to work on: the arguments, then the lines of --input. Raises DataError where
    there is none."""
    if args.input is None and not args.texts:
        raise DataError(
            f"nothing to {args.verb}; give strings as arguments, or --input FILE (- is standard input)"
        )
    return Requests(args.texts, None if args.input is None else open_lines(args.input))


def answers(
    args: argparse.Namespace, loaded: Loaded, progress: ProgressBar, stream: Stream | None
) -> Iterator[tuple[int, int, Result]]:
    """Results with the number of their request and, of a request that has several, their own; both
    from 1.

    They come in the order of the requests, a batch at a time; with --timeout a request at a time.
    """
    if args.verb == "generate":
        made = timed(args, loaded, progress, lambda _: enumerate(generated(args, loaded)))([""])
        yield from ((number, 1, result) for number, (_, result) in enumerate(made, start=1))
        return
    work = completed(args, loaded, stream) if args.verb == "complete" else batched(args, loaded)
    alone = args.verb == "complete" or args.timeout is not None
    largest = 1 if alone else LARGEST if loaded.device.type == "cpu" else LARGEST_ON_GPU
    number = 0
    with closing(requests(args)) as asked:
        for number, sample, result in answered(
            growing(asked, largest, PERIOD), timed(args, loaded, progress, work)
        ):
            yield number, sample, result
    if number == 0:
        raise DataError(f"nothing to {args.verb}: the input is empty")


def timed(args: argparse.Namespace, loaded: Loaded, progress: ProgressBar, work: Work) -> Work:
    """The same work within --timeout; what is not answered by then is an error in its place."""
    from maskdiff.tasks import Result

    def within(batch: Sequence[Line]) -> Iterator[tuple[int, Result]]:
        with loaded.denoiser.until(Deadline(args.timeout, progress.tick)):
            try:
                yield from work(batch)
            except TimedOut as error:  # a batch of one request: see `answers`
                given = (
                    None
                    if args.verb == "generate"
                    else ""
                    if isinstance(batch[0], DataError)
                    else batch[0]
                )
                yield 0, Result(finish_reason="timeout", input=given, error=str(error))

    return within


def generated(args: argparse.Namespace, loaded: Loaded) -> Iterator[Result]:
    """The results of `generate`; with --timeout in small batches, so that what is done in time is
    seen."""
    from maskdiff import tasks
    from maskdiff.tasks.results import BATCH

    settings = decoding(args)
    yield from tasks.generating(
        loaded, args.num, length=args.length, sampler=settings.sampler, seed=args.seed, trace=args.trace,
        control=settings.control, batch_size=BATCH if args.timeout is None else LARGEST,
    )  # fmt: skip


def batched(args: argparse.Namespace, loaded: Loaded) -> Work:
    """What answers batches of `repair` and `edit`: string i has the i-th random key of the seed,
    counted within `PERIOD`."""
    from maskdiff.tasks.results import seeded

    done, source = 0, seeded(args.seed)
    answer = repaired if args.verb == "repair" else edited

    def work(batch: Sequence[Line]) -> Iterator[tuple[int, Result]]:
        nonlocal done, source
        if done % PERIOD == 0:
            source = seeded(args.seed)
        done += len(batch)
        yield from enumerate(answer(args, loaded, batch, source))

    return work


def repaired(
    args: argparse.Namespace, loaded: Loaded, batch: Sequence[Line], source: torch.Generator
) -> list[Result]:
    """The results of `repair`."""
    from maskdiff import tasks

    return tasks.repair(
        loaded, batch, method=args.method, sigma=args.sigma, beam=args.beam, slack=args.slack, grammar=args.grammar,
        holds=args.holds, max_edits=args.max_edits, top=args.top, candidates=args.candidates,
        certain=args.certain, source=source, trace=args.trace,
    )  # fmt: skip


def completed(args: argparse.Namespace, loaded: Loaded, stream: Stream | None) -> Work:
    """What answers single strings of `complete`; with --stream their characters are printed as they
    come."""
    from maskdiff import tasks
    from maskdiff.tasks.results import seeded

    if args.stream and args.pretty:
        raise ConfigError(
            "--pretty needs a whole string, and --stream shows its parts; give one of them"
        )
    settings = decoding(args)
    if args.stream and settings.control.first_complete:
        raise ConfigError(
            "--first_complete needs a whole string, and --stream shows its parts; give one of them"
        )
    completer = tasks.Completer(
        loaded, suffix=args.suffix, settings=settings.completion, control=settings.control,
        watch=None if stream is None else stream.watch,
    )  # fmt: skip
    source = seeded(args.seed)

    def work(batch: Sequence[Line]) -> Iterator[tuple[int, Result]]:
        (text,) = batch
        if stream is not None:
            stream.request += 1
        yield from ((0, result) for result in completer.complete(text, args.num, source))

    return work


def edited(
    args: argparse.Namespace, loaded: Loaded, batch: Sequence[Line], source: torch.Generator
) -> list[Result]:
    """The results of `edit`: blanks filled, or a span rewritten, or what has to hold searched for. Raises ConfigError."""
    from maskdiff import tasks
    from maskdiff.repair.fill import BOUND

    settings = overrides(args, SamplerConfig)
    grammar = bool(
        settings.pop("grammar", False)
    )  # no setting of a draw: without any of those, the best filling
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
            source=source, trace=args.trace,
        )  # fmt: skip
    if args.holds:
        return tasks.fill(loaded, batch, masks=args.mask, bound=bound, trace=args.trace)
    if not args.mask:
        batch = [with_a_blank(text, loaded) for text in batch]
    return tasks.edit(
        loaded, batch, masks=args.mask, sampler=sampler, beam=args.beam, candidates=args.candidates,
        grammar=grammar, source=source, trace=args.trace,
    )  # fmt: skip


def with_a_blank(text: Line, loaded: Loaded) -> Line:
    """The text, or an error in its place where it has `?` for blanks and that is a symbol of the language."""
    blank = loaded.language.vocabulary.blank
    if isinstance(text, str) and "?" in text and blank not in text:
        return DataError(
            f"nothing to fill in {quote(text)}: ? is a symbol of {loaded.language.name}, a blank is written {blank}"
        )
    return text


def expected(args: argparse.Namespace) -> int | None:
    """How many requests there are, where that is known before they are read."""
    if args.verb == "generate":
        return int(args.num)
    lines = 0 if args.input is None else count_lines(args.input)
    return None if lines is None else len(args.texts) + lines


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, answer; 2 if any request failed, 124 if any had too little time. Raises
    UserError."""
    args = build_parser().parse_args(argv)
    cli.use_threads(args.threads)
    if args.verb == "solve":
        return run_solve(args)
    from maskdiff.checkpoint import LanguageOverride, load_denoiser
    from maskdiff.cli.results import Stream, print_result

    path = args.checkpoint or cli.default_checkpoint()
    override = LanguageOverride.of(args)
    loaded = load_denoiser(path, args.device, override)
    stream = Stream(args.json) if getattr(args, "stream", False) else None
    status = 0
    with ProgressBar(
        "inference.py", "string", expected(args), bar=not (stream and sys.stdout.isatty())
    ) as progress:
        for number, sample, result in answers(args, loaded, progress, stream):
            progress.hide()
            print_result(args, loaded, result, number, sample, stream)
            sys.stdout.flush()
            progress.finished(number)
            status = cli.worse(status, result.finish_reason)
    return status
