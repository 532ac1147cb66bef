"""Configuration: YAML and flags are checked, errors name the key, dumping is reversible."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskdiff.cli.arguments import Parser
from maskdiff.config import Config, ModelConfig, SamplerConfig
from maskdiff.config_io import (
    DERIVED,
    SECTIONS,
    add_config_flags,
    config_from_dict,
    convert,
    dump_yaml,
    load_config,
    options,
    overrides,
    sampler_config,
    to_dict,
)
from maskdiff.errors import ConfigError, nearest, one_line


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_gives_the_defaults() -> None:
    assert load_config() == Config()


def test_option_names_are_unique_across_sections() -> None:
    names = [
        field.name for section in [*SECTIONS.values(), SamplerConfig] for field in fields(section)
    ]
    assert len(names) == len(set(names))


def test_every_default_is_inside_its_own_range_and_documented() -> None:
    for section in [*SECTIONS.values(), SamplerConfig]:
        for field, kind in options(section).values():
            assert convert(field, kind, field.default) == field.default
            assert len(field.metadata["help"]) > 5


def test_flat_and_sectioned_yaml_are_equal(tmp_path: Path) -> None:
    flat = load_config(write(tmp_path, "n_layer: 3\nlr: 3e-4\nmask_share: 0.5\n"))
    sectioned = load_config(write(tmp_path, "model: {n_layer: 3}\ntrain:\n  lr: 3e-4\nnoise:\n"))
    assert flat == sectioned
    assert flat.train.lr == 3e-4  # YAML 1.1 reads 3e-4 as a string


def test_language_is_a_section_or_an_option(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "language: arithmetic\n")) == load_config(
        write(tmp_path, "language: {language: arithmetic}\n")
    )


def test_extends_is_overridden_by_the_file_and_by_flags(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "n_layer: 3\nk_iter: 4\nn_head: 8\n", "base.yaml")
    write(tmp_path, "k_iter: 2\nlr: 1\n", "other.yaml")
    child = write(
        tmp_path / "sub", "extends: [../base.yaml, ../other.yaml]\nn_head: 2\n", "child.yaml"
    )
    config = load_config(child, {"lr": 0.5})
    assert (config.model.n_layer, config.model.k_iter, config.model.n_head, config.train.lr) == (
        3,
        2,
        2,
        0.5,
    )


def test_circular_extends_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("n_layers: 2", "unknown key 'n_layers'; the nearest valid one is 'n_layer'"),
        ("train: {learning_rat: 2}", "unknown key 'learning_rat'"),
        ("trian: {lr: 2}", "nearest valid one is 'train'"),
        ("train: {n_layer: 2}", "belongs in section 'model'"),
        ("model: 3", "must map keys to values"),
        ("lr: fast", "lr is 'fast'; it must be a number"),
        ("lr: .nan", "it must be a number"),
        ("lr: -1", "allowed is 0 to 100"),
        ("n_layer: 2.5", "must be a whole number"),
        ("n_layer: true", "must be a whole number"),
        ("n_layer: [2]", "must be a whole number"),
        ("sigma_max: 1.5", "allowed is 0 to 1"),
        ("compile: 3", "must be true or false"),
        ("name: no", "in quotes"),
        ("decay: cosin", "the nearest is 'cosine'"),
        ("n_layer: 2\nn_layer: 3", "line 2: key 'n_layer' stands twice"),
        (
            "model: {n_layer: 2}\nn_layer: 3",
            "key 'n_layer' stands twice, in section 'model' and outside",
        ),
        (
            "n_layer: 3\nmodel: {n_layer: 2}",
            "key 'n_layer' stands twice, in section 'model' and outside",
        ),
        ("lr: [", "line 1"),
        ("- lr", "it must hold `key: value` lines"),
        (
            "lr: !!python/object/apply:os.getcwd []",
            "line 1: tag 'tag:yaml.org,2002:python/object/apply:",
        ),
        ("extends: {a: b}", "must be a file name"),
        ("extends: no", "in quotes"),
        ("extends: none.yaml", "No such file"),
        ("sigma_min: 0.95", "sigma_min 0.95 is over sigma_max 0.9"),
        ("n_embd: 100", "must be a multiple of 8, such as 96"),
        ("mask_share: 0.6", "add up to 1.1, not 1"),
        ("causal_share: 0.9", "lower them to 1 or less"),
    ],
)
def test_bad_yaml_gives_one_helpful_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"lr: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "x.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * 100_001)
    with pytest.raises(ConfigError, match="over 100000 bytes"):
        load_config(tmp_path / "big.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    lr=st.floats(1e-8, 10),
    seed=st.integers(0, 2**62),
    name=st.text(max_size=12),
    compile=st.booleans(),
    k_iter=st.integers(1, 64),
)
@example(lr=1.0, seed=0, name="\x85", compile=False, k_iter=1)  # a line break to YAML
def test_dumping_and_loading_is_the_identity(
    lr: float, seed: int, name: str, compile: bool, k_iter: int
) -> None:
    import tempfile

    config = Config()
    config = replace(
        config,
        train=replace(config.train, lr=lr, seed=seed, name=name, compile=compile),
        model=replace(config.model, k_iter=k_iter),
    )
    assert config_from_dict(to_dict(config)) == config
    with tempfile.TemporaryDirectory() as folder:
        assert load_config(write(Path(folder), dump_yaml(config))) == config


def parse(arguments: str, *sections: type) -> argparse.Namespace:
    parser = Parser()
    add_config_flags(parser, *sections)
    return parser.parse_args(arguments.split())


def test_flags_set_only_the_given_options() -> None:
    args = parse("--lr 1e-3 --n_layer 3 --amp --no_low_discrepancy --decay cosine")
    given = {"lr": 1e-3, "n_layer": 3, "amp": True, "low_discrepancy": False, "decay": "cosine"}
    assert overrides(args) == given
    config = load_config(None, given)
    assert (config.train.lr, config.model.n_layer, config.noise.low_discrepancy) == (1e-3, 3, False)


def test_every_option_is_a_flag_with_help_and_range() -> None:
    parser = Parser()
    add_config_flags(parser)
    text = " ".join(parser.format_help().split())
    for section in SECTIONS.values():
        for name, (_, kind) in options(section).items():
            assert (f"--{name}" in text) == (name not in DERIVED)
            assert (f"--no_{name}" in text) == (kind is bool)
    assert "1 to 64" in text


def test_longer_strings_need_no_second_option(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "max_len: 80\n")).language.max_len == 80
    with pytest.raises(ConfigError, match="unknown flag '--block_size'"):
        parse("--block_size 80")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--n_layers 3", "the nearest valid one is --n_layer"),
        ("--n_lay 3", "unknown flag"),  # no abbreviations
        ("--lr fast", "lr is 'fast'; it must be a number"),
        ("--lr", "expected one argument"),
        ("--sigma_max 2", "allowed is 0 to 1"),
        ("--decay lin", "the nearest is 'linear'"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_bad_flags_give_one_helpful_line(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sampler_flags_set_sampler_options() -> None:
    args = parse("--sampler hybrid --temperature 0.5", SamplerConfig)
    assert sampler_config(args) == SamplerConfig(sampler="hybrid", temperature=0.5)
    assert sampler_config(args, SamplerConfig(steps=5)).steps == 5


def test_flags_of_other_sections_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown flag"):
        parse("--lr 1", ModelConfig)


def test_messages_are_one_line_of_bounded_length() -> None:
    assert one_line("a\nb\t  c") == "a\\nb\\t  c"
    assert len(one_line("x" * 10_000_000)) <= 400
    assert len(one_line("x " * 10_000)) <= 400


@given(st.text(max_size=20))
def test_nearest_gives_a_suggestion_for_any_word(given: str) -> None:
    assert nearest(given, ["n_layer", "lr"]) in ("n_layer", "lr")
