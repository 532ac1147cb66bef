"""Generate, complete, repair and edit strings with a trained checkpoint.

    python inference.py generate --num 20 --length 24 --sampler hybrid
    python inference.py complete "(+ 3" --num 5         # strings that begin so; --suffix "=45": end
    python inference.py complete "(+ 3" --stop "))" --loop_period 8 --max_tokens 500
    python inference.py repair "(+(*75)10=45"           # the length may change
    python inference.py repair "(+(*75)10=46" --holds --top 5 --certain 3:6   # true ones first
    python inference.py repair "(+(*75)10=45" --broken --edits 1 --damage keyboard
    python inference.py edit "(+(*??)10)=45"            # ? is a blank (¿ if ? is a symbol)
    python inference.py edit "(+(*75)10)=45" --mask 3:5 # symbols 3 and 4, counted from 0
    python inference.py edit "(+?(*24))=1?" --holds     # only what is true, by a verified search
    python inference.py edit "(+(*75)10)=45" --replace 2:7 --length 5..9    # a span of a new length
    python inference.py solve "(+ 3 (* 2 4))" --strategy adaptive --show    # docs/stepwise.md
    python inference.py repair --input damaged.txt --json   # one string a line; - is standard input
    python inference.py repair --input data.csv --column rule --output fixed.csv \
        --min_probability 0.9                               # docs/repair-a-file.md

Text output has four columns: the string, whether it parses or even holds, its score (log p per
symbol, nats), evaluations; of new strings and completions a fifth: why it ended (eos, stop, length,
repetition; incomplete if blanks are left); and one more for remarks (the probability of a repair,
an answer far from its input, symbols read as unreadable, candidates examined). With --script the
edits follow in a line of their own, with --top the alternatives: rank, string, verdict, share,
edits. With --stream a completion appears as it is drawn. With --json every line is one object, see
docs/formats.md. A bad line is reported in its place, the others are processed, and the exit status
is 2. Results appear in small batches; equal strings are processed once. --timeout limits the time
of each string; without an answer by then the exit status is 124. With --output the answers go to a
file, written at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from maskdiff.cli import arguments as cli
from maskdiff.cli import inference_flags
from maskdiff.cli.output_file import OutputFile, make_requests, open_output
from maskdiff.cli.solve import run_solve
from maskdiff.config import CompletionConfig, ControlConfig, DecodeConfig, SamplerConfig
from maskdiff.config_io import build, load_decoding, overrides, sampler_config
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.utils.batches import (
    LARGEST,
    LARGEST_ON_GPU,
    ProgressBar,
    Requests,
    answer_batches,
    growing,
)
from maskdiff.utils.deadline import Deadline, TimedOut
from maskdiff.utils.lines import Line

if TYPE_CHECKING:
    import torch

    from maskdiff.checkpoint import Loaded
    from maskdiff.cli.results import ResultPrinter
    from maskdiff.repair import Damage
    from maskdiff.tasks import Result

    # Results with the numbers of their request and sample, both from 1.
    Numbered = Iterator[tuple[int, int, Result]]
    # Maps a batch to results with their index in it.
    Work = Callable[[Sequence[Line]], Iterable[tuple[int, Result]]]

PERIOD = 256  # strings after which the random keys of `edit` and `repair` begin again
EDITOR = SamplerConfig("entropy", steps=0)  # the defaults of `edit` under flags of a sampler


def build_parser() -> cli.Parser:
    """Return the parser of all commands."""
    return inference_flags.make_parser(__doc__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 2 if any request failed, 124 if any timed out. Raises UserError."""
    args = build_parser().parse_args(argv)
    cli.use_threads(args.threads)
    if args.verb == "solve":
        return run_solve(args)
    # torch is imported here, so that --help and a wrong flag are answered at once.
    from maskdiff.checkpoint import LanguageOverride, load_denoiser
    from maskdiff.cli.results import ResultPrinter

    output = open_output(args)  # before the model is read, for its errors
    path = args.checkpoint or cli.default_checkpoint()
    loaded = load_denoiser(path, args.device, LanguageOverride.of(args))
    printer = ResultPrinter(args, loaded)
    status = 0
    bar = not printer.streams_to_terminal
    with ProgressBar("inference.py", "string", total_requests(args, output), bar) as progress:
        for number, sample, result in all_results(args, loaded, progress, printer, output):
            progress.hide()
            (output or printer).print_result(number, sample, result)
            progress.finished(number)
            status = cli.worse(status, result.finish_reason)
    if output is not None:
        output.finish()
    return status


