"""Diagnosis of two models trained here, and findings for good and bad settings."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.cli.arguments import run_cli
from maskdiff.cli.maskdiff import main
from maskdiff.config import CompletionConfig, Config, ControlConfig, DecodeConfig, SamplerConfig
from maskdiff.config_io import config_from_dict
from maskdiff.decoding import CausalModel, condition
from maskdiff.errors import ConfigError
from maskdiff.evaluation import diagnosis
from maskdiff.evaluation.diagnosis import (
    Diagnosis,
    EndingProbe,
    _cause,
    diagnose,
    end_probabilities,
    probe_endings,
)
from maskdiff.languages import make_language
from maskdiff.metrics import Estimate
from maskdiff.training.loop import Trainer
from tests.helpers.tiny import PIECES, tiny_checkpoint, tiny_loaded

TWIN = {
    "max_depth": 1, "max_int": 9, "max_len": 28, "causal_length": False, "n_embd": 32,
    "n_layer": 1, "k_iter": 2, "num_samples": 0, "batch_size": 32, "max_iters": 100,
    "warmup_iters": 20, "ema": 0.95, "causal_share": 1.0, "repair_share": 0.0,
    "skeleton_share": 0.0, "eval_interval": 10**6, "save_interval": 10**6, "live_samples": 0,
    "eval_samples": 8,
}  # fmt: skip
MISTAKES = {
    "healthy": {},
    "end_not_taught": {"cut_rows": 1.0},
    "packed_answers": {"strings_in_a_row": 3},
}
PLAIN = DecodeConfig()
NUM = 20  # strings of a probe


def trained(folder: Path, seed: int, mistake: str) -> Loaded:
    config = config_from_dict({**TWIN, **MISTAKES[mistake], "seed": seed})
    Trainer(config, folder).run()
    return load_denoiser(folder / "best.pt", "cpu")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    return {name: trained(tmp_path_factory.mktemp(name), 11, name) for name in MISTAKES}


@pytest.fixture(scope="module")
def probes(twins: dict[str, Loaded]) -> dict[str, EndingProbe]:
    """Probes of the models without the settings of their training."""
    return {
        name: probe_endings(
            replace(loaded, config=replace(loaded.config, train=Config().train)), NUM, times=2
        )
        for name, loaded in twins.items()
    }


def causes(made: Diagnosis) -> list[str]:
    return [finding.cause for finding in made.findings]


@pytest.mark.slow
def test_probe_distinguishes_the_twins_without_their_configuration(
    probes: dict[str, EndingProbe],
) -> None:
    assert {name: probe.cause for name, probe in probes.items()} == {n: n for n in MISTAKES}


@pytest.mark.slow
def test_probe_distinguishes_the_twins_on_another_seed(tmp_path: Path) -> None:
    """Training and probe have the seed 12."""
    for name in MISTAKES:
        folder = tmp_path / name
        folder.mkdir()
        assert probe_endings(trained(folder, 12, name), NUM, 12, times=2).cause == name


@pytest.mark.slow
def test_a_measured_model_overrides_its_configuration(
    twins: dict[str, Loaded], probes: dict[str, EndingProbe], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_of = {id(twins[name]): probe for name, probe in probes.items()}
    monkeypatch.setattr(diagnosis, "probe_endings", lambda loaded, *_: probe_of[id(loaded)])
    configs = {name: loaded.config for name, loaded in twins.items()}
    for name, loaded in twins.items():
        honest = diagnose(configs[name], PLAIN, loaded)
        assert causes(honest)[:1] == ([] if name == "healthy" else [name])
        # The data itself had no ends, and no setting states it.
        lied = diagnose(configs["healthy"], PLAIN, loaded)
        assert causes(lied)[:1] == causes(honest)[:1]
    wrong = diagnose(configs["end_not_taught"], PLAIN, twins["packed_answers"])
    assert causes(wrong) == ["packed_answers", "end_not_taught"]
    assert "does not behave so" in wrong.findings[1].evidence[1]
    assert wrong.findings[1].weight < 0.2


def test_without_a_model_findings_come_from_the_configuration() -> None:
    assert causes(diagnose(config_from_dict(TWIN), PLAIN)) == []
    for name, setting in MISTAKES.items():
        assert causes(diagnose(config_from_dict({**TWIN, **setting}), PLAIN)) == (
            [] if name == "healthy" else [name]
        )
    assert causes(diagnose(config_from_dict({**TWIN, "causal_share": 0.0}), PLAIN)) == [
        "no_causal_mode"
    ]


@pytest.mark.parametrize(
    ("control", "found"),
    [
        (ControlConfig(repetition_penalty=1.1), ["penalty"]),
        (ControlConfig(frequency_penalty=0.1), ["penalty"]),
        (ControlConfig(repetition_penalty=0.9), ["reward"]),
        (ControlConfig(presence_penalty=-1.0), ["reward"]),
        (ControlConfig(no_repeat_ngram=1), ["ngram"]),
        (ControlConfig(no_repeat_ngram=20), []),
        (ControlConfig(dry_multiplier=1.0, dry_allowed_length=20), []),
        (ControlConfig(stop=("=", "\n")), ["stop_in_answers"]),
        (ControlConfig(stop=("\n",)), []),
        (ControlConfig(max_tokens=5), ["limit_too_low"]),
        (ControlConfig(max_tokens=20), []),
        (ControlConfig(max_tokens=200), ["limit_beyond_training"]),
        (ControlConfig(loop_period=1, loop_repeats=2), ["loops_in_answers"]),
        (ControlConfig(loop_period=4, loop_repeats=8), []),
    ],
)
def test_a_setting_is_checked_on_the_strings_of_the_language(
    control: ControlConfig, found: list[str]
) -> None:
    made = diagnose(config_from_dict(TWIN), DecodeConfig(control=control))
    assert causes(made) == found
    assert all(
        0 < finding.weight <= 1 and finding.evidence and finding.remedy for finding in made.findings
    )


def test_a_penalty_without_repetition_is_no_finding(tmp_path: Path) -> None:
    """No token of these strings repeats; in the control one string in two repeats a token."""
    penalty = DecodeConfig(control=ControlConfig(repetition_penalty=1.1))
    for name, text, found in (("once", "ab\ncd\nabcd\n", []), ("twice", "ab\naabb\n", ["penalty"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.txt").write_text(text)
        made = diagnose(config_from_dict({"language": str(tmp_path / name)}), penalty)
        assert causes(made) == found
        assert "0%" not in " ".join(
            line for finding in made.findings for line in finding.evidence
        ).replace("50%", "")


def test_no_strings_give_no_findings() -> None:
    with pytest.raises(ConfigError, match="num is 0"):
        diagnose(config_from_dict(TWIN), PLAIN, tiny_loaded(causal_length=False), 0)
    empty = Estimate(math.nan, math.nan, math.nan, 0)
    assert _cause({"end_after_whole": empty, "covered": empty}) == "healthy"


@pytest.mark.slow
def test_limits_count_tokens_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of pieces needs fewer tokens than its strings have symbols."""
    monkeypatch.setattr(diagnosis, "probe_endings", lambda *_: None)
    loaded = tiny_loaded(**PIECES)
    texts = loaded.language.sample_many(500, np.random.default_rng([0, 71]))
    longest = max(len(row) for row in loaded.vocabulary.encode_many(texts))
    assert longest < max(map(len, texts))
    for limit, found in ((longest + 1, []), (longest, ["limit_too_low"])):
        made = diagnose(
            loaded.config, DecodeConfig(control=ControlConfig(max_tokens=limit)), loaded, 1
        )
        assert [cause for cause in causes(made) if cause.startswith("limit")] == found


