"""Extraction compared with all substrings, CommonMark's examples, and markdown-it."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.languages import make_language
from maskdiff.text.answers import (
    MAX_DEPTH,
    Fence,
    HasParser,
    Span,
    Unspaced,
    all_complete,
    fences,
    first_complete,
    first_fence,
)
from tests.helpers.fuzz import both_seeds, cases

ARITHMETIC = make_language()
REAL = tuple(
    text for text in ARITHMETIC.sample_many(400, np.random.default_rng(0)) if len(text) <= 20
)
NOISE = st.text(alphabet="(+*)=0123456789x? \n", max_size=12)
LETTERS = st.text(alphabet="xyz.,!", min_size=1, max_size=8)
NAIVE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)  # common variants


class Words:
    """A language of a few words that counts the calls of its parser."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.asked = 0

    def parses(self, text: str) -> bool:
        self.asked += 1
        return text in self.words


def by_all_substrings(text: str, language: HasParser, begin: int = 0) -> Span | None:
    """Return the longest of the parsable substrings with the earliest start."""
    ends = [
        (start, end) for start in range(begin, len(text)) for end in range(start + 1, len(text) + 1)
    ]
    found = [
        (s, e) for s, e in ends if text[s:e] == text[s:e].strip() and language.parses(text[s:e])
    ]
    if not found:
        return None
    start, end = min(found, key=lambda ends: (ends[0], -ends[1]))
    return Span(text[start:end], start, end)


# -------------------------- strings of a language


@pytest.mark.slow
@given(NOISE, st.sampled_from(REAL), NOISE)
@settings(max_examples=150, deadline=None)
def test_first_string_equals_a_search_of_all_substrings(before: str, real: str, after: str) -> None:
    text = before + real + after
    span = first_complete(text, ARITHMETIC)
    assert span == by_all_substrings(text, ARITHMETIC)
    assert (
        span is not None
    )  # something is always there: the real string, or one that begins before it
    assert span.start <= len(before)


@pytest.mark.slow
@given(
    st.text(alphabet="ab ", max_size=14), st.lists(st.text(alphabet="ab ", max_size=4), max_size=4)
)
@settings(max_examples=300, deadline=None)
def test_every_string_is_the_first_of_the_remaining_text(text: str, words: list[str]) -> None:
    language = Words(*words)
    expected, begin = list[Span](), 0
    while (span := by_all_substrings(text, language, begin)) is not None:
        expected.append(span)
        begin = span.end
    assert all_complete(text, language) == expected
    assert first_complete(text, language) == (expected[0] if expected else None)
    assert all(text[span.start : span.end] == span.text != "" for span in expected)


@pytest.mark.slow
@given(st.lists(st.tuples(LETTERS, st.sampled_from(REAL)), max_size=4), LETTERS)
@settings(max_examples=100, deadline=None)
def test_strings_between_foreign_symbols_are_all_found(
    parts: list[tuple[str, str]], last: str
) -> None:
    text = "".join(letters + real for letters, real in parts) + last
    spans = all_complete(text, ARITHMETIC)
    assert [span.text for span in spans] == [real for _, real in parts]
    assert all(text[span.start : span.end] == span.text for span in spans)


@given(st.lists(st.sampled_from(REAL), max_size=4), st.sampled_from([" ", "\n", " \t", "\u00a0"]))
@settings(max_examples=100, deadline=None)
def test_white_space_ends_an_unspaced_string(reals: list[str], space: str) -> None:
    text = space + space.join(reals) + space
    assert [span.text for span in all_complete(text, Unspaced(ARITHMETIC))] == reals


