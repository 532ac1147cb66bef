"""Prints results of `inference.py`: JSON objects, columns of text, remarks on the error stream."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from maskdiff.cli import arguments as cli
from maskdiff.errors import quote
from maskdiff.tasks.results import Alternative, Result
from maskdiff.text.edits import edit_text

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

SCHEMA = 2
SHOWN = 3  # foreign symbols in a remark
NOTABLE = 0.01  # probability that a beam may have dropped, above which a remark is printed


class ResultPrinter:
    """Prints results one by one, and with --stream the characters of completions as they come."""

    def __init__(self, args: argparse.Namespace, loaded: Loaded) -> None:
        self.args, self.loaded = args, loaded
        self.streaming = getattr(args, "stream", False)
        self.request = 0  # number of the completion that is streamed, from 1
        self.streamed = (0, 0)  # request and sample of which characters were printed last

    @property
    def streams_to_terminal(self) -> bool:
        """Whether characters appear on the terminal, where a progress bar would disturb them."""
        return self.streaming and sys.stdout.isatty()

    def begin_request(self) -> None:
        """Count the request whose characters follow."""
        self.request += 1

    def print_characters(self, index: int, characters: str) -> None:
        """Print new characters of sample `index`, from 0, of the present request."""
        self._print_delta(self.request, index + 1, characters)

    def _print_delta(self, request: int, sample: int, characters: str) -> None:
        self.streamed = request, sample
        if self.args.json:
            head = {"schema": SCHEMA, "verb": "complete", "index": request, "sample": sample}
            print(json.dumps({**head, "delta": characters}), flush=True)
        else:
            print(cli.printable(characters), end="", flush=True)

    def print_result(self, number: int, sample: int, result: Result) -> None:
        """Print one result; an error of a text goes to the error stream."""
        args = self.args
        # The result of a repeated request is known: its characters were not streamed.
        repeated = self.streaming and self.streamed != (number, sample)
        if repeated and result.error is None and result.text:
            self._print_delta(number, sample, result.text)
        if args.json:
            print(json.dumps(result_object(args.verb, result, number, sample)), flush=True)
            return
        if result.trace is not None:
            print("\n".join(result.trace))
        if result.error is None:
            # With --stream the first column is printed already.
            rest = replace(result, text="") if self.streaming else result
            columns = result_line(
                rest, self.loaded, args.pretty, reason=args.verb in ("generate", "complete")
            )
            print("\n".join([columns, *detail_lines(result, getattr(args, "script", False))]))
        elif getattr(args, "input", None) is not None:
            print()  # an empty line, so that line n of the output belongs to line n of the input
        sys.stdout.flush()  # before the remarks on the error stream
        for remark in remarks(args, result, sample):
            print(f"inference.py: {request_name(args, number)}: {remark}", file=sys.stderr)


def result_object(verb: str, result: Result, number: int, sample: int) -> dict[str, Any]:
    """Return the JSON object of a result; fields that it lacks are left out."""
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
    if result.probability is not None:
        item["probability"] = result.probability
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


def result_line(result: Result, loaded: Loaded, pretty: bool, reason: bool) -> str:
    """Return the columns: text, verdict, score, evaluations, reason of the end, notes."""
    text = loaded.language.pretty(result.text) if pretty and result.parses else result.text
    score = "-" if result.score is None else f"{result.score:.3f}"
    columns = [cli.printable(text), verdict(result), score, str(result.evaluations)]
    columns += [result.finish_reason] if reason else []
    if noted := "; ".join(notes(result)):
        columns.append(cli.printable(noted))
    return "\t".join(columns)


def notes(result: Result) -> Iterator[str]:
    """Yield notes on an answer: its probability, changes, foreign symbols, candidates examined."""
    if result.probability is not None:
        yield f"p={result.probability:.2f}"
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
    """Return what the language finds of a string."""
    if item.holds:
        return "holds"
    if item.parses is None:
        return "unchecked"
    return "parses" if item.parses else "invalid"


def detail_lines(result: Result, script: bool) -> Iterator[str]:
    """Yield the indented lines under a repaired string: its edits, then the alternatives."""
    if script and result.edits is not None:
        yield f"  {cli.printable(edit_text(result.edits))}"
    for rank, item in enumerate(result.alternatives, start=1):
        text, edits = cli.printable(item.text), cli.printable(edit_text(item.edits))
        yield f"  {rank}\t{text}\t{verdict(item)}\t{item.share:.3f}\t{edits}"


def request_name(args: argparse.Namespace, number: int) -> str:
    """Return the name of a request in messages, with its line if arguments precede the lines."""
    given = len(getattr(args, "texts", ()))
    return (
        f"string {number} (line {number - given} of the input)"
        if 0 < given < number
        else f"string {number}"
    )


def remarks(args: argparse.Namespace, result: Result, sample: int) -> Iterator[str]:
    """Yield the lines for the error stream."""
    if result.error is not None:
        yield result.error
        return
    summary = result.completion
    beam = None if summary is None or summary.mode != "beam" or sample > 1 else summary
    if beam is not None and beam.dropped > NOTABLE:
        yield (
            f"up to {beam.dropped:.2g} of the probability may lie in histories that the beam "
            "left out; widen --beam"
        )
    if args.verb == "repair" and args.holds and not result.holds:
        yield "nothing near it was found that holds; the answer only parses"
    if result.finish_reason == "timeout":
        yield f"the time was up after {args.timeout:g} s; this is the best so far"
