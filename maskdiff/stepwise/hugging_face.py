"""Steps from a causal language model of transformers, which continues the ids of an answer.

The ids of an answer follow the prompt as they were drawn, never as text that is tokenised again.
Only new tokens are evaluated.

Token p (counted from the first of the prompt) of candidate i is the argmax of log p + Gumbel noise
that is a function of (seed, i, p). Other candidates, earlier requests and the ends of steps do not
change it, up to the rounding of batches.
"""

from __future__ import annotations

import codecs
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskdiff.checkpoint import resolve_device
from maskdiff.drawing.random import bits, token_noise
from maskdiff.errors import quote
from maskdiff.models.hugging_face import (
    GrowingRows,
    Ids,
    TransformersModel,
    as_float64,
    growing_rows_test,
    load_pretrained,
)
from maskdiff.models.hugging_face_tokens import PromptTemplate
from maskdiff.models.token_table import TokenTable
from maskdiff.stepwise.protocol import (
    BackendError,
    Candidate,
    Capabilities,
    Finish,
    Reply,
    Request,
    Spent,
    Stop,
    bounded,
)

KEPT, KEPT_TOKENS = 8, 65_536  # what is kept by default: requests, and rows x tokens of them all


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = "auto",
    **settings: Any,
) -> HuggingFaceBackend:
    """Return the backend of a folder or a name; see `load_pretrained`.

    Args:
        name: a folder that `save_pretrained` wrote, or a name that `from_pretrained` knows.
        device: see `resolve_device`.
        dtype: of the weights; "auto" is the one that they were saved in.
        settings: see `HuggingFaceBackend`.

    Raises:
        ConfigError: the package transformers or the device is missing.
        CheckpointError: the files cannot be read.
    """
    return HuggingFaceBackend(*load_pretrained(name, dtype, resolve_device(device)), **settings)


