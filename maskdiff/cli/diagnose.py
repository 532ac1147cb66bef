"""The command `maskdiff diagnose`: names the likely cause of repetition and of endless strings."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from maskdiff.cli import arguments as cli
from maskdiff.config import MAX_MEASURED, Config, DecodeConfig
from maskdiff.config_io import load_config, load_decoding
from maskdiff.errors import ConfigError

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.evaluation.diagnosis import Diagnosis

SCHEMA = 1
SLIGHT = 0.1  # a finding of at most this weight is called possible, not likely


def add_diagnose_command(verbs: Any) -> None:
    """Add `diagnose` to the commands."""
    verb = verbs.add_parser(
        "diagnose",
        help="why a model repeats itself or runs on",
        description="The likely cause, with evidence.",
    )
    verb.add_argument(
        "train",
        metavar="TRAIN_CONFIG",
        help="a configuration of training (YAML), or a checkpoint (.pt), which contains one",
    )
    verb.add_argument(
        "decode",
        metavar="[DECODE_CONFIG]",
        nargs="?",
        help="settings of sampling (default: the defaults)",
    )
    verb.add_argument(
        "--num",
        type=cli.IntegerRange(1, MAX_MEASURED),
        default=200,
        metavar="N",
        help="strings drawn from the model (default 200)",
    )
    verb.add_argument("--json", action="store_true", help="one JSON object")
    cli.add_machine_flags(
        verb, checkpoint="the model to sample, if TRAIN_CONFIG is not a checkpoint (default: none)"
    )
    cli.add_language_flags(verb)


def run_diagnose(args: argparse.Namespace) -> int:
    """Print the diagnosis; return 0 whatever it says. Raises UserError."""
    train, decode, loaded = read_inputs(args)
    from maskdiff.evaluation.diagnosis import diagnose

    if loaded is not None and loaded.length_conditioned:
        print(
            "maskdiff: the model gets the length of its strings, so it is not sampled: "
            "none of them can run on",
            file=sys.stderr,
        )
    diagnosis = diagnose(train, decode, loaded, args.num, args.seed)
    print(json.dumps(diagnosis_object(diagnosis)) if args.json else diagnosis_text(diagnosis))
    return 0


def read_inputs(args: argparse.Namespace) -> tuple[Config, DecodeConfig, Loaded | None]:
    """Return both configurations, and the model if one is given. Raises UserError."""
    decode = load_decoding(args.decode) if args.decode else DecodeConfig()
    if args.train.endswith(".pt") and args.checkpoint:
        raise ConfigError(
            "a checkpoint as TRAIN_CONFIG is itself the model to sample; leave out --checkpoint, "
            "or give a YAML file"
        )
    path = args.train if args.train.endswith(".pt") else args.checkpoint
    loaded = None
    if path is not None:
        from maskdiff.checkpoint import LanguageOverride, load_denoiser

        loaded = load_denoiser(path, args.device, LanguageOverride.of(args))
    if loaded is not None:
        loaded.neural("diagnose")
    train = loaded.config if loaded is not None and path == args.train else load_config(args.train)
    return train, decode, loaded


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Return the likely cause, then other findings, then figures of the model."""
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
        figures = (
            f"{name} {figure.value:.3g}"
            + (f" [{figure.low:.3g}, {figure.high:.3g}]" if figure.low == figure.low else "")
            for name, figure in diagnosis.probe.figures.items()
        )
        lines.append(f"the model ({diagnosis.probe.cause}): {', '.join(figures)}")
    return "\n".join(lines)


def diagnosis_object(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the JSON object; NaN becomes null."""
    item: dict[str, Any] = {
        "schema": SCHEMA,
        "verb": "diagnose",
        "findings": [asdict(finding) for finding in diagnosis.findings],
    }
    if diagnosis.probe is not None:
        figures = {name: figure.to_dict() for name, figure in diagnosis.probe.figures.items()}
        item["model"] = {"cause": diagnosis.probe.cause, "figures": figures}
    return item