def test_a_parser_that_skips_white_space_reads_across_it() -> None:
    assert ARITHMETIC.parses("1=1\n2")  # as 1=12
    assert first_complete(" 1=1\n2=2", ARITHMETIC) == Span("1=1\n2", 1, 6)
    assert first_complete(" 1=1\n2=2", Unspaced(ARITHMETIC)) == Span("1=1", 1, 4)
    assert first_complete("so: (+ 1 2) = 3 ", ARITHMETIC) == Span(
        "(+ 1 2) = 3", 4, 15
    )  # but not at the ends
    assert first_complete("so: (+ 1 2) = 3 ", Unspaced(ARITHMETIC)) is None


def test_the_longest_string_from_the_first_start_is_found() -> None:
    assert first_complete("the answer is (+(*75)10)=45.", ARITHMETIC) == Span(
        "(+(*75)10)=45", 14, 27
    )
    assert first_complete("abcab", Words("ab", "abc", "bcab")) == Span(
        "abc", 0, 3
    )  # though a longer one begins later
    assert all_complete("aaaaa", Words("a", "aa")) == [
        Span("aa", 0, 2),
        Span("aa", 2, 4),
        Span("a", 4, 5),
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n", "=", "(+1", "no answer", "(+12)="])
def test_nothing_is_found_where_nothing_parses(text: str) -> None:
    assert first_complete(text, ARITHMETIC) is None
    assert all_complete(text, ARITHMETIC) == []


def test_the_empty_string_never_counts() -> None:
    assert first_complete("xx", Words("")) is None
    assert first_complete("", Words("")) is None
    assert all_complete("xax", Words("", "a")) == [Span("a", 1, 2)]


def test_the_parser_is_called_at_most_once_per_part() -> None:
    nothing, one, many = Words(), Words("a"), Words("ab", "b")
    assert first_complete("abcde" * 8, nothing) is None
    assert nothing.asked == 40 * 41 // 2
    assert first_complete("a" * 40, one) is not None
    assert one.asked == 40
    assert len(all_complete("abcde" * 8, many)) == 8
    assert many.asked <= 40 * 41 // 2


# -------------------------- code blocks


def naive(text: str) -> str | None:
    found = NAIVE.search(text)
    return None if found is None else found.group(2)


def content(text: str) -> str | None:
    """Return the text of the first fence after checking its span."""
    fence = first_fence(text)
    if fence is None:
        return None
    raw = text[fence.start : fence.end]
    assert fence.text == raw or len(fence.text) < len(raw) or "\t" in raw
    return fence.text


def test_the_span_covers_the_content() -> None:
    text = "Here it is:\n```python\nx = 1\n```\nDone."
    assert first_fence(text) == Fence("x = 1\n", 22, 28, "python")
    assert text[22:28] == "x = 1\n"
    indented = "  ~~~\n  a\n b\n   c\n  ~~~\n"
    assert first_fence(indented) == Fence(
        "a\nb\n c\n", 6, 18, ""
    )  # the span is that of the lines as they stand
    assert indented[6:18] == "  a\n b\n   c\n"


@pytest.mark.parametrize(
    ("line", "info"),
    [
        ("```", ""), ("``` ", ""), ("```c++", "c++"), ("```  {.python #id} \t", "{.python #id}"),
        ("````;", ";"), ("~~~ a ```b~~~", "a ```b~~~"), ('```py title="a.py"', 'py title="a.py"'),
        ("   ```x", "x"), ("```\tx", "x"),
        ("```\u2028x", "\u2028x"),
    ],
)  # fmt: skip
def test_any_info_string_is_accepted(line: str, info: str) -> None:
    close = line.strip()[0] * 4
    assert first_fence(f"{line}\na\n{close}") == Fence("a\n", len(line) + 1, len(line) + 3, info)


# The numbers are those of the examples in CommonMark 0.31.2, section 4.5; None if the block is not
# closed, or is no fence.
EXAMPLES = [
    (119, "```\n<\n >\n```\n", "<\n >\n"),
    (120, "~~~\n<\n >\n~~~\n", "<\n >\n"),
    (121, "``\nfoo\n``\n", None),
    (122, "```\naaa\n~~~\n```\n", "aaa\n~~~\n"),
    (123, "~~~\naaa\n```\n~~~\n", "aaa\n```\n"),
    (124, "````\naaa\n```\n``````\n", "aaa\n```\n"),
    (125, "~~~~\naaa\n~~~\n~~~~\n", "aaa\n~~~\n"),
    (126, "```\n", None),
    (127, "`````\n\n```\naaa\n", None),
    (129, "```\n\n  \n```\n", "\n  \n"),
    (130, "```\n```\n", ""),
    (131, " ```\n aaa\naaa\n```\n", "aaa\naaa\n"),
    (132, "  ```\naaa\n  aaa\naaa\n  ```\n", "aaa\naaa\naaa\n"),
    (133, "   ```\n   aaa\n    aaa\n  aaa\n   ```\n", "aaa\n aaa\naaa\n"),
    (134, "    ```\n    aaa\n    ```\n", None),
    (135, "```\naaa\n  ```\n", "aaa\n"),
    (136, "   ```\naaa\n  ```\n", "aaa\n"),
    (137, "```\naaa\n    ```\n", None),
    (138, "``` ```\naaa\n", None),
    (139, "~~~~~~\naaa\n~~~ ~~\n", None),
    (140, "foo\n```\nbar\n```\nbaz\n", "bar\n"),
    (141, "foo\n---\n~~~\nbar\n~~~\n# baz\n", "bar\n"),
    (142, "```ruby\ndef foo(x)\n  return 3\nend\n```\n", "def foo(x)\n  return 3\nend\n"),
    (
        143,
        "~~~~    ruby startline=3 $%@#$\ndef foo(x)\n  return 3\nend\n~~~~~~~\n",
        "def foo(x)\n  return 3\nend\n",
    ),
    (144, "````;\n````\n", ""),
    (145, "``` aa ```\nfoo\n", None),
    (146, "~~~ aa ``` ~~~\nfoo\n~~~\n", "foo\n"),
    (147, "```\n``` aaa\n```\n", "``` aaa\n"),
]


@pytest.mark.parametrize(("number", "text", "expected"), EXAMPLES)
def test_commonmark_examples(number: int, text: str, expected: str | None) -> None:
    assert content(text) == expected, number
    assert content("\n\nBefore.\n\n" + text) == expected
    if expected is not None:
        assert content(text + "\n```\nlater\n```\n") == expected
    for ending in ("\r\n", "\r"):
        assert content(text.replace("\n", ending)) == (
            None if expected is None else expected.replace("\n", ending)
        )
    assert (
        content(text.removesuffix("\n")) == expected
    )  # a document need not end with a line ending


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```\na\n```\t \n", "a\n"),  # spaces and tabs may follow the closing fence
        ("```\na\n\t```\n", None),  # a tab is four columns
        ("```\na\n \t```\n", None),
        ("\t```\na\n```\n", None),
        ("```\na\n```\u00a0\n```\n", "a\n```\u00a0\n"),  # other white space may not
        ("```\na\x0b```\n```\n", "a\x0b```\n"),  # and ends no line
        (" ```\n\ta\n ```\n", "   a\n"),  # a tab that is cut leaves its other columns
        ("   ```\n \ta\n \n```\n", " a\n\n"),
        ("```\na\r\nb\rc\n```", "a\r\nb\rc\n"),
        ("```\nopen\n~~~\na\n~~~\n", None),  # what an unclosed fence swallows is not there
        ("````md\n```py\na\n```\n````\n", "```py\na\n```\n"),
        (
            "``` a`b\nx\n```\n",
            None,
        ),  # a backtick after the fence: inline code, so that the next line opens
        ("``` a`b\nx\n```\ny\n```\n", "y\n"),
        ("", None),
        ("```", None),
        ("``````", None),  # not two fences
    ],
)
def test_edge_cases_of_fences(text: str, expected: str | None) -> None:
    assert content(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```c++\nint x;\n```\n", "int x;\n"),
        ("``` python\nx\n```\n", "x\n"),
        ("```{.python #id}\nx\n```\n", "x\n"),
        ("~~~python\nx\n~~~\n", "x\n"),
        ("```python\r\nx\r\n```\r\n", "x\r\n"),
        ("````md\n```py\na\n```\n````\n", "```py\na\n```\n"),
        ("```py\ns = '''```'''\n```\n", "s = '''```'''\n"),
        ("  ```py\n  x\n  ```\n", "x\n"),
    ],
)
def test_the_usual_regular_expression_fails_where_extract_is_right(
    text: str, expected: str
) -> None:
    assert content(text) == expected
    assert naive(text) != expected
    assert (
        naive("```py\nx\n```\n") == content("```py\nx\n```\n") == "x\n"
    )  # it is right where nothing is difficult


