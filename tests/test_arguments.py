"""Arguments in Python: clear values are converted, others are refused in one helpful line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskdiff import metrics, tasks
from maskdiff.checkpoint import Loaded, from_pretrained, load, load_denoiser, save, save_pretrained
from maskdiff.config import CompletionConfig, ControlConfig, LanguageConfig, SamplerConfig
from maskdiff.errors import DataError, UserError
from maskdiff.languages import make_language
from maskdiff.sampling import Canvas, Unmask, make_sampler
from maskdiff.utils.arguments import checked_arguments, texts
from tests.helpers.tiny import tiny_checkpoint, tiny_loaded

GOOD = "(+(*75)10)=45"
HOLED = "(+(*??)10)=45"
Verb = Callable[..., list[tasks.Result]]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


VERBS: dict[str, tuple[Verb, str]] = {
    "repair": (lambda loaded, given: tasks.repair(loaded, given, beam=2), GOOD),
    "edit": (lambda loaded, given: tasks.edit(loaded, given, beam=2), HOLED),
    "complete": (lambda loaded, given: tasks.complete(loaded, given), "(+"),
    "completing": (lambda loaded, given: list(tasks.completing(loaded, given)), "(+"),
    "solve": (lambda loaded, given: tasks.fill(loaded, given, bound=200), "(+(*7?)10)=45"),
    "rewrite": (
        lambda loaded, given: tasks.rewrite(loaded, given, replace=(2, 7), length=3, beam=2),
        GOOD,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_any_iterable_of_texts_equals_a_list(loaded: Loaded, name: str) -> None:
    verb, text = VERBS[name]
    expected = verb(loaded, [text])
    assert len(expected) == 1
    for given in (
        text,
        np.str_(text),
        (text,),
        iter([text]),
        (t for t in [text]),
        np.array([text]),
    ):
        assert [r.text for r in verb(loaded, given)] == [r.text for r in expected]
    two = verb(loaded, [text, DataError("a bad line")])
    assert (two[0].text, two[1].error) == (expected[0].text, "a bad line")


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize(
    "given, message",
    [
        (None, "a list of texts"),
        (b"(+", "a list of texts"),
        (3, "a list of texts"),
        ({"(+": 1}, "a list of texts"),
        ({"(+"}, "a list of texts"),
        (Path("x"), "read the file first"),
        ([b"(+"], "decode bytes first"),
        ([None], r"texts\[0\] is 'None'"),
        (["(+", 3], r"texts\[1\] is '3'"),
        ([["(+"]], "a text"),
    ],
)
def test_non_texts_are_refused(loaded: Loaded, name: str, given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        VERBS[name][0](loaded, given)


def test_samplers_are_made_by_name(loaded: Loaded) -> None:
    expected = [
        r.text for r in tasks.generate(loaded, 3, length=9, sampler=SamplerConfig("maskgit"))
    ]
    for given in ("maskgit", {"sampler": "maskgit"}, make_sampler(SamplerConfig("maskgit"))):
        results = tasks.generate(loaded, 3, length=9, sampler=given)  # type: ignore[arg-type]
        assert [r.text for r in results] == expected
    one = tasks.edit(loaded, HOLED, sampler=SamplerConfig("entropy"))  # type: ignore[arg-type]
    several = tasks.edit(loaded, [HOLED], sampler="entropy")  # type: ignore[arg-type]
    assert [r.text for r in several] == [r.text for r in one]
    for given, message in (
        ("maskgi", "maskgit"),
        (Unmask, "a SamplerConfig"),
        (3, "a SamplerConfig"),
        ({"stesp": 3}, "steps"),
    ):
        with pytest.raises(UserError, match=message):
            tasks.generate(loaded, 1, sampler=given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a sampler, such as"):
        Unmask().then("maskgit")  # type: ignore[arg-type]


def test_numpy_and_torch_numbers_are_accepted(loaded: Loaded) -> None:
    expected = [r.text for r in tasks.generate(loaded, 3, length=9, seed=5)]
    for kind in (np.int64, np.uint8, torch.tensor, np.array):
        three, nine, five = kind(3), kind(9), kind(5)
        assert [r.text for r in tasks.generate(loaded, three, length=nine, seed=five)] == expected
        ranged = tasks.generate(loaded, 3, length=(nine, nine), seed=five)
        assert [r.text for r in ranged] == expected
    one = tasks.edit(loaded, [HOLED], masks=(3, 5), beam=np.int64(2))  # type: ignore[arg-type]
    assert [r.text for r in one] == [
        r.text for r in tasks.edit(loaded, [HOLED], masks=[[3, 5]], beam=2)
    ]  # type: ignore[list-item]


@pytest.mark.parametrize(
    "given",
    [
        {"num": True},
        {"num": 3.0},
        {"num": "3"},
        {"num": None},
        {"num": -1},
        {"num": 10**30},
        {"num": 10**5000},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.5},
        {"seed": None},
        {"length": "5"},
        {"length": (1, 2, 3)},
        {"length": 5.0},
        {"length": True},
        {"length": 10**30},
        {"batch_size": 0},
        {"batch_size": 10**9},
        {"trace": "no"},
        {"control": "stop"},
        {"control": SamplerConfig()},
        {"loaded": "best.pt"},
        {"loaded": None},
        {"control": {"stp": "x"}},
    ],
)
def test_values_of_other_types_are_refused_in_one_line(
    loaded: Loaded, given: dict[str, Any]
) -> None:
    arguments = {"loaded": loaded, "num": 1, **given}
    with pytest.raises(UserError) as caught:
        tasks.generate(**arguments)
    assert next(iter(given)) in str(caught.value) or "stop" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_are_accepted_as_mappings(loaded: Loaded) -> None:
    settings, control = {"temperature": 0}, {"stop": "+"}
    made = tasks.complete(loaded, "(", settings=settings, control=control)  # type: ignore[arg-type]
    same = tasks.complete(
        loaded,
        ["("],
        settings=CompletionConfig(temperature=0.0),
        control=ControlConfig(stop=("+",)),
    )
    assert [r.text for r in made] == [r.text for r in same]


def test_a_text_in_place_of_a_list_in_settings_is_refused() -> None:
    assert ControlConfig(stop="ab").stop == ("ab",)  # type: ignore[arg-type]
    assert ControlConfig(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]
    assert LanguageConfig(language=Path("x")).language == "x"  # type: ignore[arg-type]
    for bad in (3, None, b"x", [3]):
        with pytest.raises(UserError, match="a text or a list of texts"):
            ControlConfig(stop=bad)  # type: ignore[arg-type]


def test_languages_are_made_by_name(tmp_path: Path) -> None:
    assert make_language("json").name == make_language(LanguageConfig(language="json")).name
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "corpus.txt").write_text("abc\n")
    assert make_language(tmp_path / "mine").sample(np.random.default_rng(0)) == "abc"
    for bad in (3, b"json", ["json"], {"language": "json"}):
        with pytest.raises(UserError, match="a LanguageConfig, or the name"):
            make_language(bad)  # type: ignore[arg-type]


def test_scores_of_one_text_are_not_those_of_its_characters(loaded: Loaded) -> None:
    language = loaded.language
    assert metrics.parses(GOOD, language) == [True]
    assert metrics.hold(GOOD, language) == [True]
    assert metrics.distinct("aab").count == 1
    assert metrics.novel(GOOD, {GOOD}).value == 0.0
    assert language.vocabulary.encode_many(GOOD) == [language.vocabulary.encode(GOOD)]
    assert len(Canvas.template(HOLED, language.vocabulary)) == 1
    for bad in (None, b"x", [None]):
        with pytest.raises(UserError, match="texts"):
            metrics.distinct(bad)


@pytest.mark.slow
def test_loaded_models_can_be_saved(tmp_path: Path) -> None:
    """A result of `load_denoiser` is saved as a checkpoint of equal weights."""
    pytest.importorskip("safetensors")
    path = tiny_checkpoint(tmp_path)
    loaded = load_denoiser(path)
    save_pretrained(str(tmp_path / "folder"), loaded)
    save(str(tmp_path / "again.pt"), loaded)
    expected = [r.text for r in tasks.generate(loaded, 3)]
    for other in (from_pretrained(tmp_path / "folder"), load_denoiser(str(tmp_path / "again.pt"))):
        assert [r.text for r in tasks.generate(other, 3)] == expected
        assert (other.config, other.metrics, other.provenance) == (
            loaded.config,
            loaded.metrics,
            loaded.provenance,
        )
    weights, before = load(tmp_path / "again.pt")["weights"], load(path)["weights"]
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in before)


@pytest.mark.slow
def test_loaded_models_with_pieces_can_be_saved(tmp_path: Path) -> None:
    loaded = load_denoiser(
        tiny_checkpoint(tmp_path, vocabulary="bpe", vocab_size=60, causal_length=False)
    )
    save(tmp_path / "again.pt", loaded)
    again = load_denoiser(tmp_path / "again.pt")
    assert np.array_equal(again.lengths, loaded.lengths)
    assert [r.text for r in tasks.generate(again, 3)] == [r.text for r in tasks.generate(loaded, 3)]


@pytest.mark.parametrize("given", [None, 3, b"x", ["best.pt"]])
def test_non_paths_are_refused(tmp_path: Path, given: Any) -> None:
    for function in (load_denoiser, load, from_pretrained):
        with pytest.raises(UserError, match="a path"):
            function(given)
    with pytest.raises(UserError, match="what load_denoiser, load or make_payload returns"):
        save_pretrained(tmp_path, given)
    path = tiny_checkpoint(tmp_path)
    with pytest.raises(UserError, match="use load_denoiser"):
        from_pretrained(path)
    with pytest.raises(UserError, match="from_pretrained"):
        load_denoiser(tmp_path)


def test_every_task_converts_its_arguments_by_name() -> None:
    """Every argument of `maskdiff.tasks` is checked."""
    import inspect
    import operator

    from maskdiff.tasks.arguments import READERS

    unread = {"on_characters", "language", "possible", "self", "text"}
    for name in (
        "generate",
        "generating",
        "repair",
        "edit",
        "complete",
        "completing",
        "Completer.__init__",
        "Completer.complete",
        "fill",
        "rewrite",
        "sample_lengths",
    ):
        verb = operator.attrgetter(name)(tasks)
        assert hasattr(verb, "__wrapped__"), name
        assert set(inspect.signature(verb).parameters) - set(READERS) <= unread, name


def test_a_decorated_function_is_called_with_converted_arguments() -> None:
    @checked_arguments(many=texts)
    def count(many: Any, other: int = 3) -> tuple[int, int]:
        return len(many), other

    assert count("abc") == (1, 3)
    assert count(many=(t for t in "abc"), other=4) == (3, 4)
    with pytest.raises(TypeError):
        count()  # type: ignore[call-arg]
