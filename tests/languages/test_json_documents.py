"""JSON documents: properties of the generator, and the grammar against Python's own parser."""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache

import numpy as np
import pytest
import torch

from maskdiff.constraints.chart import NONE, RuleTensors, descend, inside_chart
from maskdiff.languages.cfg import NormalForm, compile_grammar, find_ambiguity
from maskdiff.languages.cfg.recognise import Recogniser
from maskdiff.languages.json_documents import GRAMMAR, draw_documents, is_json
from maskdiff.languages.json_documents.generator import DEPTH, FIELDS, SPACED
from maskdiff.languages.vocabulary import PRINTABLE_ASCII

LONGEST = 62
YES = (
    "0", "-0", "10", "-0.5", "1.50", "1e5", "1E+05", "0e0", "-1.5e-10", '""', '"a b"', "true",
    "false", "null", "{}", "[]", "{ }", "[  ]", "  [  ]  ", ' { "a" : 1 , "b" : [ ] } ',
    '{"a":1,"a":2}', '{"":""}', "[[[[[]]]]]", '{"a":{"b":{"c":[{}]}}}', r'"\"\\\/\b\f\n\r\t"',
    r'"\u00e9\u00E9\uD800"', r'{"\u0041\n":"}]"}', '"/\'"', "[1 ,2, 3 , [ 4]]", "1e999",
    "[true,false,null]", '" "', "0.0", "  null", '{"a":"{\\"b\\":1}"}',
)  # fmt: skip
NO = (
    "", " ", "01", "-", "-01", "+1", ".5", "1.", "1.e5", "1e", "1e+", "0x1", "1 2", "- 1", "1 .5",
    "1e 5", '"', '"a', 'a"', '"""', r'"\"', r'"\a"', r'"\u12"', r'"\u12G4"', r'"\U0041"', r'"\x41"',
    "tru", "True", "nul l", "truefalse", "{", "}", "[", "]", "[}", "{]", "[,]", "[1,]", "[,1]",
    "[1 2]", "[1,,2]", "[[]", "[]]", "{1}", '{"a"}', '{"a":}', '{"a":1,}', "'a'", '{,"a":1}',
    "{a:1}", '{"a" 1}', '{"a":1 "b":2}', '{"a":1:2}', "{1:2}", '["a":1]', "{[]:1}", '{"a":1}}',
    "NaN", "Infinity", "-Infinity", "[NaN]", '{"a":-Infinity}', "undefined", "// 1", "[1]//",
    "{}{}", "[]{}", "{{}}", '{"a":1;"b":2}',
)  # fmt: skip


@lru_cache(maxsize=1)
def grammar() -> NormalForm:
    return compile_grammar(GRAMMAR.read_text(encoding="utf-8"), PRINTABLE_ASCII)


@lru_cache(maxsize=1)
def recogniser() -> Recogniser:
    return Recogniser(grammar())


def accepted(text: str) -> bool:
    return recogniser()([ord(symbol) - ord(" ") for symbol in text])


@lru_cache(maxsize=1)
def documents() -> list[str]:
    return draw_documents(5000, np.random.default_rng(0), LONGEST)


def edited(text: str, rng: random.Random) -> str:
    """One or two random edits; half of the symbols that they bring in matter to JSON."""
    for _ in range(rng.choice((1, 2))):
        place = rng.randrange(len(text) + 1)
        symbol = (
            rng.choice(' "\\,:[]{}-+.0e19nu') if rng.random() < 0.5 else rng.choice(PRINTABLE_ASCII)
        )
        text = text[:place] + rng.choice((symbol, symbol, "")) + text[place + rng.choice((0, 1)) :]
    return text


def depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0


def outside_strings(text: str) -> str:
    return re.sub(r'"([^"\\]|\\.)*"', '""', text)


def test_drawn_documents_are_valid_nested_and_short() -> None:
    assert all(is_json(text) and len(text) <= LONGEST for text in documents())
    depths = [depth(json.loads(text)) for text in documents()]
    assert max(depths) == DEPTH
    assert np.mean(np.array(depths) >= 2) > 0.3
    assert all(
        max(map(len, draw_documents(200, np.random.default_rng(1), longest))) <= longest
        for longest in (8, 20, 40, 100)
    )


def test_keys_are_distinct_within_an_object() -> None:
    def checked(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    for text in documents():
        json.loads(text, object_pairs_hook=checked)
    for topic, fields in FIELDS.items():
        keys = [field.split(":")[0] for field in fields.split()]
        assert len(set(keys)) == len(keys), topic


def test_a_document_is_compact_or_spaced_throughout() -> None:
    marks = [outside_strings(text) for text in documents()]
    assert all(
        " " not in text or re.sub("[,:] ", "", text) == re.sub("[,:] ?", "", text) for text in marks
    )
    assert all(not re.search(r" (?=[\]} ])|^ |[^,:] ", text) for text in marks)
    share = np.mean([" " in text for text in marks if "," in text or ":" in text])
    assert abs(share - SPACED) < 0.025


def test_the_first_documents_do_not_depend_on_the_count() -> None:
    for count in (0, 1, 2, 3, 100, 1500):
        assert draw_documents(count, np.random.default_rng(0), LONGEST) == documents()[:count]
    assert draw_documents(50, np.random.default_rng(1), LONGEST) != documents()[:50]


def test_documents_vary_and_use_the_whole_alphabet() -> None:
    assert len(set(documents())) > 0.88 * len(documents())
    assert set("".join(draw_documents(20_000, np.random.default_rng(2), LONGEST))) == set(
        PRINTABLE_ASCII
    )
    parts = (
        r"\\n",
        r'\\"',
        r"\\\\",
        r"\\u00e9",
        r":-\d",
        r"\d\.\d",
        r"\de-?\d",
        "true",
        "false",
        "null",
        r"\{\}",
        r"\[\]",
    )
    for part in parts:
        assert any(re.search(part, text) for text in documents()), part
    sizes = np.array([len(text) for text in documents()])
    assert np.mean(sizes >= 10) > 0.85
    assert np.mean(sizes >= 40) > 0.2


def test_a_limit_that_leaves_no_document_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="longest 7 leaves room for almost no document; give at least 8"
    ):
        draw_documents(1, np.random.default_rng(0), 7)


