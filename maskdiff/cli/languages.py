"""The command `maskdiff languages check`: compares Lark and this package on a grammar."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from typing import Any

from maskdiff.cli import arguments as cli
from maskdiff.config import MAX_SEED, LanguageConfig
from maskdiff.config_io import add_config_flags, overrides

SCHEMA = 1
CHECKED = (
    "field",
    "start",
    "spacing",
    "max_len",
    "validity_timeout",
)  # options that affect the grammar


def add_languages_command(verbs: Any) -> None:
    """Add `languages` with its action `check`."""
    actions = verbs.add_parser(
        "languages",
        help="tools for a language of your own",
        description="Tools for a folder with corpus.txt.",
    ).add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=cli.Parser)
    check = actions.add_parser(
        "check",
        help="compare how Lark and this package read grammar.lark",
        description="Compares Lark's Earley parser and this package on the corpus and on strings "
        "drawn from the grammar.",
    )
    check.add_argument("folder", metavar="FOLDER", help="a folder with corpus.txt and grammar.lark")
    skipped = [option.name for option in fields(LanguageConfig) if option.name not in CHECKED]
    add_config_flags(check, LanguageConfig, skip=skipped)
    for flag, kind, default, meaning in (
        ("--lines", cli.IntegerRange(1, 10**6), 200, "lines compared"),
        ("--draws", cli.IntegerRange(0, 10**6), 200, "strings drawn"),
        ("--seed", cli.IntegerRange(0, MAX_SEED), 0, "seed of the draws"),
    ):
        text = f"{meaning} (default {default})"
        check.add_argument(flag, type=kind, default=default, metavar="N", help=text)
    check.add_argument("--json", action="store_true", help="one JSON object")


def run_languages_check(args: argparse.Namespace) -> int:
    """Print the comparison; return 1 if Lark and this package differ. Raises UserError."""
    from maskdiff.languages import fitted_length
    from maskdiff.languages.check import check_folder

    given = overrides(args, LanguageConfig)
    config = LanguageConfig(**(given | {"language": args.folder}))
    config = config if "max_len" in given else fitted_length(config)
    found = check_folder(config, args.lines, args.draws, args.seed)
    if args.json:
        head = {"schema": SCHEMA, "verb": "languages check", "agrees": found.agrees}
        print(json.dumps({**head, **asdict(found)}))
    else:
        print(found.report())
    return 0 if found.agrees else 1
