"""Backends over OpenAI-compatible HTTP: a model that runs elsewhere proposes the next step.

`CompletionsBackend` (`/completions`) sends prompt and answer as one text; `ChatBackend`
(`/chat/completions`) sends the answer so far as a message of the assistant for the server to
continue. `openai_answers.py` reads the responses; `probe.py` tests whether a server really
continues a partial answer.

A server removes the stop string, and reports "stop" for it and for its own end alike. vLLM's
`stop_reason` and SGLang's `matched_stop` tell them apart; otherwise `ended` decides, and an empty
step is the end. The answer travels as text: a chat template may trim it, and its tokens on the
server may differ from those that were drawn.

Log-probabilities are those of the server: vLLM's are at temperature 1 by default, and the official
API has none for a stop string. Missing values are never filled in.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from types import TracebackType
from typing import Any, Literal

from maskdiff.errors import ConfigError, folded, quote
from maskdiff.stepwise.openai_answers import (
    DrawnToken,
    Unusable,
    count_drawn,
    entropy_bound,
    probability_gap,
    read_choices,
    read_drawn,
    read_usage,
)
from maskdiff.stepwise.openai_client import (
    KEY,
    import_openai,
    read_address,
    read_key,
    start_threads,
)
from maskdiff.stepwise.protocol import (
    BackendError,
    Candidate,
    Capabilities,
    Finish,
    Rejected,
    Reply,
    Request,
    Spent,
    split_step,
)

Prefill = Literal["continue_final_message", "prefix", "plain"]
Part = tuple[list[dict[str, Any]], object, float]  # choices of one answer, the answer, seconds

PREFILLS = ("continue_final_message", "prefix", "plain")
MAX_STOPS = 4  # of the official API
ALTERNATIVES = 5  # likeliest tokens requested at every position; the maximum of `/completions`
MAX_QUOTED = 200  # characters of a message of the server in an error


class OpenAIBackend(ABC):
    """What both kinds of requests share: the client, the threads, and the reading of responses.

    The key is read from OPENAI_API_KEY only. A server on this machine, or behind plain http, needs
    none; over plain http a key is sent to this machine only, without a proxy. `unmetered` counts
    responses without a usable `usage`: their `Spent.forward_tokens` counts only tokens with
    log-probabilities, so the sum is too low if `unmetered` is above 0. The `entropies` of
    candidates are lower bounds (see `openai_answers.entropy_bound`), so `capabilities` does not
    promise them.

    Args:
        base_url: Such as http://127.0.0.1:8000/v1.
        timeout: Seconds without data from the server, for each try.
        retries: Tries after the first, for refused connections, timeouts, HTTP 408, 409, 429, 5xx.
        concurrency: Maximal number of requests at a time.
        log_probs: Request log-probabilities; a response without them is an error.
        ended: Whether a step without a stop string is the last of an answer, for servers that
            report no reason (default: never).

    Raises ConfigError.
    """

    kind = ""
    continues: bool | None = None
    chat = False

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        concurrency: int = 8,
        log_probs: bool = True,
        ended: Callable[[str], bool] | None = None,
    ) -> None:
        if not timeout > 0:
            raise ConfigError(f"a timeout of {timeout:g} seconds is impossible; give more than 0")
        if retries < 0 or concurrency < 1:
            raise ConfigError(
                f"retries is {retries} and concurrency {concurrency}; "
                "at least 0 retries and 1 request at a time are needed"
            )
        self.model, self.log_probs = model, log_probs
        self.name = f"{self.kind}:{model}"
        self.unmetered = 0
        self.where, local = read_address(base_url)
        self._timeout, self._retries, self._concurrency = timeout, retries, concurrency
        self._ended = ended or (lambda text: False)
        self._key = read_key(self.where, local)
        self._openai = import_openai()
        try:
            # No proxy leads to this machine, whatever the environment says.
            http = (
                self._openai.DefaultHttpxClient(timeout=timeout, trust_env=False) if local else None
            )
            self._client = self._openai.OpenAI(
                api_key=self._key or "none",
                base_url=base_url,
                timeout=timeout,
                max_retries=retries,
                http_client=http,
            )
        except (ImportError, ValueError) as error:  # such as of a proxy that the environment names
            raise ConfigError(
                f"no client can be made for {self.where}: {self._quote(folded(error))}"
            ) from None
        self.capabilities = Capabilities(
            continues=self.continues,
            log_probs=log_probs,
            entropies=False,
            stop_strings=True,
            seed=True,
            token_ids=False,
            chat=self.chat,
        )

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies in order, each from one HTTP request of `num` choices.

        A server that returns fewer choices is asked for the rest. Whether candidate i depends on
        other requests is up to the server. Raises ConfigError before anything is sent, and the
        first BackendError after all requests have ended. An interrupt closes the connections.
        """
        payloads = [
            None if split_step("", 0, request.stop, request.overshoot) else self._payload(request)
            for request in requests
        ]
        if not requests:
            return []
        futures = start_threads(self._collect, list(zip(requests, payloads)), self._concurrency)
        try:
            wait(futures)
        except BaseException:
            for future in futures:
                future.cancel()
            self.close()
            raise
        return [self._reply(request, future.result()) for request, future in zip(requests, futures)]

    def forget(self) -> None:  # noqa: B027
        """Do nothing: no state is kept here between requests."""

    def close(self) -> None:
        """Close the connections; no request can be made afterwards."""
        self._client.close()

    def __enter__(self) -> OpenAIBackend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _asked(self, request: Request) -> dict[str, Any]:
        """The fields of the body that only this kind of request has."""

    @abstractmethod
    def _create(self) -> Callable[..., Any]:
        """The method of the client that sends the request."""

    @abstractmethod
    def _text(self, choice: dict[str, Any]) -> object:
        """The text of a choice."""

    def _payload(self, request: Request) -> dict[str, Any]:
        """The body of the HTTP request. Raises ConfigError."""
        stop = request.stop
        if stop.min_tokens > 1:
            raise ConfigError(
                f"min_step_tokens is {stop.min_tokens}: "
                "this backend cannot hold stop strings back; give 1"
            )
        if len(stop.strings) > MAX_STOPS:
            raise ConfigError(
                f"{len(stop.strings)} stop strings are given and the API takes at most {MAX_STOPS}"
            )
        try:
            (request.prompt + request.answer).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"character {error.start} of prompt and answer is half a surrogate pair, "
                "which no request can carry"
            ) from None
        payload = {
            "model": self.model,
            "n": request.num,
            "temperature": request.temperature,
            "max_tokens": stop.max_tokens,
            "seed": _seed(request.seed, request.first),
        }
        return {
            **payload,
            **({"stop": list(stop.strings)} if stop.strings else {}),
            **self._asked(request),
        }

    def _collect(self, request: Request, payload: dict[str, Any] | None) -> list[Part]:
        """The responses that together hold all choices: several if the server returns fewer."""
        parts: list[Part] = []
        missing = 0 if payload is None else request.num
        while missing:
            seed = _seed(request.seed, request.first + request.num - missing)
            body, seconds = self._post({**(payload or {}), "n": missing, "seed": seed})
            try:
                choices = read_choices(body, missing)
            except Unusable as problem:
                raise self._unusable(problem) from None
            parts.append((choices, body, seconds))
            missing -= len(choices)
        return parts

    def _post(self, payload: dict[str, Any]) -> tuple[object, float]:
        """The JSON of the response, and the seconds that it took with retries."""
        api, started = self._openai, time.perf_counter()
        try:
            # Raw, since the types of the client hide what a server leaves out.
            response = self._create()(**payload).http_response
        except api.APIStatusError as error:
            raise self._status_error(error) from None
        except api.APITimeoutError:
            raise self._error(
                f"no answer within {self._timeout:g} seconds{self._tries()}"
            ) from None
        except api.APIConnectionError as error:
            raise self._error(
                f"cannot be reached{self._tries()}: {self._quote(str(error.__cause__ or error))}"
            ) from None
        except api.OpenAIError as error:
            raise self._error(self._quote(folded(error))) from None
        seconds = time.perf_counter() - started
        try:
            return response.json(), seconds
        except (ValueError, RecursionError):
            raise self._error(f"answered what is not JSON: {self._quote(response.text)}") from None

    def _reply(self, request: Request, parts: list[Part]) -> Reply:
        """The candidates of all responses, and their cost."""
        carried = split_step("", 0, request.stop, request.overshoot)
        if carried:  # the text carried over is a whole step: nothing was requested
            none = () if self.log_probs else None
            done = Candidate(
                carried[0], "", "stop", 0, carried[1], log_probs=none, entropies=none, gaps=none
            )
            return Reply((done,) * request.num, Spent(candidates=request.num))
        replies = [self._part(request, *part) for part in parts]
        made = tuple(candidate for reply in replies for candidate in reply.candidates)
        return Reply(made, sum((reply.spent for reply in replies), Spent()))

    def _part(
        self, request: Request, choices: list[dict[str, Any]], body: object, seconds: float
    ) -> Reply:
        """The candidates of one response, and its cost."""
        try:
            drawn = [self._drawn(choice) for choice in choices]
            usage = read_usage(body)
            tokens = count_drawn(usage, drawn)
            made = tuple(self._candidate(request, *each) for each in zip(choices, drawn, tokens))
        except Unusable as problem:
            raise self._unusable(problem) from None
        self.unmetered += usage is None
        forward = sum(tokens) if usage is None else usage.forward
        return Reply(made, Spent(forward, 1, len(choices), seconds))

    def _text_of(self, choice: dict[str, Any]) -> str:
        text = self._text(choice)
        if text is None:  # chat servers write null for nothing
            return ""
        if not isinstance(text, str):
            raise Unusable("a choice says what is no text", text)
        return text

    def _drawn(self, choice: dict[str, Any]) -> list[DrawnToken] | None:
        """The tokens of a choice; None if they were not requested or the server returned none.

        It returns none for a choice without text, a stop string or the end. An empty list would
        count as a certain step, which only an empty end is; see `_candidate`.
        """
        tokens = read_drawn(choice.get("logprobs"), self._text_of(choice)) if self.log_probs else []
        return tokens or None

    def _candidate(
        self, request: Request, choice: dict[str, Any], drawn: list[DrawnToken] | None, tokens: int
    ) -> Candidate:
        text, finish = self._ending(request, choice, self._text_of(choice))
        step, over = request.overshoot + text, ""
        # Text after a stop string: the server ignored it, or it begins in the text carried over.
        if cut := split_step(text, 0, request.stop, request.overshoot):
            (step, over), finish = cut, "stop"
        log_probs = entropies = gaps = None
        if drawn is not None:
            log_probs = tuple(token.log_prob for token in drawn)
            if all(len(token.alternatives) > 1 for token in drawn):
                entropies = tuple(entropy_bound(token.alternatives) for token in drawn)
                gaps = tuple(probability_gap(token.alternatives) for token in drawn)
        elif self.log_probs and finish == "end" and not step:  # without text nothing is uncertain
            log_probs = entropies = gaps = ()
        return Candidate(
            step, text, finish, tokens, over, log_probs=log_probs, entropies=entropies, gaps=gaps
        )

    def _ending(self, request: Request, choice: dict[str, Any], text: str) -> tuple[str, Finish]:
        """The text, with the stop string that the server removed, and the kind of its end."""
        reason, strings = choice.get("finish_reason"), request.stop.strings
        if reason not in ("stop", "length"):
            raise Unusable("a choice ended for a reason other than 'stop' and 'length'", reason)
        if reason == "length":
            return text, "length"
        if request.stop.find(text) is not None:
            return text, "stop"  # the server did not remove it
        matched = [choice[field] for field in ("stop_reason", "matched_stop") if field in choice]
        whole = request.overshoot + text
        # An empty step is the end: if it counted as a stop, empty steps would follow for ever.
        if not matched and strings and whole and not self._ended(whole):
            matched = [strings[0]]
        # None is the end-of-string token, a number another token that ends the answer.
        return (text + matched[0], "stop") if matched and matched[0] in strings else (text, "end")

    def _status_error(self, error: Any) -> BackendError:
        """The error of an HTTP status that is no success."""
        status, message = error.status_code, self._quote(_message(error))
        if status in (400, 422):
            return Rejected(
                f"{self.name} at {self.where} refused the request (HTTP {status}): {message}"
            )
        if status in (401, 403):
            what = (
                f"does not accept the key in {KEY}" if self._key else f"asks for a key; set {KEY}"
            )
        elif status == 404:
            what = f"has no such address, or no model {quote(self.model)}"
        elif status == 429:
            what = f"is asked too often{self._tries()}"
        else:
            what = f"failed{self._tries() if status >= 500 else ''}"
        return self._error(f"{what} (HTTP {status}): {message}")

    def _unusable(self, problem: Unusable) -> BackendError:
        given = f": {self._quote(str(problem.given))}" if problem.given != "" else ""
        return self._error(f"{problem}{given}")

    def _error(self, problem: str) -> BackendError:
        return BackendError(f"{self.name} at {self.where}: {problem}")

    def _tries(self) -> str:
        return f" in {self._retries + 1} tries" if self._retries else ""

    def _quote(self, message: str) -> str:
        """A message of the server, shortened and without the key."""
        return quote(message.replace(self._key, "***") if self._key else message, MAX_QUOTED)