def test_the_usual_regular_expression_invents_blocks() -> None:
    for text in (
        "Write ```\nlike this``` inline.\n",
        "~~~~\n```\na\n```\n",
        "    ```\n    a\n    ```\n",
    ):
        assert first_fence(text) is None
        assert naive(text) is not None


def random_line(rng: random.Random) -> str:
    """Return a line of Markdown that is a fence, almost a fence, or text, indented or not."""
    indent = rng.choice(["", "", "", "", " ", "  ", "   ", "    ", "\t", " \t"])
    if rng.random() < 0.3:
        return indent + rng.choice(["", "", "text", "# head", "a ``` b", "***", "\\", "x\ty"])
    tail = rng.choice(
        ["", "", "", "", "", " ", "\t", "py", " c++", " a`b", "`` `", "~ ~", " ```", " {.x #y} "]
    )
    return indent + rng.choice("``~") * rng.choice([2, 3, 3, 3, 4, 5]) + tail


def test_markdown_it_finds_the_same_block() -> None:
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    rng, closed = random.Random(0), 0
    for _ in range(4000):
        lines = [random_line(rng) for _ in range(rng.randrange(10))]
        ending = rng.choice(["\n", "\r\n", "\r"])
        text = ending.join(lines) + rng.choice(["", ending])
        # Text after the document shows whether the block was closed: an open one takes it.
        tokens = reader.parse("\n".join(lines) + "\n\nsentinel\n")
        blocks = [
            token
            for token in tokens
            if token.type == "fence" and token.level == 0 and "sentinel" not in token.content
        ]
        fence = first_fence(text)
        assert (fence is None) == (not blocks), text
        if fence is not None:
            closed += 1
            assert fence.text == blocks[0].content.replace("\n", ending), text
            assert fence.info == blocks[0].info.strip(" \t"), text
            assert text[: fence.start].count(ending) == blocks[0].map[0] + 1, text
            assert text[: fence.end].count(ending) == blocks[0].map[1] - 1, text
    assert 400 < closed < 3600  # both answers are common


