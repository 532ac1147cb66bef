"""Python's expressions: real ones are valid, and the grammar derives nothing invalid."""

from __future__ import annotations

import ast
import codecs
import keyword
import random
import re
import string
import sysconfig
import warnings
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from maskdiff.constraints.chart import RuleTensors, inside_chart
from maskdiff.errors import DataError
from maskdiff.languages.cfg import (
    Cfg,
    NormalForm,
    compile_grammar,
    find_ambiguity,
    normal_form,
    read_grammar,
)
from maskdiff.languages.cfg.recognise import Recogniser
from maskdiff.languages.python_expressions import (
    GRAMMAR,
    collect,
    collect_expressions,
    is_python_expression,
)
from maskdiff.languages.python_expressions.collect import expressions_of, source_files
from maskdiff.languages.python_expressions.names import FIRST, KEYWORDS, REST, name_pattern
from maskdiff.languages.vocabulary import PRINTABLE_ASCII
from tests.helpers.derivations import Deriver

LONGEST = 62
DERIVED = (
    "x", "not x", "not not x", "a or b and not c", "a if b else c if d else e", "lambda: 0",
    "lambda x:x", "lambda x: lambda y: x", "a<b<=c", "a - -b", "a--b", "-a**-b", "a in b",
    "a not in b", "a is not b", "a is b", "~-+x", "a@b", "a << 2>>b", "()", "(a)", "(a,)", "(a, b)",
    "(a,b,)", "a, b", "a,", "(*a, b)", "[]", "[a, *b]", "[a,]", "{}", "{a}", "{*a}", "{a: b}",
    "{**a}", "{a:b, **c, 'd': e,}", "{**a,}", "[x for x in y]",
    "[x for x, y in z if x if y for w in x]", "{x for (x, y) in z}", "{k: v for k, v in d.items()}",
    "(x for x in y)", "f(x for x in y)", "[x if a else b for x in y]", "f()", "f(a, *b, c=d, **e)",
    "f(*a, b)", "f(**a)", "f(k=lambda: 0)", "f(a==b)", "f(a=b)", "x.y.z()[0](1)", "x[1:]", "x[:]",
    "x[::2]", "x[a:b, ...]", "x[lambda: 1:2]", "x[lambda x: x]", "{lambda: a: b}", "''.join(x)",
    "''", '"\\""', "'\\x41\\n\\0'", "r'\\d'", "rb'\\''", "b'a'", "Rb'x'", "u''", "f'{x}'",
    'f"{x.y()[0]!r:>10}a"', "f''", "f'\\n{x[y]}'", "0", "10", "1_000", "0x1F", "0o17", "0b1", "1.",
    ".5", "1.5e-3", "1e9", "007.5", "None", "True.real", "...", "x[...]", "nots", "inner in isle",
    "match", "_", "Nones", "i", "is_", "e1", "{} if {} else {}", "[[]][0]", "(lambda: 0)()",
    "a if not b else c", "a and b if c and d else e", "x.match", "'#'", "a%'#'",
)  # fmt: skip
INVALID = (
    "", " ", " x", "x ", "if", "x.if", "None=1", "not", "notx y", "a b", "a not b", "a == not b",
    "- not a", "a is is b", "a in in b", "a if b", "a else b", "if a else b", "a if b else",
    "lambda", "lambda x", "lambda 1: x", "lambda None: x", "lambda in: x", "a if lambda: b else c",
    "[x for x in a if b else c]", "[x for x in lambda: y]", "[x for 1 in y]", "[x for x.y in]",
    "[x for in in y]", "[*x for x in y]", "{**x for x in y}", "{*x: y}", "{a: *b}", "{a: b, c}",
    "{a, b: c}", "{a: b for a in b, c}", "{,}", "[,]", "(,)", ",", "a,,b", "(*a)", "*a", "*a, b",
    "**a", "f(**a, *b)", "f(a=b, c)", "f(True=1)", "f(a.b=1)", "f(1=2)", "f('a'=1)",
    "f(a, x for x in y)", "f(x for x in y, a)", "f(,)", "f(a,,b)", "f(=a)", "x[]", "x[,]",
    "x[a:b:c:d]", "x[**a]", "x.", ".x", "x..y", "x.1", "x.None", "1.real", "1if 2else", "01",
    "1__0", "1_", "0x", "0b2", "0o8", "1e", "1.e", "1 .", "0xg", "'", "'''", '"', '\'a"', "'\\'",
    "'\\x4'", "'\\N'", "'\\u12'", "r'\\'", "'a'b", "a'b'", "ub''", "f'{'", "f'}'", "f'{}'",
    "f'{x!z}'", "f'{x!}'", "f'{if}'", "f'{x", "rf'", "a <> b", "a = b", "a := b", "a ! b",
    "a === b", "a & & b", "a $ b", "a ? b", "a -> b", "a++", "a < > b", "a ** * b", "(", ")", "(]",
    "[)", "(()", "())", "{(})", "a;b", "\\", "x\\", "return x", "x = 1", "pass", "import x", "`x`",
    "a and", "and a", "a and or b", "or", "a not", "....", "a.b c", "f(a b)", "[a b]", "@a", "a @",
    "!a",
)  # fmt: skip
BEYOND = (
    "f(a=1, b=2)", "f(k=1, *a)", "lambda x, y: x", "lambda *a: a", "lambda x=1: x", "'a' 'b'",
    "''''''", "'\\N{BULLET}'", "'\\d'", "f'{a+b}'", "f'{{}}'", "(x := 1)", "(yield)", "( a )",
    "f (x)", "a  + b", "a if(b)else c", "not(a)", "[a , b]", "1 .real", "1j", "1E5", "00",
    "x[a : b]", "f(a = b)", "[x for x.y in z]", "(a, b,c, )", "- x", "....real", "not  x",
    "[x async for x in y]",
)  # fmt: skip


