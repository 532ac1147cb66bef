"""The program in an answer, and the names and settings that the format's grader gives it."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskdiff.config import DistillationConfig
from maskdiff.errors import ConfigError
from maskdiff.experiments.distillation.cli import make_environment
from maskdiff.experiments.distillation.code_extraction import extract_code
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.python_programs import PRELUDE, PythonEnvironment
from maskdiff.experiments.distillation.records import SHIPPED, Record, Test, parse_value
from maskdiff.experiments.distillation.sandbox.run import isolation_problem
from tests.helpers.fuzz import both_seeds, cases

REASON = isolation_problem()
isolated = pytest.mark.skipif(REASON is not None, reason=f"no isolation here: {REASON}")

# ------------------------------------------------------------------------- the program in an answer

ONE = "print(1)\n"
ANSWERS = {
    "bare code": ("print(1)", "print(1)"),
    "nothing": ("", ""),
    "marked": ("So:\n```python\na\n```\nor\n```python\nb\nc\n```\nDone.", "b\nc\n"),
    "marked before others": ("```python\na\n```\n```\noutput\n```\n```text\nb\n```", "a\n"),
    "unmarked": ("```\na\n```", "a\n"),
    "left open": ("```Python3\na", "a"),
    "left open and unmarked": ("Here it is:\n```\nprint(1)", "print(1)"),
    "another language": ("```text\na\n```", "```text\na\n```"),
    "a transcript": ("```pycon\n>>> 1\n```", "```pycon\n>>> 1\n```"),
    "a lone closing fence": ("print(1)\n```", ONE),
    "a lone closing fence of tildes": ("print(1)\n~~~\n", ONE),
    "a lone closing fence and words": ("print(1)\n```\nThis prints 1.", ONE),
    "a lone closing fence and output": ("print(1)\n```\nOutput:\n```\n1\n```\n", ONE),
    "a lone closing fence and marked output": ("print(1)\n```\nOutput:\n```text\n1\n```\n", ONE),
    "a lone closing fence and better code": (
        "print(2)\n```\nBetter:\n```python\nprint(1)\n```",
        ONE,
    ),
    "one closing fence too many": ("```python\nprint(1)\n```\n```\n", ONE),
    "quotes in the words before": ('I put `"""` before it.\n\n```python\nprint(1)\n```\n', ONE),
    "a word in quotes before": ("It's '''odd''' and ''' too:\n```python\nprint(1)\n```\n", ONE),
    "a list item": ("1. Like this:\n   ```python\n   print(1)\n   ```", ONE),
    "a wide list item": ("10. Like this:\n\n    ```python\n    print(1)\n    ```\n", ONE),
    "a nested list item": ("- a\n  1) b\n\n     ```python\n     print(1)\n     ```\n", ONE),
    "a fence on the bullet": ("- ```python\n  print(1)\n  ```\n- next", ONE),
    "indentation in a list item": (
        "1. a\n   ```python\n   def f():\n\n       return 1\n   ```\n",
        "def f():\n\n    return 1\n",
    ),
    "tabs": ("1.\tLike this:\n\t```python\n\tif 1:\n\t\tprint(1)\n\t```\n", "if 1:\n\tprint(1)\n"),
    "a tab for the closing fence": ("```python\nprint(1)\n\t```", ONE),
    "a quote": ("> ```python\n> print(1)\n> ```\n", ONE),
    "a quote in a list item": ("* > ```python\n  > print(1)\n  > ```\n", ONE),
    "code left of its item": ("1. Like this:\n   ```python\nprint(1)\n```\n", ONE),
    "deep without a list": ("Like this:\n\n    ```python\n    print(1)\n    ```\n", ONE),
    "tildes": ("~~~python\nprint(1)\n~~~\n", ONE),
    "fences in tildes": ("~~~python\ns = '''\n```\n'''\n~~~\n", "s = '''\n```\n'''\n"),
    "longer fences": ("````python\ns = '''\n```\n'''\n````\n", "s = '''\n```\n'''\n"),
    "Markdown of Markdown": ("````markdown\n```python\nprint(1)\n```\n````\n", ONE),
    "unmarked Markdown": ("````\n```py\nprint(1)\n```\n````\n", ONE),
    "a title": ("```python3 title=x\nprint(1)\n```\n", ONE),
    "attributes": ("```{.python #id}\nprint(1)\n```\n", ONE),
    "a path": ("```python:main.py\nprint(1)\n```\n", ONE),
    "a version": ("``` Python3.11\nprint(1)\n```\n", ONE),
    "carriage returns": ("So:\r\n```python\r\nprint(1)\r\n```\r\nDone.", "print(1)\r\n"),
    "carriage returns alone": ("So:\r```python\rprint(1)\r```\rDone.", "print(1)\r"),
    "words behind the closing fence": ("```python\nprint(1)\n```\nIt prints `1`.\n", ONE),
    "a fence behind words": ("Here: ```python\nprint(1)\n```", ONE),
    "a fence behind code": ("```python\nprint(1)```", "print(1)"),
    "a fence in a string": ("```python\ns = 'a```b'\n```", "s = 'a```b'\n"),
    "a block that is empty": ("```python\n```", ""),
    "an empty block behind one": ("```python\nprint(1)\n```\n```python\n```", ONE),
}
BARE = 'def f():\n    """Doubles.\n\n    ```python\n    f(3)\n    ```\n    """\n    return 6\n'
ANSWERS["fences in the docstring of bare code"] = (BARE, BARE)
LEFT = '"""\n```python\nf(3)\n```\n"""\nprint(1)\n'
ANSWERS["nested code behind a long text"] = (
    f"{'words ' * 99}\n````md\n```python\nprint(1)\n```\n````",
    ONE,
)
ANSWERS["fences at the left of a docstring"] = (LEFT, LEFT)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_code_of_an_answer(name: str) -> None:
    answer, code = ANSWERS[name]
    assert extract_code(answer) == code