def total_requests(args: argparse.Namespace, output: OutputFile | None = None) -> int | None:
    """Return the number of requests, None if it is not known before they are read."""
    if output is not None:
        return len(output.requests)
    return int(args.num) if args.verb == "generate" else cli.count_requests(args)


def all_results(
    args: argparse.Namespace,
    loaded: Loaded,
    progress: ProgressBar,
    printer: ResultPrinter,
    output: OutputFile | None = None,
) -> Numbered:
    """Yield results in the order of the requests, batch by batch."""
    if args.verb == "generate":
        return run_generate(args, loaded, progress)
    requests = make_requests(output, args)
    if args.verb == "complete":
        work, largest = run_complete(args, loaded, printer), 1
    else:
        largest = LARGEST if loaded.device.type == "cpu" else LARGEST_ON_GPU
        work = run_search(args, loaded)
    return run_batches(args, loaded, progress, requests, work, largest)


# -------------------------- generate


def run_generate(args: argparse.Namespace, loaded: Loaded, progress: ProgressBar) -> Numbered:
    """Yield new strings; with --timeout in small batches, so that some are ready in time."""
    from maskdiff import tasks
    from maskdiff.tasks.running import BATCH

    settings, number = decode_config(args), 0
    with loaded.denoiser.until(Deadline(args.timeout, progress.tick)):
        strings = tasks.generating(
            loaded,
            args.num,
            length=args.length,
            sampler=settings.sampler,
            control=settings.control,
            seed=args.seed,
            trace=args.trace,
            batch_size=BATCH if args.timeout is None else LARGEST,
        )
        try:
            for number, result in enumerate(strings, start=1):
                yield number, 1, result
        except TimedOut as error:
            yield number + 1, 1, tasks.Result(finish_reason="timeout", error=str(error))


def decode_config(args: argparse.Namespace) -> DecodeConfig:
    """Return the settings of --config under the flags. Raises ConfigError."""
    base = load_decoding(args.config) if args.config else DecodeConfig()
    completion = base.completion
    if args.verb == "complete":
        completion = build(CompletionConfig, overrides(args, CompletionConfig), base=completion)
    control = build(ControlConfig, overrides(args, ControlConfig), base=base.control)
    return DecodeConfig(sampler_config(args, base.sampler), completion, control)


# -------------------------- complete, repair, edit


def run_batches(
    args: argparse.Namespace,
    loaded: Loaded,
    progress: ProgressBar,
    source: Requests,
    work: Work,
    largest: int,
) -> Numbered:
    """Yield the results of the requests, in batches of at most `largest`; of 1 with --timeout."""
    from maskdiff.tasks import Result

    def within_timeout(batch: Sequence[Line]) -> Iterator[tuple[int, Result]]:
        with loaded.denoiser.until(Deadline(args.timeout, progress.tick)):
            try:
                yield from work(batch)
            except TimedOut as error:
                text = "" if isinstance(batch[0], DataError) else batch[0]
                yield 0, Result(finish_reason="timeout", input=text, error=str(error))

    number = 0
    with closing(source) as requests:
        batches = growing(requests, largest if args.timeout is None else 1, PERIOD)
        for number, sample, result in answer_batches(batches, within_timeout):
            yield number, sample, result
    if number == 0:
        raise DataError(f"nothing to {args.verb}: the input is empty")


def run_complete(args: argparse.Namespace, loaded: Loaded, printer: ResultPrinter) -> Work:
    """Return a function that completes one text; with --stream its characters are printed."""
    from maskdiff import tasks
    from maskdiff.tasks.running import seeded

    settings = decode_config(args)
    for flag, given in (
        ("pretty", args.pretty),
        ("first_complete", settings.control.first_complete),
    ):
        if args.stream and given:
            raise ConfigError(
                f"--{flag} needs a whole string, and --stream shows its parts; give one of them"
            )
    completer = tasks.Completer(
        loaded,
        suffix=args.suffix,
        settings=settings.completion,
        control=settings.control,
        on_characters=printer.print_characters if args.stream else None,
    )
    source = seeded(args.seed)

    def work(batch: Sequence[Line]) -> Iterator[tuple[int, Result]]:
        (text,) = batch
        printer.begin_request()
        yield from ((0, result) for result in completer.complete(text, args.num, source))

    return work


