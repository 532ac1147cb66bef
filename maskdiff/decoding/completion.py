"""Strings of a conditioned model: q until the prefix is covered, the model itself from there on.

Temperature and truncation act on q, not on p: the prefix was typed, not drawn at that temperature,
so histories are weighed by the model as it is. Penalties act on the model's logits, so they begin
with the first token that the prefix does not ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskdiff.decoding.condition import Conditioned
from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.decoding.shared_tree import Branch
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.random import next_token_noise
from maskdiff.drawing.settings import Draw
from maskdiff.drawing.stopping import (
    EOS,
    LENGTH,
    NEVER,
    REPETITION,
    STOP,
    TIMEOUT,
    Stopping,
    StopText,
)
from maskdiff.models.continuation import ROOT, HistoryTree
from maskdiff.utils.deadline import TimedOut


@dataclass(frozen=True)
class Completion:
    """A string that was drawn.

    Attributes:
        data: All its bytes, beginning with the prefix.
        tokens: Ids, the one that ends it included.
        log_p: Log-probability of the tokens and of the latent state under the model, before
            conditioning, in nats.
        reason: Why it ended: `eos`, `stop` (a stop text or token: `data` ends before it, `tokens`
            do not), `length` (cut at a limit), `repetition` or `timeout`.
        calls: Forward passes that it took part in.
    """

    data: bytes
    tokens: tuple[int, ...]
    log_p: float
    reason: str
    calls: int

    @property
    def ended(self) -> bool:
        """Whether the model itself ended it."""
        return self.reason == EOS


@dataclass
class _String:
    """One string while it is written."""

    given: Conditioned
    latent: int  # number of the latent state
    log_p: float
    calls: int
    search: StopText
    node: int | None  # of the histories, until the prefix is covered
    id: int  # node of the model's tree
    row: Tensor | None = None  # then: (vocab,) log p(next token)
    tokens: list[int] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)  # of the tokens
    sure: bytearray = field(default_factory=bytearray)  # after the prefix, never revised
    free: int = 0  # tokens that begin after the prefix
    reason: str = ""  # why it ended

    @property
    def prefix(self) -> bytes:
        """What it begins with."""
        return self.given.goal.prefix

    @property
    def log_next(self) -> Tensor:
        """(vocab,) the model's log p(next token)."""
        if self.node is not None:
            return self.given.log_next[self.node]
        assert self.row is not None
        return self.row


def _offset(conditioned: Conditioned) -> int:
    """The first node of a prefix in the tree."""
    return conditioned.tree.offset if isinstance(conditioned.tree, Branch) else 0