# Quotes and list items around fences; the first is example 128 of CommonMark 0.31.2.
CONTAINED = [
    ("> ```\n> aaa\n\nbbb\n", ["aaa\n"]),
    ("1.  A paragraph\n    with two lines.\n\n    ```\n    a\n    ```\n", ["a\n"]),
    ("> ```\n```\n", ["", ""]),
    ("1. ```\n   foo\n   ```\n\n   bar\n", ["foo\n"]),
    ("- a\n- ```\n  b\n\n\n  ```\n- c\n", ["b\n\n\n"]),
    ("* a\n  > b\n  ```\n  c\n  ```\n* d\n", ["c\n"]),
    ("10) a\n\n    ```\n    b\n    ```\n", ["b\n"]),
    ("1.\ta\n\t```\n\tb\n\t\tc\n\t```\n", ["b\n\tc\n"]),
    ("- a\nb\n  ```\n  c\n  ```\n", ["c\n"]),  # a paragraph goes on without its marks
    ("- a\n\nb\n    ```\n    c\n    ```\n", []),  # but not after a blank line: four columns
    ("2. a\n", []),
    ("text\n2. ```\n   a\n   ```\n", [""]),  # only an item of number 1 ends a paragraph
    ("text\n1. ```\n   a\n   ```\n", ["a\n"]),
    ("-\n  ```\n  a\n  ```\n", ["a\n"]),
    ("-\n\n  ```\n  a\n  ```\n", ["a\n"]),  # the item is over; the fence stands alone
    ("-     ```\n  a\n", []),  # five columns behind the mark: indented code
    ("* * *\n```\na\n```\n", ["a\n"]),
    ("> > ```\n> > a\n> b\n", ["a\n"]),
    (">```\r\n>a\r\n>```\r\n", ["a\r\n"]),
]


