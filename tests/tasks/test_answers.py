"""Order of answers: valid ones first; foreign symbols are unreadable; far answers are marked."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from maskdiff import tasks
from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.cli import inference
from maskdiff.cli.arguments import run_cli
from maskdiff.config import CompletionConfig, ControlConfig
from maskdiff.errors import ConfigError
from maskdiff.tasks.results import Change, valid_first
from maskdiff.tasks.running import log_probs
from tests.helpers.edits import apply_edits
from tests.helpers.fuzz import both_seeds, cases
from tests.helpers.paths import CHECKPOINTS
from tests.helpers.tiny import tiny_checkpoint, tiny_loaded

GOOD = "(+(*75)10)=45"
FOREIGN = "\u201c\u201d\u00a0\t\u00e9\uff1d\U0001f469\u200d\ud800\0#\u044f"


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


@pytest.fixture(scope="module")
def bracket_model() -> Loaded:
    """A random model of a language whose valid strings have an even number of brackets."""
    loaded = tiny_loaded()
    parses = lambda text: (text.count("(") + text.count(")")) % 2 == 0  # noqa: E731
    loaded.language.parses = parses  # type: ignore[method-assign]
    return loaded


@pytest.fixture(scope="module")
def documents() -> Loaded:
    return load_denoiser(CHECKPOINTS / "json.pt")


@pytest.fixture(scope="module")
def trained() -> Loaded:
    return load_denoiser(CHECKPOINTS / "best.pt")


# -------------------------- valid first


@both_seeds
def test_valid_items_come_first_and_keep_their_order(seed: int) -> None:
    """Compare with the definition on random lists."""
    for rng in cases(300, seed, 1.0):
        items = [(i, rng.random() < 0.4) for i in range(rng.randint(0, 9))]
        look, top = rng.randint(1, 9), rng.randint(1, 9)
        asked: list[int] = []

        def valid(item: tuple[int, bool], asked: list[int] = asked) -> bool:
            asked.append(item[0])
            return item[1]

        ordered, looked = valid_first(items, valid, look, top)
        window = items[: max(look, top)]
        first = next((i for i, item in enumerate(window, 1) if item[1]), len(window))
        assert sorted(ordered) == items
        assert looked == (first if top == 1 else len(window))
        assert set(asked) == set(range(looked))  # no further candidate is checked
        if top > 1:
            good, bad = ([x for x in window if x[1] == wanted] for wanted in (True, False))
            assert ordered == [*good, *bad, *items[len(window) :]]
        elif any(item[1] for item in window):
            assert ordered[0] == window[first - 1]
        else:
            assert ordered == items


TEXTS = ["(+75)=?2", "(((", "5=4", "(*?5)=1", "1)+7("]


@pytest.mark.slow
def test_the_first_valid_explanation_is_the_answer(bracket_model: Loaded) -> None:
    """Compare with the whole list by score, for every number of candidates."""
    moved = 0
    for text in TEXTS:
        (all_of,) = tasks.repair(bracket_model, [text], beam=6, top=1000, candidates=1000)
        listed = all_of.alternatives
        assert [item.parses for item in listed] == sorted((x.parses for x in listed), reverse=True)
        by_score = sorted(listed, key=lambda x: -math.inf if x.score is None else x.score)[::-1]
        for look in (1, 2, 5, 1000):
            (result,) = tasks.repair(bracket_model, [text], beam=6, candidates=look)
            window = by_score[:look]
            place = next((i for i, item in enumerate(window) if item.parses), None)
            assert result.text == by_score[place or 0].text
            assert result.parses == (place is not None)
            assert result.candidates == (len(window) if place is None else place + 1)
            moved += place is not None and place > 0
        (five,) = tasks.repair(bracket_model, [text], beam=6, top=5)
        assert five.text == result.text
    assert moved > 1


@pytest.mark.slow
def test_a_blank_is_filled_with_the_likeliest_symbol_that_is_valid(loaded: Loaded) -> None:
    """Compare with trying every symbol; the most likely symbol is mostly invalid."""
    encode, invalid = loaded.language.vocabulary.encode, 0
    symbols = [loaded.language.vocabulary.symbols[i] for i in loaded.language.vocabulary.inner_ids]
    for at in range(len(GOOD)):
        template = GOOD[:at] + "?" + GOOD[at + 1 :]
        fillings = [template.replace("?", symbol) for symbol in symbols]
        scores = dict(zip(fillings, log_probs(loaded, [encode(text) for text in fillings])))
        (plain,) = tasks.edit(loaded, [template], candidates=1)
        (result,) = tasks.edit(loaded, [template])
        assert plain.text == max(fillings, key=lambda text: scores[text])
        assert result.text == max(filter(loaded.language.parses, fillings), key=lambda t: scores[t])
        assert result.parses
        assert result.score == pytest.approx(scores[result.text] / len(GOOD), abs=1e-4)
        assert (result.candidates or 0) > 1 or plain.parses
        invalid += not plain.parses
    assert invalid > 5


@pytest.mark.slow
def test_a_span_gets_a_valid_length(loaded: Loaded) -> None:
    """The most likely length with a valid filling is chosen."""
    valid = mixed = 0
    for span in ((2, 7), (6, 9), (10, 13)):
        each = [tasks.rewrite(loaded, [GOOD], replace=span, length=n)[0] for n in range(1, 6)]
        (best,) = tasks.rewrite(loaded, [GOOD], replace=span, length=(1, 5))
        good = [result for result in each if result.parses]
        assert bool(best.parses) == bool(good)
        assert not good or best.text in [result.text for result in good]
        assert best.candidates == sum(result.candidates or 0 for result in each if not result.error)
        valid += bool(good)
        mixed += 0 < len(good) < len(each)
    assert valid
    assert mixed


@pytest.mark.slow
def test_completions_are_drawn_again_until_they_are_valid(bracket_model: Loaded) -> None:
    """Valid draws are unchanged; redraws depend on their key only."""
    text, many = "(+", CompletionConfig(candidates=20)
    plain = tasks.complete(bracket_model, [text], num=8)
    again = tasks.complete(bracket_model, [text], num=8, settings=many)
    few = tasks.complete(bracket_model, [text], num=5, settings=many)
    assert [result.text for result in few] == [result.text for result in again[:5]]
    assert all(result.candidates is None for result in plain)
    assert sum(bool(r.parses) for r in again) > sum(bool(r.parses) for r in plain)
    for before, after in zip(plain, again, strict=True):
        assert not before.parses or (after.text, after.candidates) == (before.text, 1)
        assert after.parses or after.candidates == 20
        assert after.text.startswith(text)
    with pytest.raises(ConfigError, match="a stream shows what is drawn"):
        [
            *tasks.completing(
                bracket_model, [text], settings=many, on_characters=lambda number, text: None
            )
        ]
    cut = tasks.complete(
        bracket_model, [text], num=6, settings=many, control=ControlConfig(first_complete=True)
    )
    assert all(result.parses or result.candidates == 20 for result in cut)


@pytest.mark.parametrize("count", [0, 1001])
def test_impossible_numbers_of_candidates_are_refused(loaded: Loaded, count: int) -> None:
    for verb in (tasks.repair, tasks.edit):
        with pytest.raises(ConfigError, match=f"candidates is {count}; allowed is 1 to 1000"):
            verb(loaded, [GOOD], candidates=count)  # type: ignore[operator]


# -------------------------- with a checker


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return flags for a random model of a folder with a printing checker and no grammar."""
    import torch

    from maskdiff import checkpoint
    from maskdiff.config import LanguageConfig
    from maskdiff.languages import make_language
    from maskdiff.models.universal import UniversalDenoiser
    from tests.helpers.tiny import tiny_config

    path = tmp_path_factory.mktemp("checked")
    (path / "corpus.txt").write_text("\n".join("ab" * n for n in range(1, 9)) + "\n")
    (path / "mine.py").write_text(
        "import time\n"
        "def even(text):\n    print('noise', flush=True)\n    return text.count('a') % 2 == 0\n"
        "def hangs(text):\n    time.sleep(100 * ('aba' in text))\n    return True\n"
    )
    language = make_language(LanguageConfig(language=str(path)))
    config = replace(
        tiny_config(vocab_size=len(language.vocabulary)),
        language=LanguageConfig(language=str(path)),
    )
    torch.manual_seed(0)
    weights = UniversalDenoiser(config.model).state_dict()
    payload = checkpoint.make_payload(
        config, language.vocabulary, weights, language=language.state()
    )
    checkpoint.save(path / "x.pt", payload)
    return ["--checkpoint", str(path / "x.pt"), "--language", str(path), "--skip_invalid"]


