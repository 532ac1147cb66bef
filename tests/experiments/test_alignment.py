"""Which place of another answer a place is compared with: by oracles and invariances."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.experiments.distillation.positions import NO_PARTNER, edit_aligned, ordinal

WORD = st.lists(st.integers(0, 2), max_size=16)
TWO_OR_MORE = st.lists(st.integers(0, 2), min_size=2, max_size=16)
FUTURE = st.lists(st.integers(0, 2), min_size=1, max_size=16)
Links = set[tuple[int, int]]


def links(answer: Sequence[int], other: Sequence[int]) -> Links:
    """Places of the same tokens, in order."""
    blocks = SequenceMatcher(None, answer, other, autojunk=False).get_matching_blocks()
    return {(block.a + k, block.b + k) for block in blocks for k in range(block.size)}


def before(found: Links, t: int, p: int) -> Links:
    """Returns the links before a place of either answer."""
    return {(i, j) for i, j in found if i < t and j < p}


def behind(found: Links, t: int, p: int, least: int) -> bool:
    """Whether `least` linked tokens, or all since the beginning, stand right before two places:
    earlier places alone."""
    return all((t - i, p - i) in found for i in range(1, least + 1)) or (
        t == p and all((i, i) in found for i in range(t))
    )


@pytest.mark.slow
@given(WORD, WORD, st.integers(1, 4))
@settings(max_examples=400, deadline=None)
def test_partners_stand_behind_the_same_tokens(
    answer: list[int], other: list[int], least: int
) -> None:
    """Each place has a partner behind the same token; the first place has no token before it."""
    assert ordinal(answer, other) == [
        t if t < len(other) else NO_PARTNER for t in range(len(answer))
    ]
    edit, found = edit_aligned(answer, other, least), links(answer, other)
    assert len(edit) == len(answer)
    for t in range(1, len(answer)):
        expected = [p for p in range(1, len(other)) if behind(found, t, p, least)]
        assert [edit[t]] == (expected or [NO_PARTNER])
        for p in expected:
            assert answer[max(0, t - least) : t] == other[max(0, p - least) : p]
    partners = [p for p in edit if p != NO_PARTNER]
    assert partners == sorted(set(partners))
    assert (
        edit_aligned(answer, answer, least) == ordinal(answer, answer) == list(range(len(answer)))
    )
    assert edit_aligned(answer, other) == edit_aligned(answer, other, 3)


@pytest.mark.slow
@given(WORD, TWO_OR_MORE, FUTURE, st.integers(0, 14))
@settings(max_examples=300, deadline=None)
def test_a_partner_depends_only_on_the_links_before_it(
    answer: list[int], other: list[int], future: list[int], number: int
) -> None:
    """For two texts that are equal up to `p`: the links before `p` alone decide whether `p` is the
    partner of a place."""
    p = 1 + number % (len(other) - 1)
    changed = other[:p] + future
    edit, again = edit_aligned(answer, other), edit_aligned(answer, changed)
    first, second = links(answer, other), links(answer, changed)
    for t in range(1, len(answer)):
        if before(first, t, p) == before(second, t, p):
            assert (edit[t] == p) == (again[t] == p)


Texts = tuple[list[int], int, list[int], int, int]


@st.composite
def unambiguous_texts(draw: st.DrawFn) -> Texts:
    """An answer and another that share `size` tokens which return nowhere, at `t` and at `p`;
    before them they share none."""
    size = draw(st.integers(3, 8))
    shared = list(range(100, 100 + size))
    ours, theirs = (
        draw(st.lists(st.integers(0, 2), max_size=4)),
        draw(st.lists(st.integers(3, 5), max_size=4)),
    )
    ends = (draw(st.lists(st.integers(10, 12), min_size=1, max_size=6)) for _ in range(2))
    answer, other = (start + shared + end for start, end in zip((ours, theirs), ends))
    return answer, len(ours), other, len(theirs), size


@pytest.mark.slow
@given(unambiguous_texts(), st.data())
@settings(max_examples=300, deadline=None)
def test_no_future_of_the_other_changes_a_partner(texts: Texts, data: st.DataObject) -> None:
    """Where what is shared is beyond doubt: what stands at the partner or behind it may be anything
    that is not shared."""
    answer, t, other, p, size = texts
    begun = 1 if t == p == 0 else 3
    edit = edit_aligned(answer, other)
    for k in range(begun, size + 1):
        assert (
            edit[t + k] == p + k
        )  # behind the last of them, too, where the answers part or happen to agree
        future = data.draw(st.lists(st.integers(10, 12), min_size=1, max_size=8))
        assert edit_aligned(answer, other[: p + k] + future)[1 : t + k + 1] == edit[1 : t + k + 1]
    assert set(edit[1 : t + begun]) <= {NO_PARTNER}
    assert edit_aligned(answer, other[: p + size])[t + size] == NO_PARTNER  # it ends


@pytest.mark.parametrize(
    "answer, other, partners",
    [
        ("abcde", "abcxe", [1, 2, 3, NO_PARTNER]),  # the first difference is compared
        ("abc", "axx", [1, NO_PARTNER]),  # since the beginning one token is enough
        ("yabcd", "xxabcz", [NO_PARTNER, NO_PARTNER, NO_PARTNER, 5]),
        (
            "yabd",
            "xxabd",
            [NO_PARTNER, NO_PARTNER, NO_PARTNER],
        ),  # after the three there is no token
        ("yabe", "xxabf", [NO_PARTNER, NO_PARTNER, NO_PARTNER]),  # two are too few
        ("abcd", "ab", [1, NO_PARTNER, NO_PARTNER]),
        ("efg", "ab", [NO_PARTNER, NO_PARTNER]),
        ("efg", "", [NO_PARTNER, NO_PARTNER]),
        ("", "ab", []),
    ],
)
def test_partners_by_hand(answer: str, other: str, partners: list[int]) -> None:
    """Covers all places but the first, which has no token before it."""
    assert edit_aligned([*map(ord, answer)], [*map(ord, other)])[1:] == partners


def test_an_insertion_shifts_one_alignment_and_not_the_other() -> None:
    answer = list(range(300))  # longer than what difflib would take for popular tokens
    other = [*answer[:100], 999, *answer[100:]]
    assert edit_aligned(answer, other) == [*range(101), NO_PARTNER, NO_PARTNER, *range(104, 301)]
    assert edit_aligned(other, answer) == [
        *range(101),
        NO_PARTNER,
        NO_PARTNER,
        NO_PARTNER,
        *range(103, 300),
    ]
    compared = [answer[t] == other[p] for t, p in enumerate(ordinal(answer, other))]
    assert sum(compared) == 100  # behind it equal places hold different texts
    few = [0, 1, 2] * 100  # tokens that return as often as those of a small vocabulary do
    assert edit_aligned(few, [9, *few])[1:] == [NO_PARTNER, NO_PARTNER, *range(4, 301)]
