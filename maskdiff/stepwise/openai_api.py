"""Backends over OpenAI-compatible HTTP: a model that runs elsewhere proposes the next step.

For: `CompletionsBackend` (`/completions`, prompt and answer as one text) and `ChatBackend` (`/chat/completions`, the answer so
far as a message of the assistant that the server goes on with), both through the official package `openai`. Not for: streams,
tools, reading what came back (`maskdiff.stepwise.openai_answers`), or telling whether a server really goes on with a partial
answer (`maskdiff.stepwise.probe` asks it). Easy to get wrong: a server cuts the stop string off and reports "stop" for that and
for its own end alike. vLLM's `stop_reason` and SGLang's `matched_stop` tell them apart; where neither is there, `ended` must;
a step that says nothing is the end. And the answer travels as text, exactly as it was said: a chat template may still trim
it on the server, and its tokens there need not be those that were drawn.

Log-probabilities are the server's own. vLLM's are at temperature 1 unless it was told otherwise; the official API does not
report those of a stop string. Nothing is ever filled in for what a server leaves out.
"""

from __future__ import annotations

import hashlib
import importlib
import ipaddress
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

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

KEY = "OPENAI_API_KEY"
PREFILLS = ("continue_final_message", "prefix", "plain")
MAX_STOPS = 4  # of the official API
ALTERNATIVES = (
    5  # likeliest tokens asked for at every place; the official API gives no more to `/completions`
)
SAID = 200  # characters of a server's own message that an error quotes


