"""The flags of `inference.py`: one function a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskdiff.cli import arguments as cli
from maskdiff.cli.solve import add_solve_command
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
    SamplerConfig,
)
from maskdiff.config_io import add_config_flags

CHANGE = cli.IntegerRange(0, MAX_CHANGE)


def make_parser(description: str | None) -> cli.Parser:
    """Return the parser of all commands."""
    parser = cli.Parser(description=description)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=cli.Parser
    )
    _add_generate(verbs)
    _add_repair(verbs)
    _add_complete(verbs)
    _add_edit(verbs)
    add_solve_command(verbs)
    return parser


def _add_generate(verbs: Any) -> None:
    verb = verbs.add_parser(
        "generate", help="new strings", description="New strings of the language."
    )
    _flag(verb, "--num", "N", "how many (default 1)", cli.IntegerRange(0, MAX_STRINGS), 1)
    default = "as in the data, or as the model ends its strings"
    _flag(verb, "--length", "N", f"in symbols: N or N..M (default: {default})", cli.length_range)
    _switch(verb, "--trace", "print the run step by step")
    _add_output_flags(verb, timeout_of="all strings together")
    add_config_flags(verb, SamplerConfig)
    _add_control_flags(verb)


def _add_complete(verbs: Any) -> None:
    verb = verbs.add_parser(
        "complete",
        help="go on from what was typed",
        description="Strings that begin with what was typed, see docs/completion.md.",
    )
    number = cli.IntegerRange(1, MAX_STRINGS)
    _flag(verb, "--num", "N", "completions of each string (default 1)", number, 1)
    _flag(
        verb, "--suffix", "TEXT", "how the strings end (drawn by the bidirectional mode)", str, ""
    )
    _switch(verb, "--stream", "show a completion character by character as it is drawn")
    _add_input_flags(verb)
    _add_output_flags(verb)
    add_config_flags(verb, CompletionConfig)
    _add_control_flags(verb)


def _add_repair(verbs: Any) -> None:
    verb = verbs.add_parser(
        "repair",
        help="repair damaged strings",
        description="The likeliest originals of damaged strings.",
    )
    methods = "channel (default), draft, least_edits (no model)"
    _flag(verb, "--method", "NAME", methods, str, "channel")
    _switch(verb, "--broken", "the strings are certainly damaged: unchanged is no answer")
    number = "N or N..M; a transposition is one; with an n-gram the search finds up to 8"
    _flag(verb, "--edits", "N", f"number of edits: {number}", cli.edit_range)
    kinds = (
        "edits (default), keyboard, ocr, swap, truncation (the end is lost), noise (that of the "
        "training), or a FILE of lines broken<TAB>right, or a table with these columns"
    )
    _flag(verb, "--damage", "KIND", kinds, str, "edits")
    share = "share of symbols that the training noise damaged; implies --damage noise"
    _flag(verb, "--sigma", "S", share, cli.share)
    slack = (
        "prefers answers whose length changes by at most N; others come last (default: no "
        "preference; the beam proposes changes of at most 2)"
    )
    _flag(verb, "--slack", "N", slack, CHANGE)
    _switch(verb, "--grammar", "only strings that parse; one that parses stays as it is")
    _switch(verb, "--holds", "strings that are true before others that parse")
    _flag(verb, "--max_edits", "N", "at most N insertions, deletions and replacements", CHANGE)
    _add_spans(verb, "--certain", "symbols A to B-1 stay; may be repeated")
    answers = cli.IntegerRange(1, MAX_ALTERNATIVES)
    _flag(verb, "--top", "N", "list the N best alternatives (default 1)", answers, 1)
    _switch(verb, "--script", "print the edits that lead from the input to the result")
    _add_input_flags(verb)
    _add_output_file_flag(verb)
    column = "repair this column of --input FILE.csv, or this key of FILE.jsonl; with --output"
    _flag(verb, "--column", "NAME", column, str, "")
    least = "with --output: a less probable answer leaves its string as it is (default 0)"
    _flag(verb, "--min_probability", "P", least, cli.NumberRange(0.0, 1.0), 0.0)
    _add_search_flags(verb)
    _add_output_flags(verb)


def _add_edit(verbs: Any) -> None:
    verb = verbs.add_parser(
        "edit",
        help="fill blanks",
        description="Fill the blanks (?, or ¿ where ? is a symbol) of strings; all else stays.",
    )
    _add_spans(verb, "--mask", "symbols A to B-1 are blanks, too")
    _switch(verb, "--holds", "search for a filling that is true, or report that there is none")
    bound = cli.IntegerRange(1, MAX_BOUND)
    _flag(verb, "--bound", "N", "prefixes that the search examines (default 100000)", bound)
    spans = "new symbols for A to B-1; A:A inserts before symbol A"
    _flag(verb, "--replace", "A:B", spans, cli.insertion_span)
    _flag(
        verb, "--length", "N", "how many new ones: N or N..M (default: as before)", cli.new_length
    )
    _add_input_flags(verb)
    _add_output_file_flag(verb)
    _add_search_flags(verb)
    _add_output_flags(verb)
    add_config_flags(verb, SamplerConfig)


def _flag(
    verb: cli.Parser,
    name: str,
    metavar: str,
    text: str,
    kind: Callable[[str], Any],
    default: object = None,
) -> None:
    verb.add_argument(name, type=kind, default=default, metavar=metavar, help=text)


def _switch(verb: cli.Parser, name: str, text: str) -> None:
    verb.add_argument(name, action="store_true", help=text)


def _add_spans(verb: cli.Parser, flag: str, text: str) -> None:
    verb.add_argument(flag, type=cli.span, action="append", default=[], metavar="A:B", help=text)


def _add_input_flags(verb: cli.Parser) -> None:
    verb.add_argument("texts", nargs="*", metavar="TEXT", help="strings")
    verb.add_argument(
        "--input", metavar="FILE", help="read strings from FILE, one a line; - is standard input"
    )


def _add_output_file_flag(verb: cli.Parser) -> None:
    verb.add_argument(
        "--output", metavar="FILE", help="write a copy of --input with the answers, at the end"
    )


def _add_search_flags(verb: cli.Parser) -> None:
    beam, candidates = cli.IntegerRange(1, MAX_BEAM), cli.IntegerRange(1, MOST_CANDIDATES)
    _flag(verb, "--beam", "N", "hypotheses of the beam (default 16)", beam, 16)
    text = f"likeliest answers among which a valid one is sought (default {CANDIDATES})"
    _flag(verb, "--candidates", "N", text, candidates, CANDIDATES)
    _switch(verb, "--trace", "print the run step by step")


def _add_output_flags(
    verb: cli.Parser, timeout_of: str = "each string; strings are then worked on one by one"
) -> None:
    _switch(verb, "--json", "one JSON object a line")
    _switch(verb, "--pretty", "print strings that parse with spaces")
    cli.add_timeout_flag(verb, timeout_of)
    cli.add_machine_flags(verb)
    cli.add_language_flags(verb)


def _add_control_flags(verb: cli.Parser) -> None:
    add_config_flags(verb, ControlConfig)
    verb.add_argument(
        "--config",
        metavar="YAML",
        help="settings of sampling, see docs/repetition.md; flags override it",
    )