def test_dry_is_checked_on_strings_with_repetition() -> None:
    config = config_from_dict({**TWIN, "max_depth": 3})
    for length, found in ((1, ["dry"]), (20, [])):
        made = diagnose(
            config,
            DecodeConfig(control=ControlConfig(dry_multiplier=1.0, dry_allowed_length=length)),
        )
        assert causes(made) == found


def test_shares_equal_those_of_the_language() -> None:
    """Shares of sampled strings equal those of all strings.

    The language of the twins is small enough to enumerate.
    """
    language = make_language(config_from_dict(TWIN).language)
    texts = language.sample_many(20_000, np.random.default_rng(5))
    true = sum("+" in text for text in texts) / len(texts)
    made = diagnose(config_from_dict(TWIN), DecodeConfig(control=ControlConfig(stop=("+",))))
    assert made.findings[0].weight == pytest.approx(true, abs=4 * (true * (1 - true) / 500) ** 0.5)


def test_temperature_findings() -> None:
    config = config_from_dict(TWIN)
    assert causes(diagnose(config, DecodeConfig(completion=CompletionConfig(temperature=0.0)))) == [
        "greedy"
    ]
    assert causes(diagnose(config, DecodeConfig(sampler=SamplerConfig(temperature=1.5)))) == ["hot"]