@pytest.mark.parametrize("text", YES)
def test_json_is_accepted(text: str) -> None:
    assert is_json(text)
    assert accepted(text)


@pytest.mark.parametrize("text", NO)
def test_invalid_json_is_refused(text: str) -> None:
    assert not is_json(text)
    assert not accepted(text)


@pytest.mark.parametrize(
    "text", ["\t1", "1\n", '"é"', '"\x7f"', "[\r]", "\ufeff1", "[" * 100_000, "1" * 10_000]
)
def test_other_characters_and_huge_values_are_refused(text: str) -> None:
    assert not is_json(text)


def test_the_alphabet_is_printable_ascii() -> None:
    assert len(PRINTABLE_ASCII) == 95
    assert "".join(PRINTABLE_ASCII).isprintable()
    assert list(map(ord, PRINTABLE_ASCII)) == list(range(32, 127))


@pytest.mark.slow
def test_the_grammar_and_json_loads_agree_on_edited_documents() -> None:
    rng = random.Random(0)
    texts = [edited(text, rng) for text in draw_documents(2500, np.random.default_rng(3), 45)]
    verdicts = np.array([is_json(text) for text in texts])
    wrong = [
        text for text, verdict in zip(texts, verdicts, strict=True) if accepted(text) != verdict
    ]
    assert not wrong, wrong[:5]
    assert 0.2 < verdicts.mean() < 0.8
    assert all(map(accepted, documents()[:200]))


@pytest.mark.slow
def test_the_grammar_and_json_loads_agree_on_every_short_string_of_json_symbols() -> None:
    """All strings of up to 4 of the symbols that JSON distinguishes (escapes behind `"\\`)."""
    texts = [""]
    for _ in range(4):
        texts += [
            text + symbol for text in texts for symbol in ' "\\,:[]{}-+.019eEu' if len(text) < 4
        ]
    texts = sorted(set(texts))
    sample = random.Random(0).sample(texts, 5000) + [text for text in texts if is_json(text)]
    assert all(accepted(text) == is_json(text) for text in sample)
    assert all(
        accepted(text) == is_json(text) for text in (f'"\\{symbol}"' for symbol in PRINTABLE_ASCII)
    )
    assert all(
        accepted(text) == is_json(text)
        for text in (f'"\\u00{a}{b}"' for a in PRINTABLE_ASCII for b in "0fFg")
    )


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 5, 12, 25, 45])
def test_strings_drawn_from_the_grammar_are_valid(length: int) -> None:
    """Uniform draws of one length, and draws with likely brackets, commas and colons."""
    rules, generator = RuleTensors(grammar()), torch.Generator().manual_seed(length)
    flat = torch.zeros(32, length, len(PRINTABLE_ASCII), dtype=torch.float64)
    tilted = flat.clone()
    tilted[:, :, [PRINTABLE_ASCII.index(symbol) for symbol in "{}[],:"]] = 4.0
    for emission in (flat, tilted):
        chart = inside_chart(rules, emission.log_softmax(-1), torch.full((32,), length))
        uniform = torch.rand(32, length, length + 1, generator=generator, dtype=torch.float64)
        drawn = descend(chart, uniform.clamp(min=1e-12))
        assert (drawn != NONE).all()
        for row in drawn.tolist():
            assert is_json("".join(PRINTABLE_ASCII[symbol] for symbol in row))


@pytest.mark.slow
def test_no_document_has_two_derivations() -> None:
    """By enumeration of short strings, and as the weight of charts of certain documents."""
    assert find_ambiguity(grammar()).witness is None
    rng = random.Random(1)
    texts = [
        text
        for text in (
            edited(text, rng) for text in draw_documents(200, np.random.default_rng(4), 40)
        )
        if text
    ][:48]
    texts += [re.sub("([]{}:,[])", r"  \1 ", text)[:50] for text in texts[:16]]
    emission = torch.full((len(texts), 50, len(PRINTABLE_ASCII)), -torch.inf, dtype=torch.float64)
    for row, text in enumerate(texts):
        emission[row, range(len(text)), [PRINTABLE_ASCII.index(symbol) for symbol in text]] = 0.0
    derivations = inside_chart(
        RuleTensors(grammar()), emission, torch.tensor(list(map(len, texts)))
    ).log_total.exp()
    assert derivations.round(decimals=9).tolist() == [float(is_json(text)) for text in texts]


def test_the_grammar_stays_cheap_for_a_chart() -> None:
    """Only pairs of two long parts cost n^3."""
    rules = RuleTensors(grammar())
    assert len(grammar().parent) <= 63
    assert rules.slices[3].stop - rules.slices[3].start == 3