def run_search(args: argparse.Namespace, loaded: Loaded) -> Work:
    """Return a function that repairs or edits a batch.

    String i has the i-th random key of the seed, counted within `PERIOD`.
    """
    from maskdiff.tasks.running import seeded

    done, source = 0, seeded(args.seed)
    task = run_repair if args.verb == "repair" else run_edit
    if args.verb == "repair":
        args.damage = known_damage(args.damage, loaded)

    def work(batch: Sequence[Line]) -> Iterator[tuple[int, Result]]:
        nonlocal done, source
        if done % PERIOD == 0:
            source = seeded(args.seed)
        done += len(batch)
        yield from enumerate(task(args, loaded, batch, source))

    return work


def known_damage(given: str, loaded: Loaded) -> str | Damage:
    """Return the name of a kind of damage, or the damage fitted to the pairs of a file."""
    from maskdiff.repair import DAMAGES, damage_of_file

    is_file = given not in DAMAGES and (Path(given).suffix or Path(given).is_file())
    return damage_of_file(given, loaded.language.vocabulary) if is_file else given


def run_repair(
    args: argparse.Namespace, loaded: Loaded, batch: Sequence[Line], source: torch.Generator
) -> list[Result]:
    """Return the repaired strings of a batch."""
    from maskdiff import tasks

    return tasks.repair(
        loaded,
        batch,
        method=args.method,
        broken=args.broken,
        edits=args.edits,
        damage=args.damage,
        sigma=args.sigma,
        beam=args.beam,
        slack=args.slack,
        grammar=args.grammar,
        holds=args.holds,
        max_edits=args.max_edits,
        top=args.top,
        candidates=args.candidates,
        certain=args.certain,
        source=source,
        trace=args.trace,
    )


def run_edit(
    args: argparse.Namespace, loaded: Loaded, batch: Sequence[Line], source: torch.Generator
) -> list[Result]:
    """Return a batch with blanks filled or a span rewritten. Raises ConfigError."""
    from maskdiff import tasks
    from maskdiff.repair.fill import BOUND

    # Without settings of a sampler (`grammar` is none) the best filling is searched for.
    settings = overrides(args, SamplerConfig)
    grammar = bool(settings.pop("grammar", False))
    sampler = sampler_config(args, EDITOR) if settings else None
    if args.holds and settings:
        raise ConfigError(f"--holds searches and draws nothing; leave out --{' --'.join(settings)}")
    if args.bound is not None and not args.holds:
        raise ConfigError("--bound is that of a search; give --holds, too")
    if args.length is not None and args.replace is None:
        raise ConfigError("--length is that of new symbols; give --replace A:B, too")
    bound = args.bound or BOUND
    if args.holds and args.replace is None:
        return tasks.fill(loaded, batch, masks=args.mask, bound=bound, trace=args.trace)
    shared = {
        "masks": args.mask,
        "sampler": sampler,
        "beam": args.beam,
        "candidates": args.candidates,
        "grammar": grammar,
        "source": source,
        "trace": args.trace,
    }
    if args.replace is not None:
        return tasks.rewrite(
            loaded,
            batch,
            replace=args.replace,
            length=args.length,
            holds=args.holds,
            bound=bound,
            **shared,
        )
    if not args.mask:
        batch = [check_blank(text, loaded) for text in batch]
    return tasks.edit(loaded, batch, **shared)


def check_blank(text: Line, loaded: Loaded) -> Line:
    """Return the text, or an error if it has `?` for blanks and `?` is a symbol of the language."""
    blank = loaded.language.vocabulary.blank
    if isinstance(text, str) and "?" in text and blank not in text:
        return DataError(
            f"nothing to fill in {quote(text)}: ? is a symbol of {loaded.language.name}, "
            f"a blank is written {blank}"
        )
    return text
