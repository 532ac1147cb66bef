"""Checkpoints of a user's own language, with and without its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff import checkpoint
from maskdiff.checkpoint import LanguageOverride
from maskdiff.config import LanguageConfig
from maskdiff.errors import CheckpointError, ConfigError, DataError, GrammarError, UserError
from maskdiff.languages.text import TextLanguage
from tests.helpers.corpora import GRAMMAR, folder, lines, make


def payload_of(config: LanguageConfig, language: TextLanguage) -> checkpoint.Payload:
    from dataclasses import replace

    from maskdiff.models.universal import UniversalDenoiser
    from tests.helpers.tiny import tiny_config

    whole = replace(tiny_config(vocab_size=len(language.vocabulary)), language=config)
    torch.manual_seed(0)
    weights = UniversalDenoiser(whole.model).state_dict()
    return checkpoint.make_payload(whole, language.vocabulary, weights, language=language.state())


def test_a_checkpoint_needs_no_folder(tmp_path: Path) -> None:
    from maskdiff import tasks

    corpus = lines(200)
    config = folder(tmp_path / "pairs", corpus, GRAMMAR)
    language = make(config)
    checkpoint.save(tmp_path / "x.pt", payload_of(config, language))
    (tmp_path / "pairs").rename(tmp_path / "gone")
    loaded = checkpoint.load_denoiser(tmp_path / "x.pt")
    again = loaded.language
    assert again.name == "pairs"
    assert again.vocabulary == language.vocabulary
    assert again.lark_grammar().text == GRAMMAR
    assert np.array_equal(again.length_probs(), language.length_probs())
    from maskdiff.config import SamplerConfig

    made = tasks.generate(loaded, 20, sampler=SamplerConfig("maskgit", steps=1, grammar=True))
    assert all(result.parses and result.holds is None for result in made)
    assert tasks.repair(loaded, ["a=;b=3"], grammar=True)[0].parses
    assert tasks.edit(loaded, ["a=?;?=3"], grammar=True)[0].parses
    with pytest.raises(DataError, match=r"no folder '.*pairs'"):
        again.sample_many(1, np.random.default_rng(0))


def spied(tmp_path: Path) -> tuple[Path, LanguageConfig]:
    """A folder whose checker leaves a trace when it is imported."""
    config = folder(tmp_path / "x", ["aa", "ab"])
    trace = tmp_path / "ran"
    (tmp_path / "x" / "spy_checker.py").write_text(
        f"open({str(trace)!r}, 'w').close()\ndef ok(text):\n    return text == 'aa'\n"
    )
    return trace, LanguageConfig(
        language=config.language, validity="spy_checker:ok?", skip_invalid=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("state", ["whole", "empty", "absent"])
def test_a_checker_named_by_a_checkpoint_is_not_imported(tmp_path: Path, state: str) -> None:
    trace, named = spied(tmp_path)
    payload = payload_of(named, make(LanguageConfig(language=named.language)))
    if state == "empty":
        payload["language"] = {}
    elif state == "absent":
        del payload["language"]
    checkpoint.save(tmp_path / "x.pt", payload)
    checkpoint.save_pretrained(tmp_path / "pretrained", payload)
    for load, path in (
        (checkpoint.load_denoiser, tmp_path / "x.pt"),
        (checkpoint.from_pretrained, tmp_path / "pretrained"),
    ):
        if state == "whole":
            loaded = load(path)
            assert loaded.language.validity == "" == loaded.config.language.validity
            assert loaded.language.texts() == (
                "aa",
                "ab",
            )  # read again from the folder, nothing imported
        else:
            with pytest.raises(CheckpointError, match="give its folder with --language"):
                load(path)
        with pytest.raises(
            UserError, match=r"cannot be imported|--language"
        ):  # no module is looked for where it points
            load(path, override=LanguageOverride(validity="spy_checker:ok?"))
    assert not trace.exists()
    trusted = checkpoint.load_denoiser(
        tmp_path / "x.pt",
        override=LanguageOverride(named.language, "spy_checker:ok?", skip_invalid=True),
    )
    assert trace.exists()
    assert trusted.language.parses("aa")
    assert not trusted.language.parses("ab")


@pytest.mark.slow
def test_a_checker_named_by_a_run_folder_is_not_imported(tmp_path: Path) -> None:
    from maskdiff.cli.train import run_config
    from maskdiff.config_io import dump_yaml

    trace, named = spied(tmp_path)
    payload = payload_of(named, make(LanguageConfig(language=named.language)))
    checkpoint.save(tmp_path / "last.pt", payload)
    for written in (False, True):
        if written:
            (tmp_path / "config.yaml").write_text(dump_yaml(checkpoint.read_config(payload)))
        with pytest.raises(ConfigError, match=r"allow it with --validity spy_checker:ok\?"):
            run_config(tmp_path, {})
        with pytest.raises(ConfigError, match=r"spy_checker\.py'; allow it with --language DIR"):
            run_config(tmp_path, {"validity": "spy_checker:ok?"})
        given = {"validity": "spy_checker:ok?", "language": named.language}
        assert run_config(tmp_path, given).language.validity == "spy_checker:ok?"
    assert not trace.exists()


@pytest.mark.slow
def test_a_folder_that_is_read_again_has_the_same_symbols(tmp_path: Path) -> None:
    config = folder(tmp_path / "x", lines(100))
    checkpoint.save(tmp_path / "x.pt", payload_of(config, make(config)))
    (tmp_path / "x" / "grammar.lark").write_text(GRAMMAR)
    overridden = checkpoint.load_denoiser(
        tmp_path / "x.pt", override=LanguageOverride(config.language)
    )
    assert overridden.language.validity == "grammar.lark"
    (tmp_path / "x" / "grammar.lark").write_text(GRAMMAR.replace('";"', '(";" | "!")'))
    with pytest.raises(GrammarError, match="'!' needs '!', which is not a symbol of the language"):
        checkpoint.load_denoiser(tmp_path / "x.pt", override=LanguageOverride(config.language))
    (tmp_path / "x" / "grammar.lark").unlink()
    (tmp_path / "x" / "corpus.txt").write_text("a=1\nz=2\n")
    with pytest.raises(DataError, match="has changed since the training: 'z' is no symbol"):
        checkpoint.load_denoiser(tmp_path / "x.pt").language.texts()
    own = payload_of(config, overridden.language)  # type: ignore[arg-type]
    for folder_, state in (("json", own), (config.language, None)):
        with pytest.raises(ConfigError, match="give a folder"):
            checkpoint.denoiser_from(state or json_payload(), override=LanguageOverride(folder_))
    with pytest.raises(ConfigError, match="validity is for a language of your own"):
        checkpoint.denoiser_from(json_payload(), override=LanguageOverride(validity="json:loads"))


def json_payload() -> checkpoint.Payload:
    config = LanguageConfig(language="json")
    return payload_of(config, make(config))


@pytest.mark.parametrize(
    "state",
    [
        {"symbols": 3},
        {"symbols": "ab", "lengths": [-1]},
        {"symbols": "ab", "lengths": [0]},
        {"a": 1},
        {"symbols": "ab", "lengths": [0, 10**30]},
    ],
)
def test_a_foreign_description_of_a_language(tmp_path: Path, state: dict) -> None:
    config = folder(tmp_path / "x", ["aa", "ab"])
    payload = payload_of(config, make(config))
    with pytest.raises(UserError, match="symbols, grammar and lengths"):
        checkpoint.denoiser_from({**payload, "language": state}, path="x.pt")


@pytest.mark.slow
def test_every_suite_runs_on_a_language_without_a_grammar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without grammar, truth and probabilities, suites leave out the metrics that need them."""
    from maskdiff.cli.arguments import run_cli
    from maskdiff.cli.benchmark import main

    config = folder(tmp_path / "pairs", lines(400))
    checkpoint.save(tmp_path / "x.pt", payload_of(config, make(config)))
    flags = "--threads 1 --num_samples 6 --sampler maskgit --maskgit_steps 2"
    argv = ["--checkpoint", str(tmp_path / "x.pt"), *flags.split()]
    suites = ["generation", "repair", "one_edit", "editing", "likelihood"]
    noise = ["--sigma", "0.2", "--corruption", "mixed", "--json", str(tmp_path / "x.json")]
    assert run_cli(main, [*argv, "--suite", *suites, *noise]) == 0
    capsys.readouterr()
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert {row["suite"] for row in rows} == set(suites)
    metrics = {row["metric"] for row in rows}
    assert {"distinct", "length_distance", "exact", "anchors_kept", "elbo", "next_token"} <= metrics
    assert not metrics & {
        "parses", "holds", "distinct_valid", "balanced", "depth_distance", "log_likelihood",
        "elbo_excess", "elbo_part",
    }  # fmt: skip
    assert not any(row["sampler"] in ("least_edits", "bayes_optimal") for row in rows)
    assert run_cli(main, [*argv, "--grammar"]) == 2
    assert "pairs has no grammar" in capsys.readouterr().err
    assert run_cli(main, [*argv, "--suite", "repair", "--repair_method", "least_edits"]) == 2
    assert "pairs has no grammar" in capsys.readouterr().err
    assert run_cli(main, [*argv[:-4], "--sampler", "coarse_to_fine"]) == 2
    assert "<DIGIT>" in capsys.readouterr().err