@pytest.mark.slow
@both_seeds
def test_marked_code_equals_that_of_markdown_it(seed: int) -> None:
    """Whatever stands around it: the last block marked as Python, as markdown-it finds it."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").disable(["html_block"])
    found = 0
    for rng in cases(3000, seed):
        answer = "\n".join(random_line(rng) for _ in range(rng.randrange(12))) + "\n"
        blocks = [token for token in reader.parse(answer) if token.type == "fence"]
        code = [token.content for token in blocks if token.info.strip() == "python"]
        code = [text for text in code if text.strip()]
        nested = any("python" in token.content for token in blocks)
        if code and "```" not in code[-1] and not nested:
            found += 1
            assert extract_code(answer) == code[-1], answer
    assert found > 5


def random_line(rng: random.Random) -> str:
    mark = rng.choice(["", "", "", "", "- ", "1. ", "   ", "  ", "> ", "10. ", "    "])
    return mark + rng.choice(
        ["text", "", "x = 1", "```python", "```python", "```", "```", "~~~", "```text"]
    )


# ------------------------------------------------------------------------------- names and settings


def judged(
    answer: str, given: str, wanted: str, function: str = "f", **options: Any
) -> tuple[float, str]:
    """Reward and feedback of an answer to one test; without a function it is a program."""
    test = Test(given, wanted, bool(function))
    record = Record("q", "T", "C", "p", "c", "d", "", "easy", (test,), (), function)
    outcome = PythonEnvironment([record], **options).evaluate(Problem("q", ""), answer)
    return outcome.reward, outcome.feedback


RESULTS = {
    "reduce(xor, nums)": "4",
    "deepcopy(nums)": "[3, 1, 6]",
    "ascii_lowercase[:len(nums)]": '"abc"',
    "round(mean(nums), 2)": "3.33",
    "loads(dumps(nums))": "[3, 1, 6]",
    "statistics.mean([1, 3])": "2",
    "datetime(2020, 1, 1).year": "2020",
    "datetime.datetime(2020, 1, 1).month": "1",
    "datetime.timedelta(days=1).days + timedelta(days=1).days + date(2020, 1, 2).day": "4",
    "copy.deepcopy(nums)": "[3, 1, 6]",
    "itemgetter(1)(nums) + operator.mul(2, 3)": "7",
    "sub(5, 3)": "2",
    "pow(2, 3, 5)": "3",
    "StringIO('a').read() + io.BytesIO(b'b').read().decode()": '"ab"',
    "maxsize == sys.maxsize and len(argv) == 1": "true",
    "findall('a.', 'abac') + re.split(',', 'a,b')": '["ab", "ac", "a", "b"]',
    "[*accumulate(nums)][-1] + gcd(4, 6) + nsmallest(1, nums)[0] + bisect_left([1, 3], 2)": "14",
    "sorted(Counter('aab').items()) + list(product('a', 'b'))": '[["a", 2], ["b", 1], ["a", "b"]]',
    "sys.getrecursionlimit()": "50000",
    "len(choice(['aa'])) + len(random.choice(['aa'])) + len(open('f', 'w').name)": "5",
    "Optional[int] is typing.Optional[int] if 'typing' in globals() else 5": "5",
}


@pytest.mark.slow
@isolated
def test_names_of_the_format_are_defined() -> None:
    expressions = list(RESULTS)
    body = ",\n            ".join(expressions)
    head = "class Solution:\n    def f(self, nums: List[int]):\n"
    answer = f"{head}        return [\n            {body}\n        ]\n"
    wanted = f"[{', '.join(RESULTS.values())}]"
    assert judged(answer, "[3, 1, 6]", wanted) == (1.0, "All 1 tests passed.")
    first = f"class Solution:\n    def f(self, nums):\n        return {expressions[0]}\n"
    assert judged("from __future__ import annotations\n" + first, "[3, 1, 6]", "4")[0] == 1
    assert judged(f"nums = loads(input())\nprint({expressions[0]})", "[3, 1, 6]", "4", "")[0] == 1
    mine = "import datetime as datetime\nfrom operator import add as sub\nprint(sub(5, 3))"
    assert judged(mine, "", "8", "")[0] == 1  # what a program imports itself counts


# The order in which the format's grader imports all names of these modules; then the modules.
ORDER = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator
io sys json builtins typing
"""
COMPARE = """
import importlib, json, sys
order, prelude = json.loads(sys.stdin.read())
expected, given = {}, {}
for name in order:
    exec(f"from {name} import *", expected)
for name in order[:-2]:
    expected[name] = importlib.import_module(name)
exec(prelude, given)
skipped = {"__builtins__"}
names = {*expected, *given} - skipped
print(sorted(name for name in names if given.get(name, 0) is not expected.get(name, 1)))
print(len(expected) > 500, sys.getrecursionlimit())
"""


