"""The program `maskdiff` (`python -m maskdiff`); see `maskdiff/cli/maskdiff.py`."""

from __future__ import annotations

import sys

<<<<<<< HEAD
from maskdiff.cli.arguments import run_cli
from maskdiff.cli.maskdiff import main
=======
from maskdiff.cli import arguments as cli
from maskdiff.cli.serve import add_verb, serve
from maskdiff.config import MAX_MEASURED, MAX_SEED, Config, DecodeConfig, LanguageConfig
from maskdiff.config_io import add_config_flags, load_config, load_decoding, overrides
from maskdiff.errors import ConfigError

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.evaluation.diagnosis import Diagnosis

SCHEMA = 1
CHECKED = (
    "start",
    "spacing",
    "max_len",
    "validity_timeout",
)  # options of a language that reading its grammar asks for
SLIGHT = 0.1  # weight up to which a finding is no likely cause, even if there is no other


def build_parser() -> cli.Parser:
    """All flags of all verbs."""
    parser = cli.Parser(prog="maskdiff", description=__doc__)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=cli.Parser
    )
    verb = verbs.add_parser(
        "diagnose",
        help="why a model repeats itself or runs on",
        description="The likely cause, with evidence.",
    )
    verb.add_argument(
        "train",
        metavar="TRAIN_CONFIG",
        help="a configuration of training (YAML), or a checkpoint (.pt), which holds its own",
    )
    verb.add_argument(
        "decode",
        metavar="[DECODE_CONFIG]",
        nargs="?",
        help="settings of sampling (default: nothing but defaults)",
    )
    verb.add_argument(
        "--num",
        type=cli.IntegerRange(1, MAX_MEASURED),
        default=200,
        metavar="N",
        help="strings that the model is asked for (default 200)",
    )
    verb.add_argument("--json", action="store_true", help="one JSON object")
    cli.add_machine_flags(verb)
    asked = next(action for action in verb._actions if action.dest == "checkpoint")
    asked.help = (
        "the model to ask, where TRAIN_CONFIG is no checkpoint itself (default: none is asked)"
    )
    cli.add_language_flags(verb)
    _add_languages(verbs)
    add_verb(verbs)
    return parser


def _add_languages(verbs: Any) -> None:
    """The verb `languages` with its actions."""
    actions = verbs.add_parser(
        "languages",
        help="tools for a language of your own",
        description="Tools for a folder with corpus.txt.",
    ).add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=cli.Parser)
    check = actions.add_parser(
        "check",
        help="compare how Lark and this package read grammar.lark",
        description="Compares Lark's Earley parser and this package on the corpus and on strings that the grammar writes.",
    )
    check.add_argument("folder", metavar="FOLDER", help="a folder with corpus.txt and grammar.lark")
    add_config_flags(
        check,
        LanguageConfig,
        skip=[option.name for option in fields(LanguageConfig) if option.name not in CHECKED],
    )
    check.add_argument(
        "--lines",
        type=cli.IntegerRange(1, 10**6),
        default=200,
        metavar="N",
        help="lines compared (default 200)",
    )
    check.add_argument(
        "--draws",
        type=cli.IntegerRange(0, 10**6),
        default=200,
        metavar="N",
        help="strings drawn (default 200)",
    )
    check.add_argument(
        "--seed",
        type=cli.IntegerRange(0, MAX_SEED),
        default=0,
        metavar="N",
        help="of the draws (default 0)",
    )
    check.add_argument("--json", action="store_true", help="one JSON object")


def read(args: argparse.Namespace) -> tuple[Config, DecodeConfig, Loaded | None]:
    """The two configurations, and the model if there is one. Raises UserError."""
    decode = load_decoding(args.decode) if args.decode else DecodeConfig()
    if args.train.endswith(".pt") and args.checkpoint:
        raise ConfigError(
            "a checkpoint as TRAIN_CONFIG is the model that is asked; leave out --checkpoint, or give a YAML file"
        )
    path = args.train if args.train.endswith(".pt") else args.checkpoint
    loaded = None
    if path is not None:
        from maskdiff.checkpoint import LanguageOverride, load_denoiser

        loaded = load_denoiser(path, args.device, LanguageOverride.of(args))
    train = loaded.config if loaded is not None and path == args.train else load_config(args.train)
    return train, decode, loaded


def as_text(diagnosis: Diagnosis) -> str:
    """The likely cause first, then what else speaks for one, then what the model does."""
    lines = []
    for rank, finding in enumerate(diagnosis.findings):
        first = "likely cause" if finding.weight > SLIGHT else "possible cause"
        lines.append(
            f"{'also' if rank else first}: {finding.cause}, which leads to {finding.effect}"
        )
        lines += [f"  evidence: {evidence}" for evidence in finding.evidence]
        lines.append(f"  remedy:   {finding.remedy}")
    if not diagnosis.findings:
        lines.append("likely cause: none found")
    if diagnosis.probe is not None:
        told = (
            f"{name} {figure.value:.3g}"
            + (f" [{figure.low:.3g}, {figure.high:.3g}]" if figure.low == figure.low else "")
            for name, figure in diagnosis.probe.figures.items()
        )
        lines.append(f"the model ({diagnosis.probe.cause}): {', '.join(told)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Diagnose or serve; 0 whatever the finding. Raises UserError."""
    args = build_parser().parse_args(argv)
    if args.verb == "languages":
        return _check(args)
    cli.use_threads(args.threads)
    return serve(args) if args.verb == "serve" else _diagnose(args)


def _check(args: argparse.Namespace) -> int:
    """Print the comparison; 1 where Lark and this package differ."""
    from maskdiff.languages.check import check_folder

    config = LanguageConfig(**(overrides(args, LanguageConfig) | {"language": args.folder}))
    found = check_folder(config, args.lines, args.draws, args.seed)
    if args.json:
        print(
            json.dumps(
                {
                    "schema": SCHEMA,
                    "verb": "languages check",
                    "agrees": found.agrees,
                    **asdict(found),
                }
            )
        )
    else:
        print(found.report())
    return 0 if found.agrees else 1


def _diagnose(args: argparse.Namespace) -> int:
    train, decode, loaded = read(args)
    from maskdiff.evaluation.diagnosis import diagnose

    if loaded is not None and loaded.length_conditioned:
        print(
            "maskdiff: the model is told how long its strings are, and is not asked: none of them can run on",
            file=sys.stderr,
        )
    made = diagnose(train, decode, loaded, args.num, args.seed)
    if args.json:
        item = {
            "schema": SCHEMA,
            "verb": args.verb,
            "findings": [asdict(finding) for finding in made.findings],
        }
        if made.probe is not None:
            figures = {name: figure.to_dict() for name, figure in made.probe.figures.items()}
            item["model"] = {"cause": made.probe.cause, "figures": figures}
        print(json.dumps(item))
    else:
        print(as_text(made))
    return 0
>>>>>>> w-evaluation


def run() -> int:
    """Run the program; an error of the user is one line and status 2."""
    return run_cli(main)


if __name__ == "__main__":
    sys.exit(run())