@lru_cache(maxsize=1)
def cfg() -> Cfg:
    return read_grammar(GRAMMAR.read_text(encoding="ascii"), PRINTABLE_ASCII)


@lru_cache(maxsize=1)
def grammar() -> NormalForm:
    return compile_grammar(GRAMMAR.read_text(encoding="ascii"), PRINTABLE_ASCII)


@lru_cache(maxsize=1)
def recogniser() -> Recogniser:
    return Recogniser(grammar())


def derives(text: str) -> bool:
    return recogniser()([ord(symbol) - ord(" ") for symbol in text])


@lru_cache(maxsize=1)
def real_expressions() -> tuple[str, ...]:
    """Real expressions of every twelfth file of the standard library, as they are collected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "source_files", lambda folder: source_files(folder)[::12])
        return collect_expressions.__wrapped__()


def compiles(text: str) -> bool:
    """Stricter than `valid`: the compiler too takes it as it stands; nothing is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings(
            "error", message="invalid escape sequence|invalid octal|invalid .* literal"
        )
        try:
            compile(text, "derived", "eval")
        except SyntaxError:
            return False
    return True


@pytest.mark.slow
def test_the_library_gives_thousands_of_real_expressions() -> None:
    """A twelfth of its files is collected."""
    texts = real_expressions()
    assert 2000 < len(texts) < 20_000
    assert list(texts) == sorted(set(texts))
    assert all(3 <= len(text) <= LONGEST and set(text) <= set(PRINTABLE_ASCII) for text in texts)
    some = random.Random(0).sample(texts, 1500)
    assert all(map(is_python_expression, some))
    kinds = {type(ast.parse(text, mode="eval").body) for text in some}
    assert not kinds & {ast.Constant, ast.Name}
    assert {
        ast.Call,
        ast.Compare,
        ast.BinOp,
        ast.BoolOp,
        ast.Subscript,
        ast.Attribute,
        ast.Tuple,
        ast.List,
        ast.IfExp,
    } <= kinds


