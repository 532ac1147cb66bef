"""`maskdiff`: the commands `fit`, `diagnose`, `languages check` and `serve`.

    maskdiff fit rules                  # a model of the lines of rules/corpus.txt, in seconds
    maskdiff diagnose configs/twin_truncated.yaml configs/decode.yaml
    maskdiff diagnose runs/twin_truncated/best.pt configs/decode.yaml    # also samples the model
    python -m maskdiff diagnose train.yaml decode.yaml --checkpoint best.pt --json
    maskdiff languages check rules      # does this package read rules/grammar.lark as Lark does?
    maskdiff serve --checkpoint checkpoints/arithmetic-steps.pt

`fit` writes a checkpoint that repairs, completes, edits and generates with an n-gram. See
docs/languages.md.

`diagnose` names the likely cause of repetition and of strings that do not end. It compares the
settings of training with those of sampling, and samples the model if one is given. See
docs/repetition.md.

`languages check` compares this package and Lark on the lines of a folder and on strings drawn from
its grammar; it exits with 1 if they differ. See docs/languages.md.

`serve` answers OpenAI's clients over HTTP until Ctrl-C or SIGTERM. See docs/serving.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from maskdiff.cli import arguments as cli
from maskdiff.cli.diagnose import add_diagnose_command, run_diagnose
from maskdiff.cli.fit import add_fit_command, run_fit
from maskdiff.cli.languages import add_languages_command, run_languages_check
from maskdiff.cli.serve import add_verb as add_serve_command
from maskdiff.cli.serve import serve as run_serve


def build_parser() -> cli.Parser:
    """Return the parser of all commands."""
    parser = cli.Parser(prog="maskdiff", description=__doc__)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=cli.Parser
    )
    add_fit_command(verbs)
    add_diagnose_command(verbs)
    add_languages_command(verbs)
    add_serve_command(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. Raises UserError."""
    args = build_parser().parse_args(argv)
    if args.verb == "languages":
        return run_languages_check(args)
    if args.verb == "fit":
        return run_fit(args)
    cli.use_threads(args.threads)
    return run_serve(args) if args.verb == "serve" else run_diagnose(args)
