"""Drawing strings from a conditioned model: q until the prefix is covered, the model itself from there on.

For: `Decoding`, one loop for a batch, a stream and a single string. Not for: the masses behind q (`condition.py`). Easy to get
wrong: temperature and top-p act on q, not on p. The prefix was typed, not drawn at that temperature, so histories are weighed
by the model as it is; under a nucleus of p most prefixes would be impossible, and towards temperature 0 all but one. Penalties
act on the model's logits, so they begin with the first token that the prefix does not ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskdiff.decoding.condition import Conditioned
from maskdiff.decoding.shared_tree import Branch
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import draw
from maskdiff.drawing.penalties import PLAIN, Penalties
from maskdiff.drawing.random import token_noise
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

    data: its bytes, all of them, beginning with the prefix. tokens: ids, the one that ends it
    included. log_p: log-probability of the tokens under the model, the latent state's included, nats,
    before conditioning. reason: why it ended, `eos`, `stop` (a stop text or token: `data` ends
    before it, `tokens` do not), `length` (cut at the model's limit), `repetition` or `timeout`.
    calls: forward passes that it took part in.
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
    """One string under way.

    given: what it is conditioned on. latent state: number of what is hidden before it. id: its node of the model's tree; node:
    of the tree, until the prefix is covered; row, norm: then log p(next token), and what it lacks to be logits. text: of its
    tokens; sure: of what follows the prefix, what no stop text can take back; reason: why it ended.
    """

    given: Conditioned
    latent: int
    log_p: float
    calls: int
    search: StopText
    node: int | None
    id: int
    row: Tensor | None = None
    norm: float = 0.0
    tokens: list[int] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    sure: bytearray = field(default_factory=bytearray)
    free: int = 0  # tokens that begin behind the prefix
    reason: str = ""

    @property
    def prefix(self) -> bytes:
        """What it begins with."""
        return self.given.goal.prefix


def _offset(conditioned: Conditioned) -> int:
    """The number in the tree of the first node of a tree."""
    return conditioned.tree.offset if isinstance(conditioned.tree, Branch) else 0


class Decoding:
    """A batch under way, one at a time of a conditioned model, whose tree it uses.

    Each string depends on its own key alone; `keys` (batch,) are made by `sampling.random.new_keys`. Strings that begin
    differently are conditioned one by one on a model that is `SharedTree`, and given in the order of their keys.
    """

    def __init__(
        self,
        conditioned: Conditioned | Sequence[Conditioned],
        keys: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        controls: Penalties = PLAIN,
        stopping: Stopping = NEVER,
    ) -> None:
        given = (
            [conditioned] * len(keys) if isinstance(conditioned, Conditioned) else list(conditioned)
        )
        self.keys = keys.cpu()
        self.temperature, self.top_p, self.controls, self.stopping = (
            temperature,
            top_p,
            controls,
            stopping,
        )
        self.model, tree = given[0].model, given[0].tree
        self.tree: HistoryTree = tree.base if isinstance(tree, Branch) else tree
        self.nodes = max(_offset(one) + len(one.histories) for one in given)  # that the tree holds
        self.tree.forget(self.nodes)  # what was drawn before this batch
        self.strings: list[_String] = []
        self.rows = list(range(len(keys)))  # the strings under way
        self.said: TokenHistory | None = None  # of those, if anything asks
        if controls.penalise or stopping.period:
            self.said = TokenHistory.nothing(
                len(keys), len(self.model.table) if controls.penalise else 0
            )
        self._begin(given)

    def _begin(self, given: Sequence[Conditioned]) -> None:
        latent_states = self.model.latent_states
        chosen = self._draw(self.rows, torch.stack([one.log_root for one in given]), 0)
        for one, b in zip(given, chosen, strict=True):
            root = one.histories.child.get((ROOT, b))
            id_ = ROOT if root is None else root + _offset(one)
            search, log_p = StopText(self.stopping.texts), float(latent_states.log_prior[b])
            self.strings.append(_String(one, b, log_p, one.summary.calls, search, root, id_))
            if latent_states.limits[b] == 0:
                self.strings[-1].reason = EOS if latent_states.closed else LENGTH
        fresh = [
            i for i, string in enumerate(self.strings) if not string.reason and string.node is None
        ]
        self._extend(fresh, [self.strings[i].latent for i in fresh])

    def step(self) -> list[int]:
        """Draw one more token of every string that is under way; their numbers."""
        going = [i for i in self.rows if not self.strings[i].reason]
        if self.said is not None and len(going) < len(self.rows):
            kept = [k for k, i in enumerate(self.rows) if not self.strings[i].reason]
            self.said = self.said.select(torch.tensor(kept, dtype=torch.int64))
        self.rows = going
        if not going:
            return going
        tokens = self._draw(going, self._log_q(), 1 + len(self.strings[going[0]].tokens))
        fresh = [
            i for i, token in zip(going, tokens, strict=True) if self._write(self.strings[i], token)
        ]
        self._record(tokens)
        fresh = [i for i in fresh if not self.strings[i].reason]
        self._extend(fresh, [self.strings[i].tokens[-1] for i in fresh])
        return going

    def _log_q(self) -> Tensor:
        """(rows, vocabulary) what the next tokens are drawn from."""
        strings = [self.strings[i] for i in self.rows]
        log_q = torch.empty(len(strings), len(self.model.table), dtype=torch.float64)
        walking: dict[
            int, tuple[Conditioned, dict[int, list[int]]]
        ] = {}  # rows by what they are given and by node
        for k, string in enumerate(strings):
            if string.node is not None:
                walking.setdefault(id(string.given), (string.given, {}))[1].setdefault(
                    string.node, []
                ).append(k)
        for given, nodes in walking.values():
            for rows_, own in zip(nodes.values(), given.log_q(list(nodes)), strict=True):
                log_q[rows_] = own
        free = [k for k, string in enumerate(strings) if string.row is not None]
        if free:
            rows = torch.stack([row for string in strings if (row := string.row) is not None])
            if self.controls.penalise and self.said is not None:
                logits = (
                    rows + torch.tensor([strings[k].norm for k in free], dtype=rows.dtype)[:, None]
                )
                said = (
                    self.said if len(free) == len(strings) else self.said.select(torch.tensor(free))
                )
                rows = self.controls.shape(logits, said).log_softmax(-1)
            log_q[free] = rows
        return log_q

    def _write(self, string: _String, token: int) -> bool:
        """Put down a token; whether the model must be asked what follows."""
        node, row = string.node, string.row
        own = string.given.log_next[node] if node is not None else row
        assert own is not None
        string.log_p += float(own[token])
        string.tokens.append(token)
        if token in self.model.table.ends:
            self._end(string, EOS)
            return False
        before = len(string.text)
        string.text += self.model.table.texts[token] or b""
        string.free += before >= len(string.prefix)
        string.reason = self._stopped(string, token, before)
        if string.reason:
            return False
        if (
            node is not None
            and (child := string.given.histories.child.get((node, token))) is not None
        ):
            string.node, string.id = child, child + _offset(string.given)
            return False
        string.node = None
        return True

    def _stopped(self, string: _String, token: int, before: int) -> str:
        """Why a string ends with a token of some text, where it does; `before` are the bytes before that."""
        if token in self.stopping.tokens and before >= len(string.prefix):
            del string.text[before:]
            string.sure += string.search.close()
            return STOP
        string.sure += string.search.feed(bytes(string.text[max(before, len(string.prefix)) :]))
        if string.search.stopped:
            return STOP
        latent_states, size = self.model.latent_states, len(string.tokens)
        if size >= latent_states.limits[string.latent]:
            return self._end(string, EOS if latent_states.closed else LENGTH)
        full = 0 < self.stopping.max_tokens <= size and len(string.text) >= len(string.prefix)
        return self._end(string, LENGTH) if full else ""

    def _end(self, string: _String, reason: str) -> str:
        """End a string, unless a stop text that had to wait does."""
        string.sure += string.search.close()
        string.reason = STOP if string.search.stopped else reason
        return string.reason

    def _cut_short(self) -> bool:
        """End what is under way where it is, for the time is up; whether anything goes on."""
        for string in self.strings:
            if not string.reason:
                string.text += string.prefix[
                    len(string.text) :
                ]  # it covers what was typed, whatever else it was to be
                self._end(string, TIMEOUT)
        return False

    def _record(self, tokens: list[int]) -> None:
        """Keep account of what was said, and end what goes round in circles."""
        if self.said is None:
            return
        strings = [self.strings[i] for i in self.rows]
        texts = [self.model.table.texts[token] for token in tokens]
        before = [
            len(string.text) - len(text or b"") for string, text in zip(strings, texts, strict=True)
        ]
        drawn = torch.tensor(
            [size >= len(string.prefix) for size, string in zip(before, strings, strict=True)]
        )
        counted = torch.tensor([text is not None for text in texts]) & (
            drawn | (not self.controls.config.exempt_prompt)
        )
        self.said.write(torch.tensor(tokens), counted, drawn)
        if not self.stopping.period:
            return
        own = torch.tensor([string.free for string in strings])
        loops = self.said.looping(self.stopping.period, self.stopping.repeats, own)
        latent_states = self.model.latent_states
        for string, looping in zip(strings, loops.tolist(), strict=True):
            followed = string.reason == EOS and bool(
                latent_states.tail(string.latent) + latent_states.suffix
            )
            if (
                looping and string.reason != STOP and not followed
            ):  # a loop that something stands behind is no end
                self._end(string, REPETITION)

    def _extend(self, rows: list[int], tokens: list[int]) -> None:
        """Evaluate one new node for each of some strings."""
        if not rows:
            return
        tree, first = self.tree, self.nodes
        parents = torch.tensor([self.strings[i].id for i in rows])
        log_next = tree.extend(parents, torch.tensor(tokens)).double().cpu()
        norm = getattr(tree, "norm", torch.zeros(len(rows))).tolist()
        for k, i in enumerate(rows):
            string = self.strings[i]
            string.id, string.row, string.norm = first + k, log_next[k], norm[k]
            string.calls += 1
        self.nodes += len(rows)

    def _draw(self, rows: Sequence[int], log_q: Tensor, place: int) -> list[int]:
        """One choice of (choices,) for each string; `place` numbers the draws of a string."""
        keys, width = self.keys[list(rows)], log_q.shape[1]
        noise = token_noise(
            keys, torch.zeros(len(keys), 1, dtype=torch.int64), 0, torch.tensor([place]), width
        )[:, 0]
        cut = (
            self.controls.cut if place else (0, 0.0)
        )  # what is hidden before the first token is no token
        chosen: list[int] = draw(log_q, noise, self.temperature, self.top_p, *cut).tolist()
        return chosen

    def data(self, i: int) -> bytes:
        """The bytes of a string that nothing can take back; what stands behind its last token once it has ended."""
        string, latent_states = self.strings[i], self.model.latent_states
        text = bytes(string.text[: len(string.prefix)] + string.sure)
        return (
            text + latent_states.tail(string.latent) + latent_states.suffix
            if string.reason == EOS
            else text
        )

    def result(self, i: int) -> Completion:
        """A string that is no longer under way."""
        string = self.strings[i]
        return Completion(
            self.data(i), tuple(string.tokens), string.log_p, string.reason, string.calls
        )

    def run(self, watch: Callable[[int, bytes], None] | None = None) -> list[Completion]:
        """Go on until all strings have ended, or the deadline has passed.

        `watch` is told the number of a string and its new bytes, once it covers the prefix (which comes first) and whenever it
        grows.
        """
        told = [0] * len(self.keys)
        going = True
        while going:
            try:
                going = bool(self.step())
            except TimedOut:
                going = self._cut_short()
            for i in range(len(self.keys)) if watch else ():
                data = self.data(i)
                if len(data) > told[i] and len(data) >= len(self.strings[i].prefix):
                    watch(i, data[told[i] :])  # type: ignore[misc]
                    told[i] = len(data)
        return [self.result(i) for i in range(len(self.keys))]
