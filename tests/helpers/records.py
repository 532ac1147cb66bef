"""Records of problems: how to write them, and solutions of the shipped ones."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskdiff.experiments.distillation.records import Record, read_records

Pairs = Sequence[tuple[str, str]]
SOLUTIONS = {
    "barrel": """
n, room = map(int, input().split())
water = lost = 0
for rain in map(int, input().split()):
    lost += max(0, water + rain - room)
    water = min(room, water + rain)
print(water, lost)
""",
    "sticky": "import re\nprint(re.sub(r'(.)\\1\\1+', r'\\1\\1', input()))\n",
    "ferry": """
import sys
stays = sorted(tuple(map(int, line.split())) for line in sys.stdin.read().splitlines()[1:])
quiet, until = 0, stays[0][0]
for start, end in stays:
    quiet, until = max(quiet, start - until), max(until, end)
print(quiet)
""",
    "moss": """
h, w = map(int, input().split())
left = {(r, c) for r in range(h) for c, stone in enumerate(input()) if stone == "#"}
best = 0
while left:
    patch, size = [left.pop()], 0
    while patch:
        r, c = patch.pop()
        size += 1
        for near in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if near in left:
                left.remove(near)
                patch.append(near)
    best = max(best, size)
print(best)
""",
    "hike": """
n, k = map(int, input().split())
sums = [0, *accumulate(map(int, input().split()))]
print(f"{max(sums[i + k] - sums[i] for i in range(n - k + 1)) / k:.3f}")
""",
    "plates": """
stack = []
for _ in range(int(input())):
    match input().split():
        case ["put", name]:
            stack.append(name)
        case ["take"]:
            print(stack.pop() if stack else "empty")
        case ["flip"]:
            stack.reverse()
print(len(stack))
""",
    "stones": """
input()
costs = list(map(int, input().split()))
best = []
for i, cost in enumerate(costs):
    best.append(cost + (min(best[-3:]) if best else 0))
print(best[-1])
""",
    "lanterns": """
class Solution:
    def count_lit(self, places: List[int], reach: int) -> int:
        order = sorted(places)
        near = [b - a <= reach for a, b in zip(order, order[1:])]
        return sum(a or b for a, b in zip([False, *near], [*near, False]))
""",
    "shuffled": """
class Solution:
    def companions(self, words: List[str]) -> List[List[str]]:
        groups = defaultdict(list)
        for word in sorted(words):
            groups["".join(sorted(word))].append(word)
        return sorted(tuple(group) for group in groups.values() if len(group) > 1)
""",
    "column": """
class Solution:
    def set_column(self, text: str, width: int) -> List[str]:
        lines = []
        for word in text.split():
            if lines and len(lines[-1]) + 1 + len(word) <= width:
                lines[-1] += " " + word
            else:
                lines.append(word)
        return lines
""",
}


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def item(public: Pairs, private: Pairs = (), kind: str = "stdin", **other: Any) -> dict[str, Any]:
    """A record, each of whose tests is a pair of input and output."""

    def cases(pairs: Pairs) -> str:
        return json.dumps(
            [{"input": given, "output": out, "testtype": kind} for given, out in pairs]
        )

    texts = {
        "question_id": "q",
        "question_title": "T",
        "question_content": "C",
        "platform": "p",
        "contest_id": "c",
    }
    texts |= {"contest_date": "d", "starter_code": "", "difficulty": "easy", "metadata": "{}"}
    return (
        texts | {"public_test_cases": cases(public), "private_test_cases": cases(private)} | other
    )


def read(tmp_path: Path, *items: object) -> list[Record]:
    path = tmp_path / "records.jsonl"
    path.write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in items),
        encoding="utf-8",
    )
    return read_records(path)