def test_expressions_that_are_collected_from_a_file() -> None:
    source = '''"""A docstring."""
import a.b
x: t[int] = f(g(1), h.i, 'text', 17, *rest, key=-one) + 2
a.b, c[d] = é.ü(e.f), (
    long +
    over)
@deco.rator(n)
def fun(p: List[q] = d.e) -> r.s:
    if (yes and no): return u, v
    "a string"; name
    return f"{hid(den)}" + 'é'.x()
for i, j in pairs(k): del m[0]; print(l[1:2])
'''.encode()
    assert expressions_of(source) == {
        "t[int]", "f(g(1), h.i, 'text', 17, *rest, key=-one) + 2", "g(1)", "h.i", "-one",
        "deco.rator(n)", "List[q]", "d.e",
        "r.s", "yes and no", "u, v", "pairs(k)", "print(l[1:2])", "l[1:2]", "e.f",
    }  # fmt: skip
    assert expressions_of(codecs.BOM_UTF8 + source) == expressions_of(source)
    assert expressions_of(b"# coding: latin-1\nx = '\xe9' , a.b(c.d)") == {"c.d"}
    assert (
        expressions_of(b"print 1")
        == expressions_of(b"# coding: klingon\nx = a.b")
        == expressions_of(b"\0")
        == set()
    )


@pytest.mark.slow
def test_expressions_are_sliced_as_by_the_standard_library() -> None:
    path = Path(sysconfig.get_paths()["stdlib"]) / "reprlib.py"
    text = path.read_text(encoding="utf-8")
    segments = {
        ast.get_source_segment(text, node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.expr)
    }
    found = expressions_of(path.read_bytes())
    assert len(found) > 50
    assert found <= segments


def test_tests_and_foreign_packages_are_left_out(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "b/c.py",
        "test/d.py",
        "b/tests/e.py",
        "site-packages/f.py",
        "config-3-x/g.py",
        "_sysconfigdata_.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in source_files(tmp_path)] == [
        "a.py",
        "b/c.py",
    ]


def test_an_interpreter_without_source_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "python.zip")})
    with pytest.raises(DataError, match="no source of the standard library"):
        collect_expressions.__wrapped__()


@pytest.mark.parametrize(
    "text",
    ["a\n", "a\\\n+b", "a\n+b", "(a,\nb)", "a\t+b", "\fa", "a #", "a # b", "é", "a\0", "\ufeffa"],
)
def test_only_one_plain_line_is_valid(text: str) -> None:
    assert not is_python_expression(text)


def test_texts_that_break_the_parser_are_invalid() -> None:
    for text in (
        "(" * 5000,
        "-" * 9000 + "1",
        "(" * 150 + ")" * 150,
        "a" + "[a" * 3000,
        "9" * 5000,
        "x" * 10**6,
    ):
        is_python_expression(text)  # no interpreter limit raises an error
    assert not is_python_expression("(" * 5000 + ")" * 5000)
    assert not is_python_expression("9" * 20_000)
    assert all(map(is_python_expression, ("1is 2", "'\\d'", "a+b", "'#'", "[a, '#']")))


def test_the_names_are_the_identifiers_that_are_no_keywords() -> None:
    assert set(KEYWORDS) == set(keyword.kwlist)
    pattern = name_pattern()
    assert f"NAME: /{pattern}/" in GRAMMAR.read_text(encoding="ascii").splitlines()
    compiled = re.compile(pattern)
    tried = {*KEYWORDS, *keyword.softkwlist, *FIRST, *"0123456789"}
    for word in KEYWORDS:
        tried |= (
            {word[:i] for i in range(1, len(word))}
            | {word + x for x in REST}
            | {x + word for x in REST}
        )
        tried |= {word[:i] + letter + word[i + 1 :] for i in range(len(word)) for letter in REST}
    rng = random.Random(0)
    tried |= {
        "".join(rng.choices(string.ascii_letters + "_0", k=rng.randint(1, 4))) for _ in range(3000)
    }
    for text in tried:
        assert bool(compiled.fullmatch(text)) == (
            text.isidentifier() and not keyword.iskeyword(text)
        ), text


@pytest.mark.slow
def test_the_grammar_derives_the_listed_expressions() -> None:
    assert [text for text in DERIVED if not (derives(text) and is_python_expression(text))] == []
    assert [text for text in INVALID if derives(text) or is_python_expression(text)] == []
    assert [text for text in BEYOND if derives(text) or not is_python_expression(text)] == []


@pytest.mark.slow
def test_every_derived_string_is_valid() -> None:
    rng, deriver = random.Random(0), Deriver(cfg())
    texts = set(deriver.many(rng, 800, 50))
    assert len(texts) > 450
    assert [text for text in texts if not (is_python_expression(text) and compiles(text))] == []
    assert all(map(derives, random.Random(1).sample(sorted(texts), 200)))


