"""Backends over HTTP against local servers: how answers are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openai")

from maskdiff.stepwise.openai_api import ChatBackend, CompletionsBackend
from maskdiff.stepwise.protocol import Candidate, Request, Spent, Stop
from tests.helpers.openai_servers import (
    Serve,
    chat,
    chat_logs,
    completion,
    fails,
    isolate,
    logs,
    only,
    serving,
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


# Finish reasons


@pytest.mark.parametrize(
    "reason, more, text, finish",
    [
        ("length", {}, "ab", "length"),
        ("length", {"stop_reason": None}, "ab", "length"),
        ("stop", {"stop_reason": "!"}, "ab!", "stop"),
        ("stop", {"stop_reason": None}, "ab", "end"),
        ("stop", {"stop_reason": 151645}, "ab", "end"),
        ("stop", {"stop_reason": "<eos>"}, "ab", "end"),
        ("stop", {"matched_stop": ">"}, "ab>", "stop"),
        ("stop", {"matched_stop": 2}, "ab", "end"),
        ("stop", {}, "ab>", "stop"),
    ],
)
def test_finish_reasons_are_read(
    serve: Serve, reason: str, more: dict[str, Any], text: str, finish: str
) -> None:
    request = Request("p", stop=Stop((">", "!"), 9))
    for kind, make in ((CompletionsBackend, completion), (ChatBackend, chat)):
        candidate = only(kind("m", serve(make("ab", reason=reason, **more)).url), request)
        assert (candidate.step, candidate.text, candidate.finish, candidate.overshoot) == (
            text,
            text,
            finish,
            "",
        )


def test_without_stop_strings_a_stop_is_the_end(serve: Serve) -> None:
    backend = CompletionsBackend("m", serve(completion("ab")).url, ended=lambda text: False)
    assert only(backend, Request("p", stop=Stop(()))).finish == "end"


def test_ambiguous_ends_are_decided_by_the_caller(serve: Serve) -> None:
    seen = []

    def ended(text: str) -> bool:
        seen.append(text)
        return text.endswith("ab")

    server = serve(lambda body: completion(body["prompt"]))
    backend = CompletionsBackend("m", server.url, ended=ended)
    carried = (Candidate("x>", "x>o", "stop", 1, overshoot="o"),)
    candidates = [
        only(backend, request) for request in (Request("ab"), Request("ac"), Request("", carried))
    ]
    assert [(c.step, c.finish) for c in candidates[:2]] == [("ab", "end"), ("ac>", "stop")]
    assert seen == ["ab", "ac"]  # the third contains a stop string itself


def test_overshoot_begins_the_next_step(serve: Serve) -> None:
    server = serve(completion("bc", stop_reason=">"))
    carried = (Candidate("a>", "a>(", "stop", 2, overshoot="("),)
    candidate = only(CompletionsBackend("m", server.url), Request("p", carried))
    assert (candidate.step, candidate.text, candidate.overshoot) == ("(bc>", "bc>", "")
    assert server.bodies[0]["prompt"] == "pa>("


def test_a_server_that_does_not_cut_leaves_an_overshoot(serve: Serve) -> None:
    server = serve(completion("b>c>", reason="length"))
    backend = CompletionsBackend("m", server.url)
    first = only(backend, Request("p"))
    assert (first.step, first.text, first.overshoot, first.finish) == ("b>", "b>c>", "c>", "stop")
    (reply,) = backend.next_step(
        [Request("p", (first,))]
    )  # the overshoot is a whole step: no request is sent
    assert (reply.candidates[0].step, reply.candidates[0].text, reply.candidates[0].finish) == (
        "c>",
        "",
        "stop",
    )
    assert (reply.candidates[0].log_probs, reply.spent) == ((), Spent(candidates=1))
    assert len(server.bodies) == 1


def test_a_stop_string_across_two_steps_is_found(serve: Serve) -> None:
    carried = (Candidate("a;", "a;-", "stop", 2, overshoot="-"),)
    request = Request("p", carried, stop=Stop(("--", ";"), 9))
    candidate = only(CompletionsBackend("m", serve(completion("-c", stop_reason=";")).url), request)
    assert (candidate.step, candidate.text, candidate.overshoot, candidate.finish) == (
        "--",
        "-c;",
        "c;",
        "stop",
    )


def test_an_end_without_an_answer_is_an_error(serve: Serve) -> None:
    assert "'content_filter'" in fails(
        CompletionsBackend("m", serve(completion("x", reason="content_filter")).url)
    )


# Log-probabilities


def test_missing_log_probs_are_an_error(serve: Serve) -> None:
    holes = ([None, -1.0], [-1.0, None], [None, None], [-1.0, -math.inf])
    for given in (
        None,
        {},
        logs([], []),
        {"content": None},
        *(logs(["a", "b"], numbers) for numbers in holes),
    ):
        made = completion("ab", stop_reason=">")
        made["choices"][0]["logprobs"] = given
        backend = CompletionsBackend("m", serve(made).url)
        message = fails(backend)
        assert message.startswith("completions:m at http://127.0.0.1:")
        assert "returns no log-probabilities" in message
        assert "vote" in message


def test_tokens_of_the_stop_string_are_kept_where_they_have_a_number(serve: Serve) -> None:
    made = completion("ab", stop_reason=">")
    for numbers, kept in (
        ([-1.0, -2.0, -3.0], (-1.0, -2.0, -3.0)),
        ([-1.0, -2.0, None], (-1.0, -2.0)),
    ):
        made["choices"][0]["logprobs"] = logs(["a", "b", ">"], numbers)
        assert only(CompletionsBackend("m", serve(made).url), Request("p")).log_probs == kept


def test_a_choice_without_text_and_log_probs_is_not_certain(serve: Serve) -> None:
    made = completion("", usage=(10, 1), stop_reason=">")
    candidate = only(CompletionsBackend("m", serve(made).url), Request("p"))
    assert (candidate.text, candidate.log_probs, candidate.entropies, candidate.tokens) == (
        ">",
        None,
        None,
        1,
    )


def test_an_empty_end_is_certain(serve: Serve) -> None:
    for more in ({}, {"stop_reason": None}):
        candidate = only(
            ChatBackend("m", serve(chat(None, usage=(10, 1), **more)).url), Request("p")
        )
        assert (candidate.step, candidate.text, candidate.finish, candidate.tokens) == (
            "",
            "",
            "end",
            1,
        )
        assert (candidate.log_probs, candidate.entropies, candidate.gaps) == ((), (), ())
    candidate = only(ChatBackend("m", serve(chat(None)).url, log_probs=False), Request("p"))
    assert (candidate.finish, candidate.log_probs) == ("end", None)
    carried = (Candidate("a>", "a>(", "stop", 2, overshoot="("),)
    candidate = only(CompletionsBackend("m", serve(completion("")).url), Request("p", carried))
    assert (candidate.step, candidate.finish, candidate.log_probs) == ("(>", "stop", None)


def test_entropies_and_gaps_equal_a_hand_computation(serve: Serve) -> None:
    tops = [
        {"a": math.log(0.5), "b": math.log(0.25)},
        {"c": math.log(0.1), "d": math.log(0.9), "e": -9999.0},
    ]
    entropies = (0.5 * math.log(2) + 0.5 * math.log(4), -0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    for kind, make, write in (
        (CompletionsBackend, completion, logs),
        (ChatBackend, chat, chat_logs),
    ):
        made = make("ac", stop_reason=">")
        made["choices"][0]["logprobs"] = write(["a", "c"], [math.log(0.5), math.log(0.1)], tops)
        candidate = only(kind("m", serve(made).url), Request("p"))
        assert candidate.log_probs == pytest.approx((math.log(0.5), math.log(0.1)))
        assert candidate.entropies == pytest.approx(entropies)
        assert candidate.gaps == pytest.approx((0.25, 0.8))
        made["choices"][0]["logprobs"] = write(["a", "c"], [-1.0, -1.0], [tops[0], {"c": -1.0}])
        candidate = only(kind("m", serve(made).url), Request("p"))
        assert (candidate.entropies, candidate.gaps) == (None, None)
        assert candidate.log_probs == (-1.0, -1.0)


# Several choices


def test_several_choices_keep_their_order(serve: Serve) -> None:
    made = completion("a", "bb", "c", usage=(10, 7), stop_reason=">")
    made["choices"].reverse()
    server = serve(made)
    (reply,) = CompletionsBackend("m", server.url).next_step([Request("p", num=3)])
    assert server.bodies[0]["n"] == 3
    assert [c.step for c in reply.candidates] == ["a>", "bb>", "c>"]
    assert [c.tokens for c in reply.candidates] == [1, 2, 1]
    assert (reply.spent.forward_tokens, reply.spent.calls, reply.spent.candidates) == (17, 1, 3)
    (reply,) = CompletionsBackend("m", server.url, log_probs=False).next_step([Request("p", num=3)])
    assert [c.tokens for c in reply.candidates] == [2, 2, 3]


def test_missing_choices_are_requested_again(serve: Serve) -> None:
    server = serve(completion("a", usage=(10, 2), stop_reason=">"))
    backend = CompletionsBackend("m", server.url)
    (reply,) = backend.next_step([Request("p", num=3, seed=7)])
    assert [(c.step, c.tokens) for c in reply.candidates] == [("a>", 2)] * 3
    assert (reply.spent.forward_tokens, reply.spent.calls, reply.spent.candidates) == (36, 3, 3)
    assert [body["n"] for body in server.bodies] == [3, 2, 1]
    for first in (1, 2):
        only(backend, Request("p", seed=7, first=first))
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[1:3] == seeds[3:]
    assert len(set(seeds)) == 3


def test_wrong_numbers_of_choices_are_errors(serve: Serve) -> None:
    for texts in ((), ("a", "b")):
        message = fails(CompletionsBackend("m", serve(completion(*texts)).url))
        assert f"{len(texts)} choices came where n is 1" in message


# Cost


def test_spent_excludes_cached_tokens(serve: Serve) -> None:
    made = completion("abcd", usage=(100, 6), stop_reason=">")
    made["usage"]["prompt_tokens_details"] = {"cached_tokens": 64}
    backend = CompletionsBackend("m", serve(made).url)
    (reply,) = backend.next_step([Request("p")])
    assert (reply.spent.forward_tokens, reply.spent.calls, reply.spent.candidates) == (42, 1, 1)
    assert 0 < reply.spent.seconds < 5
    assert (reply.candidates[0].tokens, backend.unmetered) == (6, 0)
    made["usage"]["prompt_tokens_details"] = None
    assert backend.next_step([Request("p")])[0].spent.forward_tokens == 106


def test_missing_usage_is_estimated(serve: Serve) -> None:
    backend = CompletionsBackend("m", serve(completion("abc", usage=None, stop_reason=">")).url)
    replies = backend.next_step([Request("p"), Request("q")])
    assert [reply.spent.forward_tokens for reply in replies] == [3, 3]
    assert (replies[0].candidates[0].tokens, backend.unmetered) == (3, 2)


# Malformed answers


@pytest.mark.parametrize(
    "body, message",
    [
        ("<html>no</html>", "answered what is not JSON: '<html>no</html>'"),
        ("", "not JSON"),
        ("[1]", "answered without choices: '[1]'"),
        ({"error": {"message": "odd"}}, "answered without choices"),
        ({"choices": [1]}, "answered without choices"),
        ({"choices": [{"text": 1, "finish_reason": "stop"}]}, "a choice says what is no text: '1'"),
    ],
)
def test_malformed_answers_are_errors(serve: Serve, body: Any, message: str) -> None:
    assert message in fails(CompletionsBackend("m", serve((200, body)).url))


def test_a_chat_choice_without_message_is_an_error(serve: Serve) -> None:
    assert "a choice has no message" in fails(ChatBackend("m", serve(completion("x")).url))