def test_a_checker_chooses_and_its_output_is_suppressed(
    checked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for argv in (["repair", "aab"], ["edit", "a?b?"], ["complete", "a", "--candidates", "60"]):
        status = run_cli(inference.main, [*argv, "--json", "--validity", "mine:even?", *checked])
        out, err = capfd.readouterr()
        (row,) = map(json.loads, out.splitlines())
        assert status == 0
        assert row["parses"] is True
        assert row["text"].count("a") % 2 == 0
        assert row["candidates"] >= 1
        assert set(err.split()) == {"noise"}


@pytest.mark.slow
def test_a_checker_that_hangs_or_fails_ends_the_command_with_one_line(
    checked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--validity", "mine:hangs?", "--validity_timeout", "0.3", *checked]
    assert run_cli(inference.main, ["repair", "aaa", *flags]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "checker mine:hangs? fails on 'abab" in err
    assert "takes more than 0.3 s" in err
    for verb in ("repair", "edit"):
        argv = [verb, "a?", "--holds", "--validity", "mine:even?", *checked]
        assert run_cli(inference.main, argv) == 2
        err = capfd.readouterr().err
        assert "state nothing that could hold; leave out holds: what mine:even? calls valid" in err


# -------------------------- foreign symbols


DAMAGED = [
    "{\u201ca\u201d:1}",
    '{"t":"\u00e9","n":1',
    '{"a":\u00a01}',
    '{"a":\t1,}',
    '{"a"\uff1d1}',
]


@pytest.mark.slow
def test_foreign_symbols_are_unreadable(documents: Loaded) -> None:
    """They become blanks in their position; under the grammar every answer is valid."""
    known = set(documents.language.vocabulary.symbols)
    blank = ["".join(c if c in known else "\u00bf" for c in text) for text in DAMAGED]
    for grammar in (False, True):
        results = tasks.repair(documents, DAMAGED, grammar=grammar, beam=8)
        as_blanks = tasks.repair(documents, blank, beam=8) if not grammar else results
        for text, result, other in zip(DAMAGED, results, as_blanks, strict=True):
            assert result.error is None
            assert (result.text, result.input) == (other.text, text)
            assert result.foreign == {i: c for i, c in enumerate(text) if c not in known}
            assert apply_edits(text, result.edits or ()) == result.text
            assert result.parses or not grammar
            assert result.change is not None
            assert not result.change.far


def test_white_space_that_the_language_skips_is_not_foreign(loaded: Loaded) -> None:
    spaced = "(+\u00a0( *\t7 5)\u202810\u3000)=\n45"
    (result,) = tasks.repair(loaded, [spaced], grammar=True)
    assert (result.text, result.foreign, result.edits) == (GOOD, {}, ())
    (result,) = tasks.repair(loaded, [" (+ (*75)\u00e910) = 45"], grammar=True)
    assert result.foreign == {7: "\u00e9"}  # positions count symbols


def test_a_foreign_symbol_cannot_be_certain(loaded: Loaded) -> None:
    for settings in ({}, {"grammar": True}, {"method": "draft"}, {"method": "least_edits"}):
        texts = ["(+7\u00e9)=12", "(+75)=12"]
        found = tasks.repair(loaded, texts, certain=[(3, 4)], **settings)  # type: ignore[arg-type]
        bad, good = found
        assert bad.error is not None
        assert bad.error.startswith("symbol '\u00e9' at position 3 is called certain")
        assert good.error is None
    (other,) = tasks.repair(loaded, ["(+7\u00e9)=12"], certain=[(1, 3)], grammar=True)
    assert other.error is None
    assert "+7" in other.text


def test_foreign_symbols_are_refused_where_text_is_kept(loaded: Loaded) -> None:
    for symbol in FOREIGN.replace("\u00a0", "").replace("\t", ""):
        results = [
            *tasks.edit(loaded, [f"(+?{symbol})=1"]),
            *tasks.complete(loaded, [f"(+1{symbol}"]),
            *tasks.rewrite(loaded, [f"(+1{symbol})=1"], replace=(1, 2)),
            *tasks.fill(loaded, [f"(+?{symbol})=1"]),
        ]
        for result in results:
            assert "at position 3; the symbols are" in (result.error or "")
            assert "\n" not in (result.error or "")


@pytest.mark.slow
@both_seeds
@pytest.mark.parametrize("flags", [[], ["--grammar"], ["--method", "draft"]])
def test_any_text_gives_one_json_object_per_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, flags: list[str]
) -> None:
    """At most 10 requests of random characters, symbols of the language and blanks."""
    checkpoint = str(tiny_checkpoint(tmp_path))
    flags = [*flags, "--beam", "2", "--json", "--checkpoint", checkpoint]
    for rng in cases(10, seed, 0.2):
        texts = [_text(rng) for _ in range(rng.randint(1, 4))]
        status = run_cli(inference.main, ["repair", *texts, *flags])
        out, err = capsys.readouterr()
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["index"] for row in rows] == list(range(1, len(texts) + 1))
        assert err == ""
        assert status == (2 if any("error" in row for row in rows) else 0)
        for text, row in zip(texts, rows, strict=True):
            assert row["input"] == text
            assert ("error" in row) == (row["text"] is None)
            if "error" not in row:
                assert row["parses"] or "--grammar" not in flags
                given = "".join(text.split())
                for item in row.get("foreign", []):
                    assert given[item["position"]] == item["symbol"]


def _text(rng: random.Random) -> str:
    """A line of up to 14 characters."""
    pools = ["0123456789()+*=", FOREIGN, "?\u00bf\u25a1 ", None]
    found = []
    for _ in range(rng.randint(0, 14)):
        pool = rng.choice(pools)
        anything = chr(rng.choice([rng.randrange(0x110000), rng.randrange(256)]))
        found.append(rng.choice(pool) if pool else anything)
    text = "".join(found)
    return text if not text.startswith("-") else "=" + text


# -------------------------- far from the input


@pytest.mark.parametrize(
    ("change", "far"),
    [
        (Change(0, 0), False),
        (Change(2, 3), False),  # too few to decide
        (Change(3, 10), False),
        (Change(4, 12), True),
        (Change(4, 9, 4), False),  # {“a”:“b”}
        (Change(5, 9, 5), True),
        (Change(9, 9, 9), True),
        (Change(3, 8, 1), False),
        (Change(5, 10, 1), True),
    ],
)
def test_far_of_known_changes(change: Change, far: bool) -> None:
    assert change.far is far


@pytest.mark.slow
def test_an_answer_far_from_its_input_is_marked(
    trained: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    infix, russian = "7 * 5 + 10 = 45", "\u043f\u0440\u0438\u0432\u0435\u0442"
    unlike = [infix, "hello, world", russian, "))((==*+*+"]
    alike = ["(+(*75)10=45", "(+(*7?)10)=4", "(*(+12)(+34))=2l", GOOD, "????", "(+7\u00e9)=12"]
    for text, result in zip(unlike + alike, tasks.repair(trained, unlike + alike), strict=True):
        assert result.change is not None
        assert result.change.far == (text in unlike), text
        given = [c for c in text if not c.isspace() and c != "?"]
        assert result.change.given == len(given)
        gone = {e.position for e in result.edits or () if e.operation in ("delete", "replace")}
        assert result.change.changed == len(gone | result.foreign.keys())
    argv = ["repair", "7 * 5 + 10 = 45", "--checkpoint", str(CHECKPOINTS / "best.pt")]
    assert run_cli(inference.main, argv) == 0
    line = capsys.readouterr().out.rstrip("\n")
    assert line.split("\t")[1] == "holds"
    assert re.search(r"\tp=0\.\d\d; far from the language: 4 of 9 symbols changed$", line)