@pytest.mark.slow
def test_edited_expressions_that_are_derived_are_valid() -> None:
    """An edited real expression that the grammar derives is valid."""
    rng = random.Random(2)
    kept = 0
    for text in rng.sample(real_expressions(), 250):
        place = rng.randrange(len(text) + 1)
        edited = (
            text[:place]
            + rng.choice(["", *PRINTABLE_ASCII, *" ()[]{},.:*='\"not"])
            + text[place + rng.choice((0, 1)) :]
        )
        if derives(edited):
            kept += 1
            assert is_python_expression(edited), edited
    assert kept > 40


@pytest.mark.slow
def test_nearly_all_real_expressions_are_derived() -> None:
    texts = random.Random(3).sample(real_expressions(), 250)
    assert sum(map(derives, texts)) / len(texts) > 0.97


def test_the_rules_make_an_lalr_table_without_conflicts() -> None:
    """A proof for any sequence of terminals: the rules make an LALR(1) table without conflicts."""
    from lark import Lark
    from lark.common import ParserConf
    from lark.exceptions import GrammarError
    from lark.parsers.lalr_analysis import LALR_Analyzer

    def analyse(text: str) -> None:
        rules = Lark(
            text,
            parser="earley",
            lexer="dynamic_complete",
            keep_all_tokens=True,
            maybe_placeholders=False,
        ).rules
        LALR_Analyzer(ParserConf(rules, {}, ["start"]), strict=True).compute_lalr()

    analyse(GRAMMAR.read_text(encoding="ascii"))
    with pytest.raises(GrammarError, match="conflict"):
        analyse('start: e\ne: e "+" e | "1"')


def derivations(texts: list[str]) -> list[float]:
    """The number of derivations of each text: the weight of a chart of its symbols."""
    emission = torch.full(
        (len(texts), max(map(len, texts)), len(PRINTABLE_ASCII)), -torch.inf, dtype=torch.float64
    )
    for row, text in enumerate(texts):
        emission[row, range(len(text)), [ord(symbol) - ord(" ") for symbol in text]] = 0.0
    chart = inside_chart(
        RuleTensors(grammar()), emission, torch.tensor([len(text) for text in texts])
    )
    return chart.log_total.exp().tolist()


@pytest.mark.slow
def test_every_string_has_one_derivation() -> None:
    rng = random.Random(4)
    drawn = list(Deriver(cfg()).many(rng, 30, 16))
    real = [
        text for text in rng.sample(real_expressions(), 250) if len(text) <= 16 and derives(text)
    ][:30]
    listed = [text for text in DERIVED if len(text) <= 20]
    for texts in (drawn, real, listed):
        assert derivations(texts) == pytest.approx([1.0] * len(texts))


@pytest.mark.slow
def test_short_strings_of_few_symbols_have_one_derivation() -> None:
    """Enumeration with one name, one number and one string."""
    text = GRAMMAR.read_text(encoding="ascii")
    short = {
        "NAME": '"n"',
        "NUMBER": '"0"',
        "STRING": '"_"',
        "OPERATOR": "/ ?[-*] ?| in /",
        "HOLE_END": '"}"',
    }
    for name, body in short.items():
        text, count = re.subn(
            rf"^{name}: .*(\n +\|.*)*$",
            lambda _, line=f"{name}: {body}": line,
            text,
            flags=re.MULTILINE,
        )
        assert count == 1
    found = find_ambiguity(
        normal_form(read_grammar(text, PRINTABLE_ASCII), PRINTABLE_ASCII), budget=1_000_000
    )
    assert found.witness is None
    assert found.searched >= 3


@pytest.mark.slow
def test_the_normal_form_stays_small() -> None:
    """The number of pairs bounds the cost of a chart: cubic if both are long, else quadratic."""
    form = grammar()
    pairs = set(zip(form.left.tolist(), form.right.tolist(), strict=True))
    assert len(form.parent) < 1300
    assert form.long < 300
    assert sum(left < form.long and right < form.long for left, right in pairs) < 45
