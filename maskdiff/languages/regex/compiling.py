"""Compiles patterns to deterministic automata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from maskdiff.languages.regex.dfa import Dfa, explore
from maskdiff.languages.regex.limits import Budget, nesting_limit
from maskdiff.languages.regex.nfa import build_nfa
from maskdiff.languages.regex.parsing import ParsedPattern, parse_pattern
from maskdiff.languages.regex.priority import PrioritySimulation
from maskdiff.languages.regex.simulation import Runs, Simulation
from maskdiff.languages.regex.tree import check_size, is_lazy


@nesting_limit()
def compile_pattern(
    pattern: str, symbols: Collection[str], flags: int | Collection[str] = 0, lazy: bool = False
) -> Dfa:
    """Return the automaton of the strings that `re.fullmatch(pattern, string, flags)` matches.

    Args:
        pattern: A regular expression of Python.
        symbols: The alphabet, strings of one character each.
        flags: Flags of `re`, or their letters, such as `"im"`.
        lazy: Whether a pattern with lazy quantifiers stands only for the strings that `re.match`
            matches as a whole: `".*?"` then ends at the first quote.

    Raises:
        RegexError: The pattern is not valid, not regular (backreferences, atomic groups,
            possessive quantifiers, conditional groups), or its automaton is too large.
    """
    return compile_tree(parse_pattern(pattern, symbols, flags), lazy)


@nesting_limit()
def compile_preferred(pattern: str, symbols: Collection[str]) -> Dfa:
    """Return the automaton of the strings that `re.match` matches as a whole, lazy or not."""
    return _full_matches(_simulation(PrioritySimulation, parse_pattern(pattern, symbols)))


def compile_tree(pattern: ParsedPattern, lazy: bool = False) -> Dfa:
    """Return the automaton of a parsed pattern; see `compile_pattern`."""
    return _full_matches(simulate(pattern, lazy))


def explore_runs(simulation: Simulation, accepts: Callable[[Runs], bool]) -> Dfa:
    """Return the automaton of the strings after which `accepts` is true of the runs."""

    def step(runs: Runs) -> Iterator[tuple[int, Runs]]:
        for letter in simulation.letters(runs):
            following = simulation.step(runs, letter)
            if following[-1]:
                yield letter, following

    classes, start = simulation.nfa.classes, simulation.begin()
    return explore(classes, start, step, accepts, simulation.budget)


def simulate(pattern: ParsedPattern, lazy: bool = False) -> Simulation:
    """Return a simulation of a parsed pattern; `lazy` as in `compile_pattern`."""
    return _simulation(
        PrioritySimulation if lazy and is_lazy(pattern.tree) else Simulation, pattern
    )


def _simulation(kind: type[Simulation], pattern: ParsedPattern) -> Simulation:
    check_size(pattern.tree)
    budget = Budget()
    return kind(build_nfa(pattern.tree, pattern.symbols, budget), budget)


def _full_matches(simulation: Simulation) -> Dfa:
    return explore_runs(simulation, lambda runs: simulation.accepts(simulation.end(runs)))
