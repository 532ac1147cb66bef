"""Decides whether a match of a pattern depends on the text around it.

`re.fullmatch` shows a pattern the string alone. In a longer text the look-arounds of a terminal see
what is before and after it, so it may match a string there that it does not match alone, or the
other way round. A breadth-first search over all texts `before + string + after` decides it exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from maskdiff.errors import quote
from maskdiff.languages.regex.compiling import compile_tree, explore_runs, simulate
from maskdiff.languages.regex.dfa import Dfa
from maskdiff.languages.regex.limits import MAX_STATES, RegexError, nesting_limit
from maskdiff.languages.regex.minimise import DEAD
from maskdiff.languages.regex.parsing import Construct, parse_pattern
from maskdiff.languages.regex.simulation import Runs, Simulation

_BEFORE, _INSIDE, _AFTER, _END = range(4)  # parts of the text; `_END` is the end of the match
# A part of the text, the runs for each set of constructs that see beyond the match, and the state
# of the automaton of the pattern alone.
_State = tuple[int, tuple[Runs, ...], int]
_Example = tuple[str, str, str]


@dataclass(frozen=True)
class ContextDependence:
    """A look-around whose result depends on text beyond the match.

    Attributes:
        construct: The look-around, anchor or word boundary, as a pattern.
        kind: For example `negative look-ahead`.
        side: Where the text is, `before` or `after`.
        effect: `forbids` if the string of `example` matches alone and not in its context,
            `allows` if it matches in its context and not alone.
        example: A shortest text: the part before the string, the string, the part after it.
    """

    construct: str
    kind: str
    side: str
    effect: str
    example: tuple[str, str, str]

    def __str__(self) -> str:
        before, text, after = self.example
        beyond = "end" if self.side == "after" else "beginning"
        places = [f"after {quote(before)}"] if before else []
        places += [f"before {quote(after)}"] if after else []
        alone, here = ("matches", "not") if self.effect == "forbids" else ("does not match", "does")
        return (
            f"the {self.kind} {quote(self.construct)} can see beyond the {beyond} of the match: "
            f"{quote(text)} {alone} alone, but {here} {' and '.join(places)}"
        )


@nesting_limit()
def context_dependences(
    pattern: str,
    symbols: Collection[str],
    flags: int | Collection[str] = 0,
    lazy: bool = False,
    behind: Collection[str] | None = None,
) -> tuple[ContextDependence, ...]:
    """Return the look-arounds through which matches depend on the text around them.

    If there are none, the pattern matches a part of a text if and only if it matches it alone.

    Args:
        pattern, symbols, flags, lazy: See `compile_pattern`.
        behind: The characters that can follow a match directly; None for all.

    Raises:
        RegexError: See `compile_pattern`.
    """
    parsed = parse_pattern(pattern, symbols, flags)
    if not parsed.constructs:
        return ()
    simulation = simulate(parsed, lazy)
    search = _Search(simulation, compile_tree(parsed, lazy), behind)
    every = range(len(parsed.constructs))
    together = search.differences([every], ("before", "after"))
    if not together:
        return ()
    found = []
    for number in every:
        for side in ("before", "after"):
            for effect, example in search.differences([every, (number,)], (side,)).items():
                found.append(_dependence(parsed.constructs[number], side, effect, example))
    if found:
        return tuple(found)
    # No look-around changes anything by itself, but several of them do together.
    joined = Construct(", ".join(construct.text for construct in parsed.constructs), "look-arounds")
    return tuple(
        _dependence(joined, "after" if example[2] else "before", effect, example)
        for effect, example in together.items()
    )


@nesting_limit()
def compile_followed(
    pattern: str, symbols: Collection[str], flags: int | Collection[str] = 0, lazy: bool = False
) -> Dfa:
    """Return the automaton of the strings that a pattern matches at the start of some text.

    A look-ahead may need the text behind. For arguments and errors see `compile_pattern`.
    """
    parsed = parse_pattern(pattern, symbols, flags)
    simulation = simulate(parsed, lazy)
    every = range(len(parsed.constructs))

    def accepts(runs: Runs) -> bool:
        seen = [simulation.end(runs, every)]
        for after in seen:  # `seen` grows during the loop
            if simulation.accepts(after):
                return True
            following = (
                simulation.step_after(after, letter)
                for letter in range(len(simulation.nfa.classes))
                if after[-1]
            )
            seen += [new for new in following if new not in seen]
            if len(seen) > MAX_STATES:
                raise RegexError(
                    f"it takes more than {MAX_STATES} states to find out what look-aheads need"
                )
        return False

    return explore_runs(simulation, accepts)


def _dependence(
    construct: Construct, side: str, effect: str, example: _Example
) -> ContextDependence:
    return ContextDependence(construct.text, construct.kind, side, effect, example)


class _Search:
    """Breadth-first search for a text in which a pattern matches a string otherwise than alone."""

    def __init__(
        self, simulation: Simulation, alone: Dfa, behind: Collection[str] | None = None
    ) -> None:
        self.simulation, self.alone = simulation, alone
        classes = simulation.nfa.classes
        self._letters = [alone.letter(part[0]) for part in classes]
        self._behind = [
            letter
            for letter, part in enumerate(classes)
            if behind is None or not set(behind).isdisjoint(part)
        ]

    def differences(
        self, sights: Sequence[Collection[int]], sides: Collection[str]
    ) -> dict[str, _Example]:
        """Return the first example of each effect that occurs under every sight.

        Args:
            sights: Sets of constructs; under each, only these constructs see beyond the string.
            sides: Where text may be: `before`, `after`, or both.
        """
        start: _State = (_BEFORE, (self.simulation.begin_before(),) * len(sights), 0)
        came_from: dict[_State, tuple[_State, int] | None] = {start: None}
        found: dict[str, _Example] = {}
        for state in (order := [start]):  # `order` grows during the loop
            effect = self._effect(state)
            if effect and effect not in found:
                found[effect] = self._example(state, came_from)
            for letter, following in self._steps(state, sights, sides):
                if following not in came_from:
                    came_from[following] = (state, letter)
                    order.append(following)
            if len(order) > 2 * MAX_STATES:
                raise RegexError(
                    f"it takes more than {2 * MAX_STATES} states to find out whether look-arounds "
                    "see beyond a match"
                )
        return found

    def _steps(
        self, state: _State, sights: Sequence[Collection[int]], sides: Collection[str]
    ) -> Iterator[tuple[int, _State]]:
        """The next states, each with the class that is read, or `DEAD` if none is."""
        part, runs, at = state
        simulation, letters = self.simulation, range(len(self._letters))
        if part == _BEFORE:
            begun = tuple(simulation.begin(run, sight) for run, sight in zip(runs, sights))
            yield DEAD, (_INSIDE, begun, 0)
            if "before" in sides:
                for letter in letters:
                    yield letter, (_BEFORE, tuple(simulation.step(run, letter) for run in runs), 0)
        elif part == _INSIDE:
            ended = tuple(simulation.end(run, sight) for run, sight in zip(runs, sights))
            matches = at in self.alone.accepting
            if matches or any(run[-1] for run in ended):
                yield DEAD, (_END, ended, int(matches))
            for letter in letters:
                to = DEAD if at == DEAD else self.alone.moves[at][self._letters[letter]]
                following = tuple(simulation.step(run, letter) for run in runs)
                if to != DEAD or any(run[-1] for run in following):
                    yield letter, (_INSIDE, following, to)
        elif "after" in sides and any(run[-1] for run in runs):
            for letter in self._behind if part == _END else letters:
                yield (
                    letter,
                    (_AFTER, tuple(simulation.step_after(run, letter) for run in runs), at),
                )

    def _effect(self, state: _State) -> str | None:
        part, runs, matches_alone = state
        if part not in (_AFTER, _END) or any(
            self.simulation.accepts(run) == bool(matches_alone) for run in runs
        ):
            return None
        return "forbids" if matches_alone else "allows"

    def _example(
        self, state: _State, came_from: dict[_State, tuple[_State, int] | None]
    ) -> _Example:
        parts, classes = ["", "", ""], self.simulation.nfa.classes
        while (step := came_from[state]) is not None:
            state, letter = step
            if letter != DEAD:
                shown = next(
                    (one for one in classes[letter] if one.isprintable()), classes[letter][0]
                )
                parts[min(state[0], _AFTER)] = shown + parts[min(state[0], _AFTER)]
        return parts[0], parts[1], parts[2]