class HuggingFaceBackend:
    """Implements `StepBackend` with a `PreTrainedModel` and its fast tokenizer.

    Special tokens that do not end an answer are never drawn; log-probabilities, entropies and gaps
    are those of the model's own distribution, which includes them. A candidate without ids, from
    another backend, is tokenised alone. A character whose bytes two steps share belongs to the
    second. The answer of a SentencePiece tokenizer may begin with a space.

    Keys and values are kept of each request and of each candidate that a stop string ended, until
    one of the candidates is continued; nothing is kept of whole answers (no stop strings, more than
    one token). To continue several candidates, ask for them in one call; what is no longer kept is
    evaluated again.

    Args:
        model: a `PreTrainedModel`; it is put into eval mode.
        tokenizer: its fast tokenizer.
        name: of the model, see `TransformersModel`.
        chat: whether to use the chat template, if the tokenizer has one. Otherwise prompt and
            answer are one text.
        template: variables of the template besides the messages (`{"enable_thinking": False}`).
        kept: for how many requests keys and values are kept, 0 for none; those of the last two
            calls where they are more.
        kept_tokens: most rows x tokens that are kept; beyond them the oldest requests are dropped.

    Raises:
        ConfigError: the tokenizer's tables are not supported, or the chat template does not show
            where an answer begins.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str | None = None,
        chat: bool = True,
        template: Mapping[str, Any] | None = None,
        kept: int = KEPT,
        kept_tokens: int = KEPT_TOKENS,
    ) -> None:
        self.model = TransformersModel(model, tokenizer, name)
        self.name, self.table = self.model.name, self.model.tokens.table
        self.prompts = PromptTemplate(tokenizer, self.name, chat, template)
        self.capabilities = Capabilities(
            continues=True,
            log_probs=True,
            entropies=True,
            stop_strings=True,
            seed=True,
            token_ids=True,
            chat=self.prompts.chat,
        )
        self._kept = _Kept(kept, kept_tokens)
        self.caches = not growing_rows_test(self.model, padded=False)

    @torch.no_grad()
    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend.next_step`. Requests are evaluated one after another, the candidates of each as one batch."""
        self._kept.expect(len(requests))
        at_once = [_said_before(request) for request in requests]
        ids = [
            () if done else self._request_ids(request)
            for request, done in zip(requests, at_once, strict=True)
        ]
        found = [
            self._kept.find(request.seed, known)
            for request, known in zip(requests, ids, strict=True)
        ]
        for request, known, place in zip(requests, ids, found, strict=True):
            self._kept.release(request.seed, known, place)
        replies = []
        for i, (request, done) in enumerate(zip(requests, at_once, strict=True)):
            begun, tokens, calls = time.perf_counter(), self.model.positions, self.model.calls
            candidates = (
                [done] * request.num if done else self._candidates(request, ids[i], found[i])
            )
            found[i] = None  # lets go of its memory
            seconds = time.perf_counter() - begun
            spent = Spent(
                self.model.positions - tokens, self.model.calls - calls, request.num, seconds
            )
            replies.append(Reply(tuple(candidates), spent))
        return replies

    def forget(self) -> None:
        """See `StepBackend.forget`."""
        self._kept.groups.clear()

    def _request_ids(self, request: Request) -> Ids:
        """Of the prompt and the answer so far. Raises BackendError where no token fits behind them."""
        if request.partial and request.partial[-1].finish == "end":
            raise BackendError("the model has ended this answer: there is no next step")
        ids = self.prompts.ids(request.prompt) + self._answer_ids(request)
        if not ids:
            raise BackendError("this prompt has no tokens; give one that is not empty")
        if self.model.room is not None and len(ids) >= self.model.room:
            raise BackendError(
                f"the prompt and the answer so far have {len(ids)} tokens, of the model's {self.model.room} positions"
            )
        return ids

    def _answer_ids(self, request: Request) -> Ids:
        parts = [candidate.ids or self._cut(candidate.said) for candidate in request.partial]
        return tuple(token for part in parts for token in part)

    def _cut(self, text: str) -> Ids:
        """How the tokenizer cuts a step of another backend."""
        tokens = self.model.tokens
        [ids] = tokens.encode([text.encode(errors="replace")])
        if ids is None or any(name in text for name in tokens.special_names):
            raise BackendError(
                f"the tokenizer of {quote(self.name)} has no tokens that stand for the step "
                f"{quote(text)}"
            )
        return tuple(ids)

    def _candidates(self, request: Request, ids: Ids, place: _Place | None) -> list[Candidate]:
        """Draw the candidates of a request after `ids`; `place`: the kept entry, if one was found."""
        # Find the logits after the ids, also in what another request of the same call left.
        again = self._kept.find(request.seed, ids)
        known = max(
            (p.entry for p in (place, again) if p), key=lambda entry: len(entry.ids), default=None
        )
        root, limit, room = self._evaluate(ids, known), request.stop.max_tokens, self.model.room
        limit = limit if room is None else min(limit, room - len(ids))
        # Draw a token of each candidate under way, until all have ended.
        decoder = self.table.text(self._answer_ids(request))
        rows = [_Row(request.over, limit, _decoder(decoder)) for _ in range(request.num)]
        alive, numbers = rows, torch.arange(request.first, request.first + request.num)
        cache, ended = root.rows.copy([0] * request.num), list[_Entry]()
        assert root.logits is not None
        logits = root.logits.expand(request.num, -1)  # (candidates, vocabulary)
        while alive:
            drawn = self._draw(logits, request, numbers, len(ids) + len(alive[0].ids))
            for row, values in zip(alive, drawn, strict=True):
                row.take(*values, self.table, request.stop)
            going = [i for i, row in enumerate(alive) if row.finish is None]
            for i, row in enumerate(alive):
                if row.finish == "stop" and len(row.ids) > 1 and self._kept.size:
                    ended.append(_Entry((*ids, *row.ids[:-1]), cache.copy([i])))
            if 0 < len(going) < len(alive):
                cache.select(going)
            alive, numbers = [alive[i] for i in going], numbers[going]
            if alive:
                cache.append(torch.tensor([row.ids[-1:] for row in alive]))
                logits = cache.logits()[:, -1]
        # Keep what the next step may continue.
        if self.caches and (request.stop.strings or request.stop.max_tokens == 1):
            self._kept.add(request.seed, root, ended)
        return [row.candidate() for row in rows]

    def _evaluate(self, ids: Ids, known: _Entry | None) -> _Entry:
        """The logits after `ids`, from an entry for how they begin."""
        if known is not None and len(known.ids) == len(ids):
            return known
        if known is None:
            rows = GrowingRows(self.model, [ids], self.caches)
        else:
            rows = known.rows.copy([0])
            rows.append(torch.tensor([ids[len(known.ids) :]]))
        return _Entry(ids, rows, rows.logits()[:, -1])

    def _draw(
        self, logits: Tensor, request: Request, numbers: Tensor, position: int
    ) -> list[tuple[int, float, float, float]]:
        """From (rows, vocabulary): a token of each row, its log-probability, entropy and gap."""
        log_p = as_float64(logits).log_softmax(-1)
        p = log_p.exp()
        entropies, best = torch.special.entr(p).sum(-1), p.topk(2).values
        if not entropies.isfinite().all():
            raise BackendError(
                f"{quote(self.name)} gives NaN at position {position}; load it with a wider dtype"
            )
        scores = log_p.masked_fill(self.model.barred.to(log_p.device), -torch.inf)
        if request.temperature > 0:
            seed = (request.seed + (1 << 63)) % (1 << 64) - (1 << 63)  # as an int64
            keys = bits(torch.tensor([seed]), numbers).to(log_p.device)
            visits = torch.zeros_like(keys)[:, None]
            places = torch.tensor([position], device=log_p.device)
            noise = token_noise(keys, visits, 0, places, log_p.shape[-1])[:, 0]
            scores = scores / request.temperature + noise
        tokens = scores.argmax(-1)
        chosen = log_p.gather(1, tokens[:, None])[:, 0]
        columns = (tokens, chosen, entropies, best[:, 0] - best[:, 1])
        return list(zip(*(column.tolist() for column in columns), strict=True))


