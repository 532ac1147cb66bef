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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from maskdiff.checkpoint import resolve_device
from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.drawing.settings import Draw
from maskdiff.errors import quote
from maskdiff.models.hugging_face import (
    GrowingRows,
    Ids,
    TransformersModel,
    growing_rows_fault,
    load_pretrained,
)
from maskdiff.models.hugging_face_tokens import PromptTemplate
from maskdiff.models.token_table import TokenTable
from maskdiff.stepwise.protocol import BackendError, Candidate, Capabilities, Reply, Request, Spent
from maskdiff.stepwise.writing import Piece, Step, StepStrings, candidate_keys

Group = tuple[int, Ids]  # seed and ids of a request
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
            continues=True, log_probs=True, entropies=True, stop_strings=True, seed=True,
            token_ids=True, chat=self.prompts.chat,
        )  # fmt: skip
        self._kept = _Kept(kept, kept_tokens)
        self.caches = not growing_rows_fault(self.model, padded=False)

    @torch.no_grad()
    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend.next_step`. Requests are evaluated one after another.

        The candidates of a request are one batch.
        """
        # Find what is kept for all requests, before new entries push it out.
        self._kept.expect(len(requests))
        at_once = [Step(request).finish is not None for request in requests]
        ids = [
            () if done else self._request_ids(request)
            for request, done in zip(requests, at_once, strict=True)
        ]
        found = [self._kept.find(r.seed, given) for r, given in zip(requests, ids, strict=True)]
        for request, given, entry in zip(requests, ids, found, strict=True):
            self._kept.release(request.seed, given, entry)
        # Draw candidates.
        replies = []
        for i, (request, done) in enumerate(zip(requests, at_once, strict=True)):
            begun, tokens, calls = time.perf_counter(), self.model.positions, self.model.calls
            if done:  # the overshoot of the step before is a step; no token is drawn for it
                candidates = [Step(request).candidate()] * request.num
            else:
                candidates = self._candidates(request, ids[i], found[i])
            found[i] = None  # frees its memory
            tokens, calls = self.model.positions - tokens, self.model.calls - calls
            spent = Spent(tokens, calls, request.num, time.perf_counter() - begun)
            replies.append(Reply(tuple(candidates), spent))
        return replies

    def forget(self) -> None:
        """See `StepBackend.forget`."""
        self._kept.groups.clear()

    def _request_ids(self, request: Request) -> Ids:
        """The ids of the prompt and the answer so far."""
        if request.partial and request.partial[-1].finish == "end":
            raise BackendError("the model has ended this answer: there is no next step")
        ids = self.prompts.ids(request.prompt) + self._answer_ids(request)
        if not ids:
            raise BackendError("this prompt has no tokens; give one that is not empty")
        room = self.model.room
        if room is not None and len(ids) >= room:
            raise BackendError(
                f"the prompt and the answer so far have {len(ids)} tokens, "
                f"of the model's {room} positions"
            )
        return ids

    def _answer_ids(self, request: Request) -> Ids:
        parts = [candidate.ids or self._cut(candidate.text) for candidate in request.partial]
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

    def _candidates(self, request: Request, ids: Ids, found: _Entry | None) -> list[Candidate]:
        """Draw the candidates of a request after `ids`; `found`: the entry that was kept."""
        # Evaluate the ids, also from an entry of another request of the same call.
        again = self._kept.find(request.seed, ids)
        known = max((e for e in (found, again) if e), key=lambda e: len(e.ids), default=None)
        root = self._evaluate((request.seed, ids), known)
        # Draw candidates until all have ended.
        limit, room = request.stop.max_tokens, self.model.room
        limit = limit if room is None else min(limit, room - len(ids))
        steps = [Step(request, limit) for _ in range(request.num)]
        stream = root.rows.copy([0] * request.num)
        pieces = _pieces(self.table, self.table.text(self._answer_ids(request)), steps)
        strings = _Steps(steps, pieces, root, stream)
        scores = cast(Tensor, root.log_p).expand(request.num, -1)  # (candidates, vocabulary)
        keys = candidate_keys(request).to(scores.device)
        noise = keyed_noise(keys, torch.full_like(keys, len(ids)), scores.shape[1])
        batch = Batch(noise, allowed=~self.model.barred.to(scores.device))
        for _ in decode(stream, scores, strings, batch, Draw(request.temperature)):
            pass
        # Keep what the next step may continue.
        if self.caches and (request.stop.strings or request.stop.max_tokens == 1):
            self._kept.add(root, strings.ended)
        return [step.candidate() for step in steps]

    def _evaluate(self, group: Group, known: _Entry | None) -> _Entry:
        """An entry of the ids of a group with log_p, from one for how they begin."""
        ids = group[1]
        if known is None:
            rows = GrowingRows(self.model, [ids], self.caches)
        elif len(known.ids) == len(ids):
            return replace(known, group=group)
        else:
            rows = known.rows.copy([0])
            rows.append(torch.tensor([ids[len(known.ids) :]]))
        return _Entry(ids, rows, group, rows.log_p())


class _Steps(StepStrings):
    """The candidates of a request; entries are kept of those that a stop string ends."""

    def __init__(
        self, steps: Sequence[Step], piece: Piece, root: _Entry, stream: GrowingRows
    ) -> None:
        super().__init__(steps, piece)
        self.root, self.stream = root, stream
        self.ended: list[_Entry] = []

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`."""
        going = super().write(rows, tokens, scores)
        for at, i in enumerate(rows.tolist()):
            step = self.steps[i]
            if step.finish == "stop" and len(step.ids) > 1:
                ids = (*self.root.ids, *step.ids[:-1])  # the last token has not been evaluated
                self.ended.append(_Entry(ids, self.stream.copy([at]), self.root.group))
        return going


def _pieces(table: TokenTable, before: bytes, steps: Sequence[Step]) -> Piece:
    """The text that a token adds to a step after `before`; incomplete characters are held back."""
    decoders = {id(step): codecs.getincrementaldecoder("utf-8")("replace") for step in steps}
    for decoder in decoders.values():
        decoder.decode(before)

    def piece(step: Step, token: int) -> tuple[str, bool]:
        ends = token in table.ends
        return decoders[id(step)].decode(table.texts[token] or b"", ends), ends

    return piece


@dataclass(frozen=True)
class _Entry:
    """What the model has computed of some ids: one row, and log p (1, vocabulary) after it.

    group: seed and ids of the request that it belongs to. log_p: None if never computed.
    """

    ids: Ids
    rows: GrowingRows
    group: Group
    log_p: Tensor | None = None


class _Kept:
    """Entries of the latest requests. A group has those of a request and of its candidates."""

    def __init__(self, size: int, tokens: int) -> None:
        self.size, self.tokens = size, tokens
        self.counts = (0, 0)  # requests of the last two calls
        self.groups: OrderedDict[Group, dict[Ids, _Entry]] = OrderedDict()

    def expect(self, count: int) -> None:
        """Begin a call of `count` requests.

        Room for two calls lets a cohort find its entries after a call for more of some candidates.
        """
        self.counts = self.counts[1], count

    def find(self, seed: int, ids: Ids) -> _Entry | None:
        """The entry of the longest beginning of `ids`, of the same seed where there are several."""
        entries = [entry for group in self.groups.values() for entry in group.values()]
        fitting = [
            entry
            for entry in entries
            if ids[: len(entry.ids)] == entry.ids
            and (len(entry.ids) < len(ids) or entry.log_p is not None)
        ]
        return max(
            fitting, key=lambda entry: (len(entry.ids), entry.group[0] == seed), default=None
        )

    def release(self, seed: int, ids: Ids, entry: _Entry | None) -> None:
        """Drop the group of an entry from which `ids` continue one candidate."""
        if entry is None or entry.ids == ids:
            return
        if entry.group[0] == seed or entry.ids != entry.group[1]:  # seeds may share a prompt
            self.groups.pop(entry.group, None)

    def add(self, root: _Entry, ended: list[_Entry]) -> None:
        """Add the entries of a request; drop the oldest groups beyond the limits."""
        group = self.groups.pop(root.group, {root.ids: root})
        self.groups[root.group] = group | {entry.ids: entry for entry in ended}
        most = max(self.size, *self.counts) if self.size else 0
        while len(self.groups) > most or self.weight() > self.tokens:
            self.groups.popitem(last=False)

    def weight(self) -> int:
        """Rows x tokens."""
        return sum(len(ids) for group in self.groups.values() for ids in group)