@pytest.mark.parametrize(("text", "expected"), CONTAINED)
def test_fences_in_quotes_and_list_items_are_found(text: str, expected: list[str]) -> None:
    assert [fence.text for fence in fences(text)] == expected
    assert first_fence(text) == next((fence for fence in fences(text) if fence.closed), None)


def contained_line(rng: random.Random) -> str:
    """Return a line of Markdown after marks (or near-marks) of quotes and list items."""
    blanks = ["", "", "", " ", "  ", "   ", "    ", "\t"]
    marks = [*blanks, "> ", ">", "- ", "* ", "1. ", "10) ", "2. ", "-   ", "-\t", "+      "]
    before = "".join(rng.choice(marks) for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3])))
    if rng.random() < 0.35:
        leaves = ["", "", "text", "# head", "a ``` b", "***", "---", "===", "x\ty", "#", "- ", "-"]
        return before + rng.choice([*leaves, "1."])
    tails = ["py", " c++", " a`b", "`` `", "~ ~", " ```", " {.x}"]
    tail = rng.choice(["", "", "", "", "", " ", "\t", *tails])
    return before + rng.choice("``~") * rng.choice([2, 3, 3, 3, 4]) + tail


# Where markdown-it departs from CommonMark: it takes a quote's mark behind four columns, and keeps
# a tab whole of which the mark took a column.
DEPARTS = re.compile(r"(?:\t| {4})[ \t]*>|>\t")


@pytest.mark.slow
@both_seeds
def test_markdown_it_finds_the_same_blocks_in_quotes_and_items(seed: int) -> None:
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    reader.disable(["html_block", "reference"])
    compared = contained = 0
    for rng in cases(2000, seed):
        text = "\n".join(contained_line(rng) for _ in range(rng.randrange(1, 9))) + "\n"
        if not DEPARTS.search(text):
            blocks = [token for token in reader.parse(text) if token.type == "fence"]
            found = [(fence.text, fence.info) for fence in fences(text)]
            assert found == [(token.content, token.info.strip(" \t")) for token in blocks], text
            compared += bool(blocks)
            contained += any(token.level for token in blocks)
    assert compared > 20
    assert contained > 10


def test_spans_of_blocks_in_quotes_and_items() -> None:
    text = "a\n\n- > ~~~ py\n  > x\n  > ~~~\n```\ny\n"
    first, second = fences(text)
    assert (first.text, first.info, first.closed) == ("x\n", "py", True)
    assert text[first.opening : first.start] == "- > ~~~ py\n"
    assert text[first.start : first.end] == "  > x\n"
    assert (second.text, second.closed, second.end) == ("y\n", False, len(text))
    assert text[second.opening :].startswith("```")


def test_nesting_is_bounded() -> None:
    for mark in ("> ", "- ", "1. "):
        assert [fence.text for fence in fences(mark * MAX_DEPTH + "```\n")] == [""]
        assert fences(mark * (MAX_DEPTH + 1) + "```\n") == []
        assert fences(mark * 200_000 + "\n" + "x\n" * 1000) == []
