"""Random derivations of a grammar, rule by rule: every construct occurs, however rare its strings
are among all strings."""

from __future__ import annotations

import random
from collections.abc import Iterator

from maskdiff.languages.cfg import Cfg


class Deriver:
    """Draws strings of a grammar of at most so many symbols by choosing uniformly among the
    rules that still fit."""

    def __init__(self, cfg: Cfg) -> None:
        self.start = cfg.start
        self.bodies: dict[str, list[tuple[str | frozenset[str], ...]]] = {}
        for head, body in cfg.rules:
            self.bodies.setdefault(head, []).append(body)
        self.least = dict.fromkeys(self.bodies, 10**6)  # symbols of the shortest string
        changed = True
        while changed:
            changed = False
            for head, body in cfg.rules:
                size = self.shortest(body)
                if size < self.least[head]:
                    self.least[head], changed = size, True

    def shortest(self, body: tuple[str | frozenset[str], ...]) -> int:
        return sum(self.least[item] if isinstance(item, str) else 1 for item in body)

    def draw(self, rng: random.Random, longest: int) -> str:
        written: list[str] = []
        waiting: list[str | frozenset[str]] = [self.start]
        spare = longest - self.least[self.start]
        while waiting:
            item = waiting.pop()
            if isinstance(item, frozenset):
                written.append(rng.choice(sorted(item)))
                continue
            fitting = [
                body
                for body in self.bodies[item]
                if self.shortest(body) - self.least[item] <= spare
            ]
            body = rng.choice(fitting)
            spare -= self.shortest(body) - self.least[item]
            waiting += reversed(body)
        return "".join(written)

    def many(self, rng: random.Random, count: int, longest: int) -> Iterator[str]:
        for _ in range(count):
            yield self.draw(rng, rng.randint(self.least[self.start], longest))
