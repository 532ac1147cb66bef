"""What a program prints of results: JSON objects, columns of text, and remarks on the error stream.

For: `show` and `Stream`. Not for: results themselves (`results.py`). Easy to get wrong: in a batch
every request has its line of text, and a stream has printed the first column already.
"""

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
SHOWN = 3  # foreign symbols in a note
WORTH_SAYING = 0.01  # share that a beam may have left out, above which its user is told


class Stream:
    """Prints the characters of completions as they are drawn."""

    def __init__(self, json: bool) -> None:
        self.json, self.request = json, 0
        self.last = (0, 0)  # the request and the sample that were printed last

    def watch(self, number: int, characters: str) -> None:
        """Print what sample `number`, from 0, of the present request has grown by."""
        self.print(self.request, number + 1, characters)

    def print(self, request: int, sample: int, characters: str) -> None:
        """Print characters of a completion."""
        self.last = request, sample
        if self.json:
            event = {
                "schema": SCHEMA,
                "verb": "complete",
                "index": request,
                "sample": sample,
                "delta": characters,
            }
            print(json.dumps(event), flush=True)
        else:
            print(cli.printable(characters), end="", flush=True)

    def finish(self, request: int, sample: int, result: Result) -> None:
        """Print the whole of a completion that was not drawn now, because an equal string was completed before."""
        if self.last != (request, sample) and result.text:
            self.print(request, sample, result.text)


def result_object(verb: str, result: Result, number: int, sample: int) -> dict[str, Any]:
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


def result_line(result: Result, loaded: Loaded, pretty: bool, why: bool) -> str:
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
    return (
        "holds"
        if item.holds
        else "parses"
        if item.parses
        else "unchecked"
        if item.parses is None
        else "invalid"
    )


def more_lines(result: Result, script: bool) -> Iterator[str]:
    """The indented lines under a repaired string: its edits, then the alternatives with rank, verdict, share and edits."""
    if script and result.edits is not None:
        yield f"  {cli.printable(edit_text(result.edits))}"
    for rank, item in enumerate(result.alternatives, start=1):
        yield f"  {rank}\t{cli.printable(item.text)}\t{verdict(item)}\t{item.share:.3f}\t{cli.printable(edit_text(item.edits))}"


def print_result(
    args: argparse.Namespace,
    loaded: Loaded,
    result: Result,
    number: int,
    sample: int,
    stream: Stream | None,
) -> None:
    """Print one result; in text an error goes to the error stream, and an empty line keeps its place in a batch."""
    if stream is not None and result.error is None:
        stream.finish(number, sample, result)
    if args.json:
        print(json.dumps(result_object(args.verb, result, number, sample)))
        return
    if result.trace is not None:
        print("\n".join(result.trace))
    if result.error is None:
        shown = (
            result if stream is None else replace(result, text="")
        )  # its first column is there already
        why = args.verb in ("generate", "complete")
        text = result_line(shown, loaded, args.pretty, why)
        print("\n".join([text, *more_lines(result, getattr(args, "script", False))]))
    elif getattr(args, "input", None) is not None:
        print()
    sys.stdout.flush()  # before what the error stream says of it
    for remark in remarks(args, result, sample):
        print(f"inference.py: {name(args, number)}: {remark}", file=sys.stderr)


def name(args: argparse.Namespace, number: int) -> str:
    """How messages call a request: by its line, too, where arguments come before the lines."""
    given = len(getattr(args, "texts", ()))
    return (
        f"string {number} (line {number - given} of the input)"
        if 0 < given < number
        else f"string {number}"
    )


def remarks(args: argparse.Namespace, result: Result, sample: int) -> Iterator[str]:
    """What the error stream says of a result."""
    if result.error is not None:
        yield result.error
        return
    summary = result.completion
    if (
        summary is not None
        and sample == 1
        and summary.mode == "beam"
        and summary.dropped > WORTH_SAYING
    ):
        yield f"up to {summary.dropped:.2g} of the probability may lie in histories that the beam left out; widen --beam"
    if args.verb == "repair" and args.holds and not result.holds:
        yield "nothing near it was found that holds; the answer only parses"
    if result.finish_reason == "timeout":
        yield f"the time was up after {args.timeout:g} s; this is the best so far"
