"""The flags of `inference.py`: one function a command."""

from __future__ import annotations

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
    strings = cli.IntegerRange(0, MAX_STRINGS)
    verb.add_argument("--num", type=strings, default=1, metavar="N", help="how many (default 1)")
    verb.add_argument(
        "--length",
        type=cli.length_range,
        metavar="N",
        help="in symbols: N or N..M (default: as in the data)",
    )
    verb.add_argument("--trace", action="store_true", help="print the run step by step")
    _add_output_flags(verb, timeout_of="all strings together")
    add_config_flags(verb, SamplerConfig)
    _add_control_flags(verb)


def _add_complete(verbs: Any) -> None:
    verb = verbs.add_parser(
        "complete",
        help="go on from what was typed",
        description="Strings that begin with what was typed, see docs/completion.md.",
    )
    verb.add_argument(
        "--num",
        type=cli.IntegerRange(1, MAX_STRINGS),
        default=1,
        metavar="N",
        help="completions of each string (default 1)",
    )
    verb.add_argument(
        "--suffix",
        default="",
        metavar="TEXT",
        help="how the strings end (drawn by the bidirectional mode)",
    )
    verb.add_argument(
        "--stream",
        action="store_true",
        help="show a completion character by character as it is drawn",
    )
    _add_input_flags(verb)
    _add_output_flags(verb)
    add_config_flags(verb, CompletionConfig)
    _add_control_flags(verb)


def _add_repair(verbs: Any) -> None:
    verb = verbs.add_parser(
        "repair", help="mend damaged strings", description="What damaged strings were meant to be."
    )
    verb.add_argument(
        "--method",
        default="channel",
        metavar="NAME",
        help="channel (default), draft, least_edits (no model)",
    )
    verb.add_argument(
        "--sigma",
        type=cli.share,
        metavar="S",
        help="share of damaged symbols (default: several are tried)",
    )
    verb.add_argument(
        "--slack",
        type=CHANGE,
        default=2,
        metavar="N",
        help="the length changes by at most N (default 2)",
    )
    verb.add_argument(
        "--grammar",
        action="store_true",
        help="only strings that parse; one that parses stays as it is",
    )
    verb.add_argument(
        "--holds", action="store_true", help="strings that are true before others that parse"
    )
    verb.add_argument(
        "--max_edits",
        type=CHANGE,
        metavar="N",
        help="at most N insertions, deletions and replacements",
    )
    _add_spans(verb, "--certain", "symbols A to B-1 stay; may be repeated")
    verb.add_argument(
        "--top",
        type=cli.IntegerRange(1, MAX_ALTERNATIVES),
        default=1,
        metavar="N",
        help="list the N best alternatives (default 1)",
    )
    verb.add_argument(
        "--script",
        action="store_true",
        help="print the edits that lead from the input to the result",
    )
    _add_input_flags(verb)
    _add_search_flags(verb)
    _add_output_flags(verb)


def _add_edit(verbs: Any) -> None:
    verb = verbs.add_parser(
        "edit",
        help="fill blanks",
        description="Fill the blanks (?, or ¿ where ? is a symbol) of strings; all else stays.",
    )
    _add_spans(verb, "--mask", "symbols A to B-1 are blanks, too")
    verb.add_argument(
        "--holds",
        action="store_true",
        help="search for a filling that is true, or report that there is none",
    )
    verb.add_argument(
        "--bound",
        type=cli.IntegerRange(1, MAX_BOUND),
        metavar="N",
        help="prefixes that the search examines (default 100000)",
    )
    verb.add_argument(
        "--replace",
        type=cli.insertion_span,
        metavar="A:B",
        help="new symbols for A to B-1; A:A inserts before symbol A",
    )
    verb.add_argument(
        "--length",
        type=cli.new_length,
        metavar="N",
        help="how many new ones: N or N..M (default: as before)",
    )
    _add_input_flags(verb)
    _add_search_flags(verb)
    _add_output_flags(verb)
    add_config_flags(verb, SamplerConfig)


def _add_spans(verb: cli.Parser, flag: str, text: str) -> None:
    verb.add_argument(flag, type=cli.span, action="append", default=[], metavar="A:B", help=text)


def _add_input_flags(verb: cli.Parser) -> None:
    verb.add_argument("texts", nargs="*", metavar="TEXT", help="strings")
    verb.add_argument(
        "--input", metavar="FILE", help="read strings from FILE, one a line; - is standard input"
    )


def _add_search_flags(verb: cli.Parser) -> None:
    verb.add_argument(
        "--beam",
        type=cli.IntegerRange(1, MAX_BEAM),
        default=16,
        metavar="N",
        help="hypotheses of the beam (default 16)",
    )
    verb.add_argument(
        "--candidates",
        type=cli.IntegerRange(1, MOST_CANDIDATES),
        default=CANDIDATES,
        metavar="N",
        help=f"likeliest answers among which a valid one is sought (default {CANDIDATES})",
    )
    verb.add_argument("--trace", action="store_true", help="print the run step by step")


def _add_output_flags(
    verb: cli.Parser, timeout_of: str = "each string; strings are then worked on one by one"
) -> None:
    verb.add_argument("--json", action="store_true", help="one JSON object a line")
    verb.add_argument("--pretty", action="store_true", help="print strings that parse with spaces")
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
