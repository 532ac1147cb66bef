"""The options that are chosen for a folder: given ones count, the same lines give the same."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from maskdiff.checkpoint import load_denoiser
from maskdiff.cli import train as train_universal
from maskdiff.cli.arguments import run_cli
from maskdiff.config import Config
from maskdiff.config_io import explicit, load_config
from maskdiff.languages import make_language, split_of
from maskdiff.tasks.whole_strings import whole_log_probs
from maskdiff.training.recipe import (
    MINUTES,
    PURPOSES,
    SIZES,
    chosen_options,
    corpus_facts,
    with_recipe,
)
from tests.helpers.corpora import folder, lines, make

LINES = lines(400)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return folder(tmp_path / "own", LINES).language


def chosen(corpus: str, **given: object) -> Config:
    given = {"language": corpus, **given}
    return with_recipe(load_config(None, given), explicit(None, given))[0]


def flat(config: Config) -> dict[str, object]:
    return {name: value for part in asdict(config).values() for name, value in part.items()}


def test_the_facts_of_a_corpus_are_those_of_its_lines() -> None:
    facts = corpus_facts([*LINES, LINES[0]])
    distinct = set(LINES)
    train = [line for line in distinct if split_of(line) == "train"]
    assert (facts.lines, facts.distinct, facts.train) == (401, len(distinct), len(train))
    assert facts.train + facts.validation + facts.test == facts.distinct
    assert (facts.symbols, facts.longest) == (len(set("".join(LINES))), max(map(len, LINES)))
    assert facts.tokens == sum(map(len, train))


def test_chosen_options_are_used_and_given_ones_take_precedence(corpus: str) -> None:
    plain = flat(chosen(corpus))
    wanted = chosen_options(corpus_facts(LINES), "repair", MINUTES)
    assert {name: plain[name] for name in wanted} == wanted
    assert (plain["minutes"], plain["max_iters"]) == (MINUTES, 0)
    given = {"n_embd": 64, "causal_share": 0.3, "patience": 0, "dropout": 0.0, "max_len": 80}
    mine = flat(chosen(corpus, **given))
    assert {name: mine[name] for name in given} == given
    same = wanted.keys() - given.keys()
    assert {name: mine[name] for name in same} == {name: wanted[name] for name in same}


def test_a_given_share_leaves_less_for_the_chosen_ones(corpus: str) -> None:
    config = chosen(corpus, repair_share=0.4).train
    assert (config.repair_share, config.causal_share) == (0.4, pytest.approx(0.6))


@pytest.mark.parametrize(
    "given, limits",
    [
        ({}, (MINUTES, 0)),
        ({"minutes": 2.0}, (2.0, 0)),
        ({"max_iters": 70}, (0.0, 70)),
        ({"minutes": 2.0, "max_iters": 70}, (2.0, 70)),
        ({"minutes": 0.0}, (0.0, 2000)),
    ],
)
def test_time_and_steps_limit_a_run(
    corpus: str, given: dict[str, object], limits: tuple[float, int]
) -> None:
    train = chosen(corpus, **given).train
    assert (train.minutes, train.max_iters) == limits


def test_of_time_and_steps_a_flag_replaces_those_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("max_iters: 70\n")
    (tmp_path / "b.yaml").write_text("minutes: 3\n")
    train = load_config(tmp_path / "a.yaml", {"minutes": 2.0}).train
    assert (train.minutes, train.max_iters) == (2.0, 0)
    train = load_config(tmp_path / "b.yaml", {"max_iters": 9}).train
    assert (train.minutes, train.max_iters) == (0.0, 9)
    assert load_config(tmp_path / "b.yaml").train.max_iters == 0


def test_options_of_a_file_take_precedence(corpus: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"language: {corpus}\nmodel: {{n_embd: 48}}\nlr: 0.001\n")
    config, _ = with_recipe(load_config(path), explicit(path))
    assert (config.model.n_embd, config.train.lr) == (48, 0.001)
    assert config.train.causal_share == PURPOSES["repair"]["causal_share"]


def test_the_same_lines_and_use_give_the_same_options(corpus: str, tmp_path: Path) -> None:
    again = folder(tmp_path / "again", LINES[::-1]).language
    one, two = flat(chosen(corpus)), flat(chosen(again))
    assert one.pop("language") != two.pop("language")
    assert one == two


def test_the_use_chooses_the_mixture_and_the_criterion(corpus: str) -> None:
    for purpose, wanted in PURPOSES.items():
        options = flat(chosen(corpus, purpose=purpose))
        assert {name: options[name] for name in wanted} == wanted


def test_more_lines_give_a_larger_model_and_less_dropout() -> None:
    facts = corpus_facts(LINES)
    sizes = [
        chosen_options(
            type(facts)(**{**asdict(facts), "train": count, "tokens": 40 * count}), "repair", 60.0
        )
        for count, _ in SIZES
    ]
    widths, dropouts = ([size[name] for size in sizes] for name in ("n_embd", "dropout"))
    assert widths == sorted(widths)
    assert widths[-1] > widths[0]
    assert dropouts == sorted(dropouts, reverse=True)
    assert dropouts[-1] < dropouts[0]
    assert dropouts[0] <= 0.3
    short = chosen_options(facts, "repair", 1.0)
    assert short["n_embd"] <= sizes[0]["n_embd"]


def test_the_longest_line_fits(tmp_path: Path) -> None:
    corpus = folder(tmp_path / "long", [*LINES, "a=" + "1" * 120]).language
    config = chosen(corpus)
    assert config.language.max_len >= 124
    assert make(config.language).max_symbols >= 122


def test_a_language_that_is_no_folder_keeps_its_options() -> None:
    config = load_config(None, {"language": "json"})
    assert with_recipe(config, explicit(None, {"language": "json"})) == (config, [])
    assert (config.train.minutes, config.train.max_iters) == (0.0, 2000)


def test_initial_weights_keep_their_shape(corpus: str) -> None:
    given = {"language": corpus}
    config, _ = with_recipe(load_config(None, given), explicit(None, given), fixed_model=True)
    assert config.model == load_config(None, {}).model
    assert config.language.max_len == load_config(None, {}).language.max_len
    assert config.train.causal_share == PURPOSES["repair"]["causal_share"]


def test_an_unknown_use_is_an_error_that_names_the_nearest(
    corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--for", "--purpose"):
        argv = ["--language", corpus, flag, "repare"]
        assert run_cli(train_universal.main, argv) == 2
        assert "the nearest is 'repair'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_on_a_folder_says_what_to_expect_and_compares_at_the_end(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--language", corpus, "--checkpoint_dir", str(tmp_path / "run"), "--max_iters", "6"]
    argv += ["--n_embd", "16", "--threads", "1", "--batch_size", "16", "--live_samples", "0"]
    assert run_cli(train_universal.main, [*argv, "--causal_length"]) == 0
    out, err = capsys.readouterr()
    before = err[: err.index("parameters on")].splitlines()
    assert len(before) <= 6
    assert before[0].startswith(f"own: 400 lines ({len(set(LINES))} distinct), ")
    assert any("lines are few" in line for line in before)
    table = out.splitlines()[1:-1]
    assert len(table) <= 5
    assert [line.split()[:2] for line in table[1:3]] == [["nats", "per"], ["one", "edit"]]
    # The probabilities of all strings of a length add up to that of the length, which is counted
    # on training lines alone.
    loaded, language = load_denoiser(tmp_path / "run" / "best.pt"), make_language(corpus)
    inner = [loaded.vocabulary.symbols[token] for token in loaded.vocabulary.inner_ids]
    log_p = whole_log_probs(loaded.denoiser, loaded.config.model, language, inner)
    training = [line for line in LINES if split_of(line) == "train"]
    counts = np.bincount([len(line) for line in training], minlength=63)[1:63] + 0.1
    assert np.exp(log_p).sum() == pytest.approx(counts[0] / counts.sum(), rel=1e-5)