class CompletionsBackend(OpenAIBackend):
    """`/completions`: prompt and answer are one text, so a partial answer is always continued.

    Settings are those of `OpenAIBackend`.
    """

    kind = "completions"
    continues = True

    def _asked(self, request: Request) -> dict[str, Any]:
        asked: dict[str, Any] = {"prompt": request.prompt + request.answer}
        return asked | ({"logprobs": ALTERNATIVES} if self.log_probs else {})

    def _create(self) -> Callable[..., Any]:
        create: Callable[..., Any] = self._client.completions.with_raw_response.create
        return create

    def _text(self, choice: dict[str, Any]) -> object:
        return choice.get("text")


class ChatBackend(OpenAIBackend):
    """`/chat/completions`: the answer so far is the beginning of the assistant's message.

    A server that does not support `prefill` begins a new answer, which no response reveals:
    `capabilities.continues` is None until it is probed. The limit of tokens is sent as
    `max_tokens`, which newer models of OpenAI refuse.

    Args:
        prefill: How the server is asked to continue: "continue_final_message" as in vLLM, "prefix"
            marks the message (DeepSeek, under /beta), "plain" sends nothing more.
        settings: Those of `OpenAIBackend`.
    """

    kind = "chat"
    chat = True

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        prefill: Prefill = "continue_final_message",
        **settings: Any,
    ) -> None:
        if prefill not in PREFILLS:
            raise ConfigError(f"prefill is {quote(prefill)}; it may be {', '.join(PREFILLS)}")
        super().__init__(model, base_url, **settings)
        self.prefill = prefill

    def _asked(self, request: Request) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": request.prompt}]
        asked: dict[str, Any] = {"messages": messages}
        if request.answer:
            messages.append({"role": "assistant", "content": request.answer})
            if self.prefill == "prefix":
                messages[-1]["prefix"] = True
            elif self.prefill == "continue_final_message":
                asked["extra_body"] = {
                    "continue_final_message": True,
                    "add_generation_prompt": False,
                }
        return asked | ({"logprobs": True, "top_logprobs": ALTERNATIVES} if self.log_probs else {})

    def _create(self) -> Callable[..., Any]:
        create: Callable[..., Any] = self._client.chat.completions.with_raw_response.create
        return create

    def _text(self, choice: dict[str, Any]) -> object:
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Unusable("a choice has no message")
        return message.get("content")


def _seed(seed: int, first: int) -> int:
    """A seed of 31 bits, which every server accepts; `seed` itself if it fits and `first` is 0."""
    if first == 0 and 0 <= seed < 2**31:
        return seed
    digest = hashlib.blake2b(f"{seed},{first}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def _message(error: Any) -> str:
    """The message of the server about an HTTP status."""
    body = error.body
    if isinstance(body, dict):
        body = next(
            (body[field] for field in ("message", "detail", "error") if body.get(field)), body
        )
    return str(body or error.response.text or error.response.reason_phrase)


__all__ = ["ChatBackend", "CompletionsBackend", "OpenAIBackend", "Prefill"]
