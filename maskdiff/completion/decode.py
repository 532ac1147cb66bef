"""Drawing strings from a conditioned model: q until the prefix is covered, the model itself from there on.

For: `Decoding`, one loop for a batch, a stream and a single string. Not for: the masses behind q (`condition.py`). Easy to get
wrong: temperature and top-p act on q, not on p. The prefix was typed, not drawn at that temperature, so histories are weighed
by the model as it is; under a nucleus of p most prefixes would be impossible, and towards temperature 0 all but one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskdiff.completion.condition import Conditioned
from maskdiff.completion.model import ROOT
from maskdiff.sampling.processors import draw
from maskdiff.sampling.random import token_noise


@dataclass(frozen=True)
class Completion:
    """A string that was drawn.

    data: its bytes, all of them, beginning with the prefix. tokens: ids, the one that ends it included. log_p: log-probability
    of the tokens under the model, the beginning's included, nats, before conditioning. ended: false where it was cut at the
    model's limit. calls: forward passes that it took part in.
    """

    data: bytes
    tokens: tuple[int, ...]
    log_p: float
    ended: bool
    calls: int


class Decoding:
    """A batch under way, one at a time of a conditioned model, whose reader it uses.

    Each string depends on its own key alone; `keys` (batch,) are made by `sampling.random.new_keys`.
    """

    def __init__(self, conditioned: Conditioned, keys: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> None:
        self.conditioned, self.keys = conditioned, keys.cpu()
        self.temperature, self.top_p = temperature, top_p
        self.model, self.tree = conditioned.model, conditioned.tree
        count = len(keys)
        conditioned.reader.forget(len(self.tree))  # what was drawn before this batch
        self.nodes = len(self.tree)  # that the reader holds
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.log_p = [0.0] * count
        self.calls = [conditioned.summary.calls] * count
        self.open, self.ended = [True] * count, [False] * count
        self.beginning = self._draw(list(range(count)), conditioned.log_root.expand(count, -1), 0)
        self.node: list[int | None] = []  # of the tree, until the prefix is covered
        self.id: list[int] = []  # of the model's reader
        self.row: list[Tensor | None] = [None] * count  # log p(next token), once it is covered
        self._begin()

    def _begin(self) -> None:
        beginnings, fresh = self.model.beginnings, []
        for i, b in enumerate(self.beginning):
            self.log_p[i] = float(beginnings.log_prior[b])
            root = self.tree.child.get((ROOT, b))
            self.node.append(root)
            self.id.append(ROOT if root is None else root)
            if beginnings.limits[b] == 0:
                self.open[i], self.ended[i] = False, beginnings.closed
            elif root is None:
                fresh.append(i)
        self._extend(fresh, [self.beginning[i] for i in fresh])

    def step(self) -> list[int]:
        """Draw one more token of every string that is under way; their numbers."""
        rows = [i for i, going in enumerate(self.open) if going]
        if not rows:
            return rows
        walking = [i for i in rows if self.node[i] is not None]
        log_q = torch.empty(len(rows), len(self.model.table), dtype=torch.float64)
        at = {i: k for k, i in enumerate(rows)}
        if walking:
            nodes = [node for i in walking if (node := self.node[i]) is not None]
            once = {node: k for k, node in enumerate(dict.fromkeys(nodes))}
            log_q[[at[i] for i in walking]] = self.conditioned.log_q(list(once))[[once[node] for node in nodes]]
        for i in rows:
            if (row := self.row[i]) is not None:
                log_q[at[i]] = row
        tokens = self._draw(rows, log_q, 1 + len(self.tokens[rows[0]]))
        fresh = [i for i, token in zip(rows, tokens, strict=True) if self._write(i, token)]
        self._extend(fresh, [self.tokens[i][-1] for i in fresh])
        return rows

    def _write(self, i: int, token: int) -> bool:
        """Put down a token; whether the model must be asked what follows."""
        node, row = self.node[i], self.row[i]
        own = self.conditioned.log_next[node] if node is not None else row
        assert own is not None
        self.log_p[i] += float(own[token])
        self.tokens[i].append(token)
        beginnings = self.model.beginnings
        if token in self.model.table.ends:
            self.open[i], self.ended[i] = False, True
        elif len(self.tokens[i]) >= beginnings.limits[self.beginning[i]]:
            self.open[i], self.ended[i] = False, beginnings.closed
        elif node is not None and (child := self.tree.child.get((node, token))) is not None:
            self.node[i] = self.id[i] = child
        else:
            self.node[i] = None
            return True
        return False

    def _extend(self, rows: list[int], tokens: list[int]) -> None:
        """Evaluate one new node for each of some strings."""
        if not rows:
            return
        reader, first = self.conditioned.reader, self.nodes
        log_next = reader.extend(torch.tensor([self.id[i] for i in rows]), torch.tensor(tokens)).double().cpu()
        for k, i in enumerate(rows):
            self.id[i], self.row[i] = first + k, log_next[k]
            self.calls[i] += 1
        self.nodes += len(rows)

    def _draw(self, rows: Sequence[int], log_q: Tensor, place: int) -> list[int]:
        """One choice of (choices,) for each string; `place` numbers the draws of a string."""
        keys, width = self.keys[list(rows)], log_q.shape[1]
        noise = token_noise(keys, torch.zeros(len(keys), 1, dtype=torch.int64), 0, torch.tensor([place]), width)[:, 0]
        chosen: list[int] = draw(log_q, noise, self.temperature, self.top_p).tolist()
        return chosen

    def data(self, i: int) -> bytes:
        """The bytes of a string so far; what stands behind its last token once it has ended."""
        text, beginnings = self.model.table.text(self.tokens[i]), self.model.beginnings
        return text + beginnings.tail(self.beginning[i]) + beginnings.suffix if self.ended[i] else text

    def result(self, i: int) -> Completion:
        """A string that is no longer under way."""
        return Completion(self.data(i), tuple(self.tokens[i]), self.log_p[i], self.ended[i], self.calls[i])

    def run(self, watch: Callable[[int, bytes], None] | None = None) -> list[Completion]:
        """Go on until all strings have ended.

        `watch` is told the number of a string and its new bytes, once it covers the prefix (which comes first) and whenever it
        grows.
        """
        told = [0] * len(self.keys)
        going = True
        while going:
            rows = self.step()
            going = bool(rows)
            for i in range(len(self.keys)) if watch else ():
                data = self.data(i)
                if len(data) > told[i] and len(data) >= len(self.conditioned.goal.prefix):
                    watch(i, data[told[i] :])  # type: ignore[misc]
                    told[i] = len(data)
        return [self.result(i) for i in range(len(self.keys))]