def test_names_are_those_of_the_order_of_the_format() -> None:
    given = json.dumps([ORDER.split(), PRELUDE])
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], input=given, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\nTrue 50000\n", done.stderr


@pytest.mark.slow
@isolated
def test_integers_have_fifty_thousand_digits() -> None:
    assert judged("print(10**5000)", "", "1" + "0" * 5000, "")[0] == 1
    assert judged("print(10**49_999)", "", "1" + "0" * 49_999, "")[0] == 1
    reward, feedback = judged("print(10**50_000)", "", "1" + "0" * 50_000, "")
    assert reward == 0
    assert "Exceeds the limit (50000 digits)" in feedback
    assert judged("def f(n): return [n + 1, 2]", "9" * 20_000, f"[1{'0' * 20_000}, 2]")[0] == 1
    assert judged("def f(n): return [n, 2]", "9" * 20_000, f"[1{'0' * 20_000}, 2]")[0] == 0


def test_values_with_long_integers_compare_as_numbers() -> None:
    long = "1" + "0" * 49_999
    assert parse_value(f"[{long}]") == parse_value(f"[{long}]") != parse_value(f"[{long[:-1]}1]")
    assert parse_value(f"-{long}") == parse_value(f"-{long}") != parse_value(long)
    assert parse_value("1" + "0" * 2000) == 10**2000
    for text in ("9" * 50_001, "-" + "9" * 50_001, f'{{"a": [{"1" * 60_000}]}}', "01", "x"):
        with pytest.raises(ValueError, match=r"digits|Extra data|Expecting"):
            parse_value(text)
    assert re.search("int", repr(type(parse_value("12"))))


@isolated
@pytest.mark.skipif(sys.version_info < (3, 11), reason="each call uses space on the C stack")
def test_recursion_is_deep() -> None:
    assert judged("def f(n): return n and 1 + f(n - 1)", "40000", "40000")[0] == 1
    assert "RecursionError" in judged("def f(n): return n and 1 + f(n - 1)", "60000", "60000")[1]


@isolated
def test_packages_are_given_to_programs_by_name() -> None:
    answer = "import numpy\ndef f(n): return int(numpy.arange(n).sum())"
    assert "ModuleNotFoundError" in judged(answer, "4", "6")[1]
    assert judged(answer, "4", "6", packages=["numpy"])[0] == 1
    with pytest.raises(ConfigError, match="package 'nampy' is not installed"):
        judged(answer, "4", "6", packages=["numpy", "nampy"])


class Solver:
    name = "solver"


def test_the_setting_of_packages_and_the_file_of_records_reach_the_programs(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    shutil.copy(SHIPPED, records)
    given = DistillationConfig(environment="python", isolation="none", records=str(records))
    asked = replace(given, packages=" numpy, iniconfig,")
    environment = make_environment(asked, Solver())  # type: ignore[arg-type]
    assert isinstance(environment, PythonEnvironment)
    assert environment.setup.packages == ("numpy", "iniconfig")
    assert str(records) in environment.setup.hidden_paths()
    with pytest.raises(ConfigError, match="package 'nampy' is not installed"):
        make_environment(replace(given, packages="nampy"), Solver())  # type: ignore[arg-type]
