"""Compiles patterns to deterministic automata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from maskdiff.languages.regex.dfa import Dfa, explore
from maskdiff.languages.regex.limits import Budget, nesting_limit
from maskdiff.languages.regex.nfa import build_nfa
from maskdiff.languages.regex.preferred import PreferredRunner
from maskdiff.languages.regex.reading import Pattern, read_pattern
from maskdiff.languages.regex.run import Runner, Runs
from maskdiff.languages.regex.tree import check_size, is_lazy


@nesting_limit()
def compile_pattern(
    pattern: str, symbols: Collection[str], flags: int | Collection[str] = 0, lazy: bool = False
) -> Dfa:
    """The automaton of the strings that `re.fullmatch(pattern, string, flags)` matches.

    With `lazy`, a pattern that has lazy quantifiers stands for fewer strings: those that
    `re.match(pattern, string, flags)` matches as a whole. So `".*?"` ends at the first quote, where
    the whole of `"a", "b"` would be a full match.

    Args:
        pattern: a regular expression of Python.
        symbols: the alphabet, strings of one character each.
        flags: flags of `re`, or their letters, such as `"im"`.
        lazy: whether lazy quantifiers say where a match ends.

    Raises:
        RegexError: the pattern is not valid, not regular (backreferences, atomic groups, possessive
            quantifiers, conditional groups), or its automaton is too large.
    """
    return compile_tree(read_pattern(pattern, symbols, flags), lazy)


@nesting_limit()
def compile_preferred(pattern: str, symbols: Collection[str]) -> Dfa:
    """The automaton of the strings that `re.match` takes as a whole, whether quantifiers are lazy or not."""
    runner = _runner(PreferredRunner, read_pattern(pattern, symbols))
    return explore_runs(runner, lambda runs: runner.accepts(runner.end(runs)))


def compile_tree(pattern: Pattern, lazy: bool = False) -> Dfa:
    """The automaton of a pattern that has been read."""
    runner = make_runner(pattern, lazy)
    return explore_runs(runner, lambda runs: runner.accepts(runner.end(runs)))


def explore_runs(runner: Runner, accepts: Callable[[Runs], bool]) -> Dfa:
    """The automaton of the strings after which the runs of a pattern are accepted."""

    def step(runs: Runs) -> Iterator[tuple[int, Runs]]:
        for letter in runner.letters(runs):
            following = runner.step(runs, letter)
            if following[-1]:
                yield letter, following

    return explore(runner.nfa.classes, runner.begin(), step, accepts, runner.budget)


def make_runner(pattern: Pattern, lazy: bool = False) -> Runner:
    """The automata of a pattern, ready to run."""
    return _runner(PreferredRunner if lazy and is_lazy(pattern.tree) else Runner, pattern)


def _runner(kind: type[Runner], pattern: Pattern) -> Runner:
    check_size(pattern.tree)
    budget = Budget()
    return kind(build_nfa(pattern.tree, pattern.symbols, budget), budget)