class OpenAIBackend(ABC):
    """What both kinds of requests share: the client, the pool of threads, and how an answer becomes candidates.

    base_url: such as http://127.0.0.1:8000/v1. timeout: seconds without a word from the server, of each try. retries: tries
    after the first, for refused connections, timeouts, HTTP 408, 409, 429 and 5xx. concurrency: requests at a time. log_probs:
    whether to ask for them; a server that then leaves them out is an error. ended: whether a step's text, without a stop
    string, is the last of an answer, for servers that do not say why they stopped (default: never).

    The key is read from OPENAI_API_KEY, and only there. A server on this machine, or one behind plain http, needs none; over
    plain http a key is sent to this machine only, and no proxy of the environment stands before it. `unmetered` counts requests
    answered without a usable `usage`: their `Spent.forward_tokens` holds only drawn tokens whose log-probabilities came, so
    the sum is too low as soon as it is above 0. The `entropies` of candidates are lower bounds (see
    `openai_answers.entropy`), for which reason `capabilities` does not promise them.

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
                f"retries is {retries} and concurrency {concurrency}; at least 0 retries and 1 request at a time are needed"
            )
        self.model, self.log_probs = model, log_probs
        self.name = f"{self.kind}:{model}"
        self.unmetered = 0
        self.where, local = _address(base_url)
        self._timeout, self._retries, self._concurrency = timeout, retries, concurrency
        self._ended = ended or (lambda text: False)
        self._key = _key(self.where, local)
        self._openai = _openai()
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
        """Answer the requests in their order, `concurrency` of them at a time, each by one HTTP request of `num` choices.

        A server that gives fewer is asked for the rest. With a seed, candidate i is the same whatever else is asked only as far
        as the server sees to that. Raises ConfigError before anything is sent, and the first BackendError after all have ended.
        An interrupt ends this at once, and closes the connections.
        """
        payloads = [
            None if split_step("", 0, request.stop, request.overshoot) else self._payload(request)
            for request in requests
        ]
        if not requests:
            return []
        futures = self._start(list(zip(requests, payloads)))
        try:
            wait(futures)
        except BaseException:
            for future in futures:
                future.cancel()
            self.close()
            raise
        return [self._reply(request, future.result()) for request, future in zip(requests, futures)]

    def _start(
        self, asked: list[tuple[Request, dict[str, Any] | None]]
    ) -> list[Future[list[Part]]]:
        """What `_collect` will return of each, `concurrency` of them at a time.

        No ThreadPoolExecutor: the interpreter waits for its threads, and closing a connection wakes none that listens to it.
        """
        futures: list[Future[list[Part]]] = [Future() for _ in asked]
        waiting: SimpleQueue[tuple[Future[list[Part]], Request, dict[str, Any] | None]] = (
            SimpleQueue()
        )
        for future, (request, payload) in zip(futures, asked):
            waiting.put((future, request, payload))

        def work() -> None:
            while True:
                try:
                    future, request, payload = waiting.get_nowait()
                except Empty:
                    return
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(self._collect(request, payload))
                    except BaseException as error:
                        future.set_exception(error)

        for _ in range(min(self._concurrency, len(asked))):
            threading.Thread(target=work, name="maskdiff-ask", daemon=True).start()
        return futures

    def forget(self) -> None:  # noqa: B027
        """Nothing is kept of earlier requests here; a server's own cache is its own affair."""

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
        """What only this kind of request has in it."""

    @abstractmethod
    def _create(self) -> Callable[..., Any]:
        """The client's method that sends it."""

    @abstractmethod
    def _text(self, choice: dict[str, Any]) -> object:
        """What a choice says."""

    def _payload(self, request: Request) -> dict[str, Any]:
        """The body of the HTTP request. Raises ConfigError for what cannot be asked."""
        stop = request.stop
        if stop.min_tokens > 1:
            raise ConfigError(
                f"min_step_tokens is {stop.min_tokens}: this backend cannot hold stop strings back; give 1"
            )
        if len(stop.strings) > MAX_STOPS:
            raise ConfigError(
                f"{len(stop.strings)} stop strings are given and the API takes at most {MAX_STOPS}"
            )
        try:
            (request.prompt + request.answer).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"character {error.start} of prompt and answer is half a surrogate pair, which no request can carry"
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
        """The answers that together hold all choices: one, unless the server gives fewer than it is asked for."""
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
        """The JSON that came back, and how many seconds that took, retries included."""
        api, started = self._openai, time.perf_counter()
        try:
            # Raw, because the client's own types are lenient: what a server leaves out should be seen here.
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
        """The candidates that the answers hold, and their cost."""
        carried = split_step("", 0, request.stop, request.overshoot)
        if carried:  # what was carried over is a whole step: nothing was asked
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
        """The candidates that one answer holds, and its cost."""
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

    def _said(self, choice: dict[str, Any]) -> str:
        text = self._text(choice)
        if text is None:  # chat servers write null for nothing
            return ""
        if not isinstance(text, str):
            raise Unusable("a choice says what is no text", text)
        return text

    def _drawn(self, choice: dict[str, Any]) -> list[DrawnToken] | None:
        """The tokens of a choice; None where they were not asked for, and for one of which a server tells none.

        That is one without text: of what was drawn there, a stop string or the end, the official API tells nothing. An empty
        tuple would pass for a certain step; only an end that says nothing is one, which `_candidate` sees to.
        """
        tokens = read_drawn(choice.get("logprobs"), self._said(choice)) if self.log_probs else []
        return tokens or None

    def _candidate(
        self, request: Request, choice: dict[str, Any], drawn: list[DrawnToken] | None, tokens: int
    ) -> Candidate:
        said, finish = self._ending(request, choice, self._said(choice))
        step, over = request.overshoot + said, ""
        # A server cuts exactly; only one that heeds no stop strings, or has not seen what was carried over, leaves an excess.
        if cut := split_step(said, 0, request.stop, request.overshoot):
            (step, over), finish = cut, "stop"
        log_probs = entropies = gaps = None
        if drawn is not None:
            log_probs = tuple(token.log_prob for token in drawn)
            if all(len(token.alternatives) > 1 for token in drawn):
                entropies = tuple(entropy_bound(token.alternatives) for token in drawn)
                gaps = tuple(probability_gap(token.alternatives) for token in drawn)
        elif (
            self.log_probs and finish == "end" and not step
        ):  # nothing is said that could be uncertain
            log_probs = entropies = gaps = ()
        return Candidate(
            step, said, finish, tokens, over, log_probs=log_probs, entropies=entropies, gaps=gaps
        )

    def _ending(self, request: Request, choice: dict[str, Any], text: str) -> tuple[str, Finish]:
        """What was said, with the stop string that the server cut off, and which end it was."""
        reason, strings = choice.get("finish_reason"), request.stop.strings
        if reason not in ("stop", "length"):
            raise Unusable("a choice ended for a reason other than 'stop' and 'length'", reason)
        if reason == "length":
            return text, "length"
        if request.stop.find(text) is not None:
            return text, "stop"  # it was not cut off
        told = [choice[field] for field in ("stop_reason", "matched_stop") if field in choice]
        whole = request.overshoot + text
        # Without a word it is the end: after a true end that was taken for a stop string, empty texts would come for ever.
        if not told and strings and whole and not self._ended(whole):
            told = [strings[0]]
        # None is the end-of-string token, a number another token that ends the answer.
        return (text + told[0], "stop") if told and told[0] in strings else (text, "end")

    def _status_error(self, error: Any) -> BackendError:
        """The error of an HTTP status that is none of success."""
        status, said = error.status_code, self._quote(_message(error))
        if status in (400, 422):
            return Rejected(
                f"{self.name} at {self.where} refused the request (HTTP {status}): {said}"
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
        return self._error(f"{what} (HTTP {status}): {said}")

    def _unusable(self, problem: Unusable) -> BackendError:
        given = f": {self._quote(str(problem.given))}" if problem.given != "" else ""
        return self._error(f"{problem}{given}")

    def _error(self, problem: str) -> BackendError:
        return BackendError(f"{self.name} at {self.where}: {problem}")

    def _tries(self) -> str:
        return f" in {self._retries + 1} tries" if self._retries else ""

    def _quote(self, said: str) -> str:
        """What a server or the network said, shortened, and without the key, which a server may echo."""
        return quote(said.replace(self._key, "***") if self._key else said, SAID)


class CompletionsBackend(OpenAIBackend):
    """`/completions`: prompt and answer are sent as one text, so that a partial answer is continued by construction.

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
    """`/chat/completions`: the prompt as the user's message, the answer so far as the beginning of the assistant's.

    prefill: how the server is told to go on with that beginning. "continue_final_message" is vLLM's way; "prefix"
    marks the message (DeepSeek's, under /beta); "plain" sends nothing more, for servers that go on unasked. A server that does
    not understand begins a new answer, which no reply tells: `capabilities.continues` is None until it is probed.
    The cap on tokens is sent as `max_tokens`: newer models of OpenAI itself refuse that and want `max_completion_tokens`, which
    is not sent here. settings: those of `OpenAIBackend`.
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


def _openai() -> Any:
    """The package, which is an extra."""
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ConfigError(
            'backends over HTTP need the package openai: pip install "maskdiff[openai]"'
        ) from error


def _address(base_url: str) -> tuple[str, bool]:
    """`base_url` as messages may show it, without credentials and query, and whether it is on this machine."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, parts, port = None, urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:  # not quoted: it may hold a password
        raise ConfigError(
            "base_url is no address of a server; give one such as http://127.0.0.1:8000/v1"
        )
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path}", local


def _key(where: str, local: bool) -> str:
    """The API key of the environment; empty where none is set and none is needed."""
    key = os.environ.get(KEY, "").strip()
    plain = where.startswith("http:")
    if key and plain and not local:
        raise ConfigError(
            f"{where} would be sent the key in {KEY} unencrypted; use https, or unset the key"
        )
    if not key and not plain and not local:
        raise ConfigError(
            f"{where} is not on this machine and needs a key: set the environment variable {KEY}"
        )
    if not all("!" <= letter <= "~" and letter not in "\"'\\" for letter in key):
        raise ConfigError(
            f"{KEY} holds characters that no key has, such as spaces, quotes or accents; set it anew"
        )
    return key


def _seed(seed: int, first: int) -> int:
    """A seed of 31 bits, which every server takes: `seed` itself where it fits and the first candidate is number 0."""
    if first == 0 and 0 <= seed < 2**31:
        return seed
    return (
        int.from_bytes(hashlib.blake2b(f"{seed},{first}".encode(), digest_size=4).digest(), "big")
        >> 1
    )


def _message(error: Any) -> str:
    """What the server said about an HTTP status, wherever it put it."""
    body = error.body
    if isinstance(body, dict):
        body = next(
            (body[field] for field in ("message", "detail", "error") if body.get(field)), body
        )
    return str(body or error.response.text or error.response.reason_phrase)


__all__ = ["ChatBackend", "CompletionsBackend", "OpenAIBackend", "Prefill"]