def test_end_probability_equals_the_conditional_probability() -> None:
    """Compare p(EOS

    tokens of the text) with log p(text).|In a model of characters a text has one history only.
    """
    loaded = tiny_loaded(causal_length=False)
    loaded.denoiser.model.double()
    text = "(+12)=3"
    model = CausalModel(loaded.denoiser, loaded.lengths)
    whole = condition(model, text.encode(), "exact", whole=True).summary.log_z
    begun = condition(model, text.encode(), "exact").summary.log_z
    assert end_probabilities(loaded, [text])[0] == pytest.approx(
        torch.tensor(whole - begun).exp().item(), abs=1e-6
    )


def test_a_length_conditioned_model_is_not_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="none can run on"):
        probe_endings(tiny_loaded())
    path = tiny_checkpoint(tmp_path)
    assert run_cli(main, ["diagnose", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == "likely cause: none found\n"
    assert "is not sampled" in err


@pytest.mark.slow
def test_command_prints_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "COUNTED", 1)
    path, train, decode = (
        tiny_checkpoint(tmp_path, **PIECES),
        tmp_path / "train.yaml",
        tmp_path / "decode.yaml",
    )
    train.write_text("train:\n  cut_rows: 0.5\n")
    decode.write_text("temperature: 0\ncontrol:\n  stop: ['=']\n")
    assert run_cli(main, ["diagnose", str(train), str(decode)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "likely cause: stop_in_answers, which leads to answers that are cut\n"
        "  evidence: the stop text '='"
    )
    assert "also: end_not_taught" in out
    assert "also: greedy" in out
    argv = ["diagnose", str(train), "--checkpoint", str(path), "--num", "2", "--json"]
    assert run_cli(main, argv) == 0
    item = json.loads(capsys.readouterr().out)
    assert (item["schema"], item["verb"]) == (1, "diagnose")
    assert set(item["model"]["figures"]) == {
        "end_after_whole",
        "ended",
        "answers",
        "covered",
        "loops",
    }
    assert item["findings"][0]["cause"] == item["model"]["cause"]


def test_command_refuses_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tiny_checkpoint(tmp_path, **PIECES))
    assert run_cli(main, ["diagnose", path, "--checkpoint", path]) == 2
    assert "leave out --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("faithful: true\ncut_rows: 0.5\n", "cuts no rows"),
        ("cut_row: 1\n", "nearest valid one is 'cut_rows'"),
        ("cut_rows: 2\n", "allowed is 0 to 1"),
        (None, "cannot read configuration"),
    ],
)
def test_a_bad_configuration_gives_one_line(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.yaml"
    if content is not None:
        path.write_text(content)
    assert run_cli(main, ["diagnose", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
