"""`Stop` and steps written token by token, compared with a search of every position."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskdiff.config import StepConfig
from maskdiff.errors import ConfigError
from maskdiff.stepwise.causal import CausalBackend
from maskdiff.stepwise.protocol import Candidate, Request, Stop, split_step
from maskdiff.stepwise.strategies import step_stop
from maskdiff.stepwise.writing import Step
from tests.helpers.stepwise import loaded, one, stop_of

EOS = None
Texts = list[str | None]  # tokens, of which None ends the answer


def write(tokens: Texts, stop: Stop, over: str = "") -> Candidate | None:
    """Return the step of a model that writes these tokens; None while the step has not ended."""
    partial = (Candidate("", "", "stop", 0, overshoot=over),) if over else ()
    step = Step(Request("", partial, stop=stop))
    for i, text in enumerate(tokens):
        if step.finish is None:
            step.add(i, (float(i),) * 3, text or "", text is EOS)
    return None if step.finish is None else step.candidate()


def step_by_search(tokens: Texts, stop: Stop, over: str = "") -> tuple[str, str, str, int] | None:
    """Return step, overshoot, finish and number of tokens, by a search of every position.

    None while the step has not ended.
    """

    def first_end(text: str, behind: int) -> int | None:
        ends = [
            e
            for e in range(behind + 1, len(text) + 1)
            if any(text[:e].endswith(s) for s in stop.strings)
        ]
        return min(ends, default=None)

    text = over
    if stop.min_tokens == 1 and (end := first_end(text, 0)) is not None:
        return text[:end], text[end:], "stop", 0
    behind = 0  # where stop strings begin to count: they end within token `min_tokens` or later
    for number, token in enumerate(tokens, start=1):
        if token is EOS:
            return text, "", "end", number
        if number == stop.min_tokens > 1:
            behind = len(text)
        text += token
        if number >= stop.min_tokens and (end := first_end(text, behind)) is not None:
            return text[:end], text[end:], "stop", number
        if number == stop.max_tokens:
            return text, "", "length", number
    return None


pieces = st.text("ab>", min_size=1, max_size=4)
stops = st.lists(st.text("ab>", min_size=1, max_size=3), max_size=3).map(tuple)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(pieces, max_size=8),
    end=st.booleans(),
    strings=stops,
    least=st.integers(1, 4),
    more=st.integers(0, 6),
    over=st.text("ab>", max_size=5),
)
@example(
    tokens=["a>b>", "b"], end=False, strings=(">",), least=1, more=3, over=""
)  # two stops in one token
@example(
    tokens=["a", ">", "b"], end=False, strings=("a>b",), least=1, more=3, over=""
)  # one stop in three
@example(
    tokens=["b"], end=False, strings=("a>b",), least=1, more=3, over="a>"
)  # and one that began with the step before
@example(tokens=[">", "b>"], end=False, strings=(">", "b"), least=2, more=0, over=">")
def test_steps_equal_a_search_of_every_position(
    tokens: list[str], end: bool, strings: tuple[str, ...], least: int, more: int, over: str
) -> None:
    stop, written = Stop(strings, least + more, least), [*tokens, *([EOS] if end else [])]
    candidate, expected = write(written, stop, over), step_by_search(written, stop, over)
    assert (candidate is None) == (expected is None)
    if candidate is None or expected is None:
        return
    assert (candidate.step, candidate.overshoot, candidate.finish, candidate.tokens) == expected
    assert candidate.step + candidate.overshoot == over + candidate.text
    assert candidate.text == "".join(
        text for text in written[: candidate.tokens] if text is not EOS
    )
    assert candidate.ids == tuple(range(candidate.tokens))
    assert (
        candidate.log_probs == candidate.entropies == candidate.gaps == candidate.ids
    )  # all of them, in order


@settings(max_examples=150, deadline=None)
@given(tokens=st.lists(pieces, max_size=10), strings=stops)
def test_steps_join_to_the_answer(tokens: list[str], strings: tuple[str, ...]) -> None:
    """No text is lost or repeated for any overshoot, and each step but the last ends
    at its first stop."""
    stop, left, over, steps = Stop(strings, 64), [*tokens, EOS], "", list[Candidate]()
    while not steps or steps[-1].finish != "end":
        step = write(left, stop, over)
        assert step is not None
        steps.append(step)
        left, over = left[step.tokens :], step.overshoot
        assert len(steps) <= sum(map(len, tokens)) + 1
    assert (
        "".join(step.step for step in steps)
        == "".join(step.text for step in steps)
        == "".join(tokens)
    )
    assert sum(step.tokens for step in steps) == len(tokens) + 1
    for step in steps:
        ends = [step.step.find(s) + len(s) for s in strings if s in step.step]
        assert min(ends, default=None) == (len(step.step) if step.finish == "stop" else None)


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab>", max_size=10), strings=stops, since=st.integers(0, 10))
def test_find_equals_brute_force(text: str, strings: tuple[str, ...], since: int) -> None:
    ends = [
        e for e in range(since + 1, len(text) + 1) if any(text[:e].endswith(s) for s in strings)
    ]
    assert Stop(strings).find(text, since) == min(ends, default=None)
    cut = split_step(text[3:], since, Stop(strings), text[:3])
    assert cut == (None if not ends else (text[: ends[0]], text[ends[0] :]))


def test_stops_in_known_cases() -> None:
    """Check known cases, so that the two implementations cannot share an error."""
    step = write(["1", ")>(", "+"], stop_of(">"))
    assert (step.step, step.overshoot, step.text, step.finish, step.tokens) == (
        "1)>",
        "(",
        "1)>(",
        "stop",
        2,
    )
    step = write(["+", "9>1", "8"], stop_of(">"), over="(")
    assert (step.step, step.overshoot, step.tokens) == ("(+9>", "1", 2)
    step = write(["never drawn"], stop_of(">"), over="2>3>")
    assert (step.step, step.overshoot, step.tokens, step.log_probs) == ("2>", "3>", 0, ())
    assert write(["a", "b"], Stop((), 5)) is None
    assert write(["a", "b"], Stop((), 2)).finish == "length"
    assert write(["a", ">"], Stop((">",), 2)).finish == "stop"  # which comes before the cap
    assert write(["a", EOS], Stop((">",), 2)).finish == "end"
    assert write([">", ">", "a>"], Stop((">",), 9, 3)).step == ">>a>"
    assert (
        write([">", EOS], Stop((">",), 9, 3)).finish == "end"
    )  # the model's own end is no stop string
    assert write(["x\n", "\ny"], stop_of("\n\n")).overshoot == "y"
    assert write(["ab>"], stop_of(">", "b")).step == "ab"  # the earliest stop


def test_impossible_stops_are_refused() -> None:
    for strings, most, least in (((">", ""), 4, 1), ((">",), 4, 5), ((">",), 4, 0)):
        with pytest.raises(ConfigError):
            Stop(strings, most, least)
    assert step_stop(StepConfig(), ">") == Stop((">",), 96, 1)
    assert step_stop(
        StepConfig(step_stop=("a", "b"), max_step_tokens=7, min_step_tokens=2), ">"
    ) == Stop(("a", "b"), 7, 2)


@pytest.mark.slow
def test_a_model_ends_its_steps_at_the_stops() -> None:
    """Check several stops of several characters on a real backend.

    Each step follows from its tokens by the rules.
    """
    model = loaded(pieces=True)
    vocabulary = model.vocabulary
    finishes = set()
    for stop in (
        stop_of(">", most=7),
        stop_of(")>-", " 1)", ">3", most=9),
        stop_of(">", most=9, least=4),
        stop_of(most=5),
    ):
        reply = one(CausalBackend(model), prompt="(+ 1 2)>", num=24, stop=stop, seed=3)
        more = (
            one(CausalBackend(model), prompt="(+ 1 2)>", partial=(c,), num=1, stop=stop)
            for c in reply.candidates[:9]
        )
        for over, candidate in [
            *(("", c) for c in reply.candidates),
            *((c.overshoot, n.candidates[0]) for c, n in zip(reply.candidates, more, strict=False)),
        ]:
            tokens: Texts = [
                EOS if token == vocabulary.eos else vocabulary.symbols[token]
                for token in candidate.ids
            ]
            assert (
                candidate.step,
                candidate.overshoot,
                candidate.finish,
                candidate.tokens,
            ) == step_by_search(tokens, stop, over)
            assert (
                candidate.tokens < 2 or step_by_search(tokens[:-1], stop, over) is None
            )  # and not before
            finishes.add(candidate.finish)
    assert finishes == {"stop", "end", "length"}