@dataclass
class _Row:
    """A candidate while it is drawn."""

    carried: str
    limit: int
    decoder: codecs.IncrementalDecoder
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    text: str = ""
    since: int = 0  # characters of carried + text in which no stop string ends that counts
    split: tuple[str, str] | None = None  # step and overshoot
    finish: Finish | None = None

    def take(
        self, token: int, log_prob: float, entropy: float, gap: float, table: TokenTable, stop: Stop
    ) -> None:
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.entropies.append(entropy)
        self.gaps.append(gap)
        ended = token in table.ends
        self.text += self.decoder.decode(table.texts[token] or b"", ended)
        if ended:
            self.finish = "end"
            return
        if len(self.ids) >= stop.min_tokens:
            self.split = bounded(self.text, self.since, stop, self.carried)
        self.since = len(self.carried) + len(self.text)
        if self.split:
            self.finish = "stop"
        elif len(self.ids) == self.limit:
            self.finish = "length"

    def candidate(self) -> Candidate:
        step, over = self.split or (self.carried + self.text, "")
        numbers = (tuple(self.log_probs), tuple(self.entropies), tuple(self.gaps))
        assert self.finish is not None
        return Candidate(
            step, self.text, self.finish, len(self.ids), over, tuple(self.ids), *numbers
        )


def _said_before(request: Request) -> Candidate | None:
    """The step that what was carried over already ends; no token is drawn for it."""
    split = bounded("", 0, request.stop, request.over) if request.stop.min_tokens == 1 else None
    return Candidate(split[0], "", "stop", 0, split[1], (), (), (), ()) if split else None


def _decoder(data: bytes) -> codecs.IncrementalDecoder:
    """One that has read `data`, and holds back the bytes of a character that is incomplete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder


@dataclass(frozen=True)
class _Entry:
    """What the model has computed of some ids."""

    ids: Ids
    rows: GrowingRows  # one row, the ids
    logits: Tensor | None = None  # (1, vocabulary) after the last id, where they were computed


@dataclass(frozen=True)
class _Place:
    """An entry, and the group that it was found in."""

    key: tuple[int, Ids]
    entry: _Entry


class _Kept:
    """What was computed for the latest requests: a group each, of what was given and of the candidates behind it."""

    def __init__(self, size: int, tokens: int) -> None:
        self.size, self.tokens = size, tokens
        self.asked = (0, 0)  # requests of the last two calls
        self.groups: OrderedDict[tuple[int, Ids], dict[Ids, _Entry]] = (
            OrderedDict()
        )  # by seed and given ids

    def expect(self, count: int) -> None:
        """A call of `count` requests begins; a cohort finds what it left, also after a call for more candidates of some."""
        self.asked = self.asked[1], count

    def find(self, seed: int, ids: Ids) -> _Place | None:
        """The entry that covers most of how `ids` begin, of the same seed where there are several."""
        best: _Place | None = None
        rank = (0, False)
        for key, group in self.groups.items():
            for known, entry in group.items():
                size, same = len(known), key[0] == seed
                fits = size < len(ids) or (size == len(ids) and entry.logits is not None)
                if fits and (size, same) > rank and ids[:size] == known:
                    best, rank = _Place(key, entry), (size, same)
        return best

    def release(self, seed: int, ids: Ids, place: _Place | None) -> None:
        """Drop a group of which one candidate is gone on with."""
        if place is None or place.entry.ids == ids:
            return
        if (
            place.key[0] == seed or place.entry.ids != place.key[1]
        ):  # a prompt may be another seed's too
            self.groups.pop(place.key, None)

    def add(self, seed: int, root: _Entry, behind: list[_Entry]) -> None:
        key = seed, root.ids
        group = self.groups.pop(key, {root.ids: root})
        self.groups[key] = group | {entry.ids: entry for entry in behind}
        most = max(self.size, *self.asked) if self.size else 0
        while len(self.groups) > most or self.weight() > self.tokens:
            self.groups.popitem(last=False)

    def weight(self) -> int:
        """Rows x tokens."""
        return sum(len(ids) for group in self.groups.values() for ids in group)
