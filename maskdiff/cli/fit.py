"""The command `maskdiff fit`: simple models of a corpus as a checkpoint, in seconds."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdiff.config import LanguageConfig
from maskdiff.config_io import add_config_flags, overrides
from maskdiff.errors import CheckpointError, ConfigError, quote

if TYPE_CHECKING:
    from maskdiff.training.fitting import Fit

OPTIONS = ("max_len", "field", "validity", "validity_timeout", "skip_invalid", "accept_ambiguous",
           "start", "spacing")  # fmt: skip

PRIOR_SYMBOLS = 800  # of damaged validation lines, for the weights of the models


def add_fit_command(verbs: Any) -> None:
    """Add `fit`."""
    verb = verbs.add_parser(
        "fit",
        help="a model of the lines of a folder, in seconds",
        description="Fits an n-gram, and the grammar of the folder if there is one, to the lines "
        "of a corpus and writes them as a checkpoint, which inference.py and benchmark.py read as "
        "they read a trained one.",
    )
    verb.add_argument("folder", metavar="FOLDER", help="a folder with a corpus, or a file")
    verb.add_argument(
        "--out", metavar="FILE", help="the checkpoint (default: runs/NAME/best.pt, of the folder)"
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="replace a file that is not such a fit"
    )
    skipped = [option.name for option in fields(LanguageConfig) if option.name not in OPTIONS]
    add_config_flags(verb, LanguageConfig, skip=skipped)


def run_fit(args: argparse.Namespace) -> int:
    """Fit, write the checkpoint and print three lines. Raises UserError."""
    from maskdiff.languages.corpus_file import corpus_name

    name = corpus_name(Path(args.folder))
    out = Path(args.out) if args.out else Path("runs") / name / "best.pt"
    if out.exists() and not args.overwrite:
        check_replaceable(out)
    from maskdiff import checkpoint
    from maskdiff.languages.corpus import fit_max_len
    from maskdiff.training.comparison import fit_checkpoint_prior
    from maskdiff.training.fitting import fit_corpus

    given = overrides(args, LanguageConfig) | {"language": args.folder}
    config = LanguageConfig(**given)
    fit = fit_corpus(config if "max_len" in given else fit_max_len(config), name)
    payload = fit.payload()
    loaded = checkpoint.denoiser_from(payload, path=str(out))
    fit_checkpoint_prior(loaded, fit.language, PRIOR_SYMBOLS)
    if loaded.fitted_prior is not None:
        payload["prior"] = loaded.fitted_prior.state()
    checkpoint.save(out, payload)
    print("\n".join(summary(fit, out)))
    return 0


def check_replaceable(path: Path) -> None:
    """Raise ConfigError unless the file at `path` is a checkpoint without a neural model."""
    from maskdiff import checkpoint

    try:
        fitted = checkpoint.is_fit(checkpoint.load(path))
    except CheckpointError:
        fitted = False
    if not fitted:
        raise ConfigError(
            f"{quote(str(path), 200)} exists and is not a fit; give another --out, or --overwrite"
        )


def summary(fit: Fit, out: Path) -> list[str]:
    """Return three lines: the corpus, the models, and a command that repairs a string."""
    texts = fit.language.texts() or ()
    symbols, longest = len(fit.language.vocabulary.inner_ids), max(map(len, texts))
    note = f"; {fit.language.note}" if fit.language.note else ""
    nats, by_grammar = fit.nats_per_symbol(), fit.grammar_nats_per_symbol()
    quality = (
        "no test lines to measure it on"
        if nats is None
        else f"{nats:.3f} nats per symbol on {len(fit.tested):,} test lines"
    )
    if by_grammar is not None:
        quality += f", {by_grammar:.3f} by the fitted grammar"
    some = sorted(fit.tested or texts, key=len)
    whole = some[len(some) // 2]
    middle = len(whole) // 2
    broken = whole[:middle] + whole[middle + 1 :] or whole
    words = ["python", "inference.py", "repair", "--checkpoint", str(out)]
    if fit.config.language.validity:
        words += ["--language", fit.config.language.language]
        words += ["--validity", fit.config.language.validity]
    words += ["--", broken]
    return [
        f"{len(texts):,} lines, {symbols} different symbols, longest {longest}{note}",
        f"order {fit.ngram.order}, {quality}; written to {out}",
        f"repair a string: {shlex.join(words)}",
    ]
