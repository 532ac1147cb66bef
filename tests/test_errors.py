"""Messages are one line, quote the user's text exactly, and do not split clusters."""

from __future__ import annotations

import pytest

from maskdiff.errors import (
    MAX_MESSAGE,
    UserError,
    clip,
    clusters,
    display_width,
    folded,
    one_line,
    quote,
    visible,
)
from tests.helpers.fuzz import both_seeds, cases

FAMILY, FLAG, ENGLAND = (
    "👨‍👩‍👧",
    "🇩🇪",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
)
WAVING, HEART, ACCENT = "👋🏽", "❤️", "e\u0301"
JOINED = (FAMILY, FLAG, ENGLAND, WAVING, HEART, ACCENT, "नि", "각")
PIECES = [
    *JOINED,
    *"a  \t\n\r\u2028\u202e\x1b",
    "\u200d",
    "\u200c",
    "\u0301",
    "\ufe0f",
    "🇩",
    "🏽",
    "👨",
    "漢",
    "\ud800",
    "\\n",
]


def random_text(rng, most: int = 40) -> str:  # type: ignore[no-untyped-def]
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(most)))


def test_white_space_of_the_user_is_kept() -> None:
    assert "'a  b   c'" in str(UserError(f"no string is {quote('a  b   c')}"))
    assert str(UserError("x \u00a0\t y")) == "x \\xa0\\t y"


def test_invisible_characters_are_escaped_and_joined_emoji_are_not() -> None:
    assert (
        visible("a\r\n\x1b[31m\u202e\u2028\x00\ud800")
        == "a\\r\\n\\x1b[31m\\u202e\\u2028\\x00\\ud800"
    )
    for text in JOINED:
        assert visible(text) == text
    assert (
        visible("pass\u200dword") == "pass\\u200dword"
    )  # a joiner that joins nothing hides in text
    assert visible("a\U000e0067\U000e007f") == "a\\U000e0067\\U000e007f"


@pytest.mark.slow
@both_seeds
def test_every_message_is_one_bounded_line(seed: int) -> None:
    """Messages have no line end or control character, and short ones are complete."""
    for rng in cases(2000, seed):
        text = random_text(rng, 400)
        line = one_line(text)
        assert len(line.splitlines()) <= 1
        assert not set("\x1b\u202e") & set(line)
        assert len(line) <= MAX_MESSAGE
        if len(visible(text)) <= MAX_MESSAGE:
            assert line == visible(text)
        for piece in ("a  b", FAMILY):
            assert piece in one_line(f"{piece} {random_text(rng, 5)}")


@both_seeds
def test_clusters_equal_those_of_unicode(seed: int) -> None:
    r"""Compare with the package `regex`, whose `\X` follows Unicode."""
    regex = pytest.importorskip("regex")
    pieces = [piece for piece in PIECES if piece not in "\u200c\ud800"]
    for rng in cases(3000, seed):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(12)))
        if "\r\n" not in text and "a\u200d" not in text:
            assert clusters(text) == regex.findall(r"\X", text), ascii(text)


@both_seeds
def test_a_clipped_text_ends_between_clusters(seed: int) -> None:
    for rng in cases(1000, seed):
        text, limit = random_text(rng), rng.randrange(3, 30)
        short = clip(text, limit)
        assert len(short) <= max(limit, 3)
        if len(text) > limit:
            parts = clusters(text)
            assert short.removesuffix("...") in {"".join(parts[:i]) for i in range(len(parts))}
        else:
            assert short == text


def test_quoted_text_ends_between_clusters() -> None:
    assert quote("ab" + FAMILY * 30, 12) == f"'ab{FAMILY}...'"


def test_display_widths() -> None:
    assert [
        display_width(text) for text in (FAMILY, FLAG, ENGLAND, WAVING, HEART, ACCENT, "漢", "a")
    ] == [2] * 5 + [1, 2, 1]


def test_quoting_is_bounded_for_any_value() -> None:
    nested: list[object] = ["x"]
    for _ in range(200):
        nested = [nested, nested]  # 2**200 when written out
    assert len(quote(nested)) < 70
    assert quote(10**5000) == "'a number of about 5000 digits'"
    assert len(quote({"a": "x" * 10**6})) < 70


def test_lines_of_other_programs_are_folded_at_their_ends_only() -> None:
    assert folded(ValueError("while reading\n    'a  b'\n")) == "while reading 'a  b'"