class Decoding:
    """A batch of strings of a conditioned model, whose tree it uses; one batch at a time.

    Each string depends on its own key alone. Strings that begin differently are conditioned one by
    one on a `SharedTree`, and given in the order of their keys.

    Args:
        conditioned: The conditioned model, or one for each string.
        keys: (batch,) made by `new_keys`.
        draw: Temperature, truncation and penalties.
        stopping: What ends a string.

    Raises:
        ConfigError: For a draw with a constraint or another alphabet.
    """

    def __init__(
        self,
        conditioned: Conditioned | Sequence[Conditioned],
        keys: Tensor,
        draw: Draw | None = None,
        stopping: Stopping = NEVER,
    ) -> None:
        given = (
            [conditioned] * len(keys) if isinstance(conditioned, Conditioned) else list(conditioned)
        )
        self.draw, self.stopping, keys = draw or Draw(), stopping, keys.cpu()
        self.draw.refuse("Decoding", "constraint", "symbols")
        self.model, tree = given[0].model, given[0].tree
        self.tree: HistoryTree = tree.base if isinstance(tree, Branch) else tree
        self.size = max(_offset(one) + len(one.histories) for one in given)  # nodes of the tree
        self.tree.forget(self.size)  # what was drawn before this batch
        self.strings = self._begin(given, keys)
        self.rows = torch.tensor([i for i, s in enumerate(self.strings) if not s.reason])
        self.keys = keys[self.rows] if len(self.rows) else keys[:0]
        penalise = self.draw.penalties.penalise
        self.history: TokenHistory | None = None
        if penalise or stopping.period:
            size = len(self.model.table) if penalise else 0
            self.history = TokenHistory.nothing(len(self.rows), size)
        self._under_way = [string for string in self.strings if not string.reason]
        fresh = [string for string in self._under_way if string.node is None]
        self._free_scores = self._extend(fresh, [string.latent for string in fresh])

    def _begin(self, given: Sequence[Conditioned], keys: Tensor) -> list[_String]:
        """All strings with their latent states, drawn like tokens, but without top-k and min-p."""
        latent_states, strings = self.model.latent_states, []
        log_q = torch.stack([one.log_root for one in given])
        noise = next_token_noise(keys, torch.zeros_like(keys), log_q.shape[1])
        chosen = Draw(self.draw.temperature, self.draw.top_p).tokens(log_q, noise)
        for one, b in zip(given, chosen.tolist(), strict=True):
            root = one.histories.child.get((ROOT, b))
            search, log_p = StopText(self.stopping.texts), float(latent_states.log_prior[b])
            node = ROOT if root is None else root + _offset(one)
            string = _String(one, b, log_p, one.summary.calls, search, root, node)
            if latent_states.limits[b] == 0:
                string.reason = EOS if latent_states.closed else LENGTH
            strings.append(string)
        return strings

    # ----------------------------------------------------------- the model, as a `CausalStream`

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`; no model is asked while a string is inside its histories."""
        fresh, tokens = [], []
        for string, own in zip(self._under_way, token.tolist(), strict=True):
            child = None
            if string.node is not None:
                child = string.given.histories.child.get((string.node, own))
            string.node = child
            if child is None:
                fresh.append(string)
                tokens.append(own)
            else:
                string.id = child + _offset(string.given)
        self._free_scores = self._extend(fresh, tokens)
        return self._scores()

    def select(self, rows: Tensor) -> Decoding:
        """See `CausalStream.select`."""
        self._under_way = [self._under_way[row] for row in rows.tolist()]
        return self

    def _extend(self, strings: list[_String], tokens: list[int]) -> Tensor:
        """(strings, vocab) the model's logits after one new node of each string."""
        if not strings:
            return torch.empty(0, len(self.model.table), dtype=torch.float64)
        parents = torch.tensor([string.id for string in strings])
        log_next = self.tree.extend(parents, torch.tensor(tokens)).double().cpu()
        for k, string in enumerate(strings):
            string.id, string.row = self.size + k, log_next[k]
            string.calls += 1
        self.size += len(strings)
        norm = getattr(self.tree, "norm", None)
        return log_next if norm is None else log_next + norm.to(log_next)[:, None]

    def _scores(self) -> Tensor:
        """(rows, vocab) log q of strings inside their histories, logits of the others."""
        strings = self._under_way
        if len(self._free_scores) == len(strings):
            return self._free_scores
        scores = torch.empty(len(strings), len(self.model.table), dtype=torch.float64)
        inside: dict[int, dict[int, list[int]]] = {}  # rows by what they are given and by node
        for k, string in enumerate(strings):
            if string.node is not None:
                nodes = inside.setdefault(id(string.given), {})
                nodes.setdefault(string.node, []).append(k)
        for nodes in inside.values():
            given = strings[next(iter(nodes.values()))[0]].given
            for rows, log_q in zip(nodes.values(), given.log_q(list(nodes)), strict=True):
                scores[rows] = log_q
        scores[[k for k, string in enumerate(strings) if string.node is None]] = self._free_scores
        return scores

    # ------------------------------------------------------------ the strings, as `GrowingStrings`

    @property
    def free(self) -> Tensor | None:
        """See `GrowingStrings.free`: penalties apply once the prefix is covered."""
        return torch.tensor([string.node is None for string in self._under_way])

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`."""
        strings, ids = self._under_way, tokens.tolist()
        drawn = [len(string.text) >= len(string.prefix) for string in strings]
        for string, token in zip(strings, ids, strict=True):
            self._write(string, token)
        if self.history is not None:
            self._record(self.history, ids, torch.tensor(drawn))
        return torch.tensor([not string.reason for string in strings])

    def _write(self, string: _String, token: int) -> None:
        """Append a token, and end the string if anything ends it."""
        string.log_p += float(string.log_next[token])
        string.tokens.append(token)
        if token in self.model.table.ends:
            self._end(string, EOS)
            return
        before, prefix = len(string.text), len(string.prefix)
        string.text += self.model.table.texts[token] or b""
        string.free += before >= prefix
        if token in self.stopping.tokens and before >= prefix:
            del string.text[before:]
            string.sure += string.search.close()
            string.reason = STOP
            return
        string.sure += string.search.feed(bytes(string.text[max(before, prefix) :]))
        latent_states, size = self.model.latent_states, len(string.tokens)
        if string.search.stopped:
            string.reason = STOP
        elif size >= latent_states.limits[string.latent]:
            self._end(string, EOS if latent_states.closed else LENGTH)
        elif 0 < self.stopping.max_tokens <= size and len(string.text) >= prefix:
            self._end(string, LENGTH)

    def _end(self, string: _String, reason: str) -> None:
        """End a string, unless a stop text that had to wait ends it."""
        string.sure += string.search.close()
        string.reason = STOP if string.search.stopped else reason

    def _record(self, history: TokenHistory, tokens: list[int], drawn: Tensor) -> None:
        """Extend the history of the strings under way, and end strings that loop."""
        strings, stopping = self._under_way, self.stopping
        special = torch.tensor([self.model.table.texts[token] is None for token in tokens])
        counted = ~special & (drawn | (not self.draw.penalties.config.exempt_prompt))
        history.write(torch.tensor(tokens), counted, drawn)
        if not stopping.period:
            return
        own = torch.tensor([string.free for string in strings])
        loops = history.looping(stopping.period, stopping.repeats, own)
        for string, looping in zip(strings, loops.tolist(), strict=True):
            followed = string.reason == EOS and self._behind(string)
            if looping and string.reason != STOP and not followed:  # else the loop is not the end
                self._end(string, REPETITION)

    # ------------------------------------------------------------------------------ the results

    def _behind(self, string: _String) -> bytes:
        """What stands behind the last token of a string that has ended by itself."""
        latent_states = self.model.latent_states
        return latent_states.tail(string.latent) + latent_states.suffix

    def data(self, i: int) -> bytes:
        """The bytes of a string that are final; with what follows its last token once it ended."""
        string = self.strings[i]
        text = bytes(string.text[: len(string.prefix)] + string.sure)
        return text + self._behind(string) if string.reason == EOS else text

    def result(self, i: int) -> Completion:
        """A string that has ended."""
        string = self.strings[i]
        tokens = tuple(string.tokens)
        return Completion(self.data(i), tokens, string.log_p, string.reason, string.calls)

    def run(self, progress: Callable[[int, bytes], None] | None = None) -> list[Completion]:
        """Write all strings until they end, or until the deadline.

        Args:
            progress: Called with the number of a string and its new bytes, first once it covers
                the prefix, then whenever it grows.
        """
        emitted = [0] * len(self.strings)

        def emit() -> None:
            for i in range(len(self.strings)) if progress else ():
                data = self.data(i)
                if len(data) > emitted[i] and len(data) >= len(self.strings[i].prefix):
                    progress(i, data[emitted[i] :])  # type: ignore[misc]
                    emitted[i] = len(data)

        if len(self.rows):
            first = torch.ones_like(self.keys)
            batch = Batch(keyed_noise(self.keys, first, len(self.model.table)))
            try:
                for _ in decode(self, self._scores(), self, batch, self.draw):
                    emit()
            except TimedOut:
                self._cut_short()
        emit()
        return [self.result(i) for i in range(len(self.strings))]

    def _cut_short(self) -> None:
        """End the strings under way where they are; they cover the prefix, whatever was to come."""
        for string in self.strings:
            if not string.reason:
                string.text += string.prefix[len(string.text) :]
                self._end(string, TIMEOUT)
