"""Decides whether look-arounds of a pattern can see beyond the string that the pattern matches.

`re.fullmatch` lets a pattern see only the string itself. A terminal of a grammar stands inside a
longer text, where its look-arounds see what is before and after it, so that it may match there
what it does not match alone, or the other way round. Whether it can is decided exactly, by a search
through all texts `before + string + after`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from maskdiff.errors import quote
from maskdiff.languages.regex.compiling import compile_tree, explore_runs, make_runner
from maskdiff.languages.regex.dfa import Dfa
from maskdiff.languages.regex.limits import MAX_STATES, RegexError, nesting_limit
from maskdiff.languages.regex.minimise import DEAD
from maskdiff.languages.regex.reading import Construct, read_pattern
from maskdiff.languages.regex.run import Runner, Runs

_BEFORE, _INSIDE, _AFTER, _END = range(4)  # the end of the match, before the text behind it
# The part of the text, the runs there for each sight (see `_Search`), the state of the automaton.
_State = tuple[int, tuple[Runs, ...], int]
_Example = tuple[str, str, str]


@dataclass(frozen=True)
class ContextDependence:
    """A look-around that sees text before or after a match, and what that changes.

    Attributes:
        construct: the look-around, anchor or word boundary, as a pattern.
        kind: such as "negative look-ahead".
        side: "before" or "after": where the text is that is seen.
        effect: "forbids" if the string of `example` matches alone and not in this context,
            "allows" if it matches in this context and not alone.
        example: a shortest text, as what is before the string, the string and what is after it.
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
    """What the matches of a pattern depend on beyond themselves, in any text over `symbols`.

    Without any, the pattern matches a part of a text exactly if it matches that part alone.
    `behind` are the characters that text behind a match can begin with, all of them without it.
    Other arguments and errors are those of `compile_pattern`.
    """
    read = read_pattern(pattern, symbols, flags)
    if not read.constructs:
        return ()
    runner = make_runner(read, lazy)
    search = _Search(runner, compile_tree(read, lazy), behind)
    every = range(len(read.constructs))
    together = search.differences([every], ("before", "after"))
    if not together:
        return ()
    found = []
    for number in every:
        for side in ("before", "after"):
            for effect, example in search.differences([every, (number,)], (side,)).items():
                found.append(_dependence(read.constructs[number], side, effect, example))
    if found:
        return tuple(found)
    # No look-around changes anything by itself, but several of them do together.
    joined = Construct(", ".join(construct.text for construct in read.constructs), "look-arounds")
    return tuple(
        _dependence(joined, "after" if example[2] else "before", effect, example)
        for effect, example in together.items()
    )


@nesting_limit()
def compile_followed(
    pattern: str, symbols: Collection[str], flags: int | Collection[str] = 0, lazy: bool = False
) -> Dfa:
    """The automaton of the strings that a pattern matches at the beginning of some text.

    These are the strings that it matches alone, and those for which a look-ahead needs more text.
    Arguments and errors are those of `compile_pattern`.
    """
    read = read_pattern(pattern, symbols, flags)
    runner = make_runner(read, lazy)
    every = range(len(read.constructs))

    def accepts(runs: Runs) -> bool:
        seen = [runner.end(runs, every)]
        for after in seen:  # grows on the way
            if runner.accepts(after):
                return True
            following = (
                runner.step_after(after, letter)
                for letter in range(len(runner.nfa.classes))
                if after[-1]
            )
            seen += [new for new in following if new not in seen]
            if len(seen) > MAX_STATES:
                raise RegexError(
                    f"it takes more than {MAX_STATES} states to find out what look-aheads need"
                )
        return False

    return explore_runs(runner, accepts)


def _dependence(
    construct: Construct, side: str, effect: str, example: _Example
) -> ContextDependence:
    return ContextDependence(construct.text, construct.kind, side, effect, example)


class _Search:
    """Breadth-first search through texts for one that a pattern matches otherwise than alone."""

    def __init__(self, runner: Runner, alone: Dfa, behind: Collection[str] | None = None) -> None:
        self.runner, self.alone = runner, alone
        classes = runner.nfa.classes
        self._letters = [alone.letter(part[0]) for part in classes]
        self._behind = [
            letter
            for letter, part in enumerate(classes)
            if behind is None or not set(behind).isdisjoint(part)
        ]

    def differences(
        self, sights: Sequence[Collection[int]], sides: Collection[str]
    ) -> dict[str, _Example]:
        """The first example of each effect that is the same under every sight.

        Args:
            sights: sets of constructs; under each one, only these see beyond the string.
            sides: "before" and "after", where text may stand.
        """
        start: _State = (_BEFORE, (self.runner.begin_before(),) * len(sights), 0)
        came_from: dict[_State, tuple[_State, int] | None] = {start: None}
        found: dict[str, _Example] = {}
        for state in (order := [start]):  # grows on the way
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
        """The next states, each with the class of the character, or `DEAD` where none is read."""
        part, runs, at = state
        runner, letters = self.runner, range(len(self._letters))
        if part == _BEFORE:
            begun = tuple(runner.begin(run, sight) for run, sight in zip(runs, sights))
            yield DEAD, (_INSIDE, begun, 0)
            if "before" in sides:
                for letter in letters:
                    yield letter, (_BEFORE, tuple(runner.step(run, letter) for run in runs), 0)
        elif part == _INSIDE:
            ended = tuple(runner.end(run, sight) for run, sight in zip(runs, sights))
            matches = at in self.alone.accepting
            if matches or any(run[-1] for run in ended):
                yield DEAD, (_END, ended, int(matches))
            for letter in letters:
                to = DEAD if at == DEAD else self.alone.moves[at][self._letters[letter]]
                following = tuple(runner.step(run, letter) for run in runs)
                if to != DEAD or any(run[-1] for run in following):
                    yield letter, (_INSIDE, following, to)
        elif "after" in sides and any(run[-1] for run in runs):
            for letter in self._behind if part == _END else letters:
                yield letter, (_AFTER, tuple(runner.step_after(run, letter) for run in runs), at)

    def _effect(self, state: _State) -> str | None:
        part, runs, matches_alone = state
        if part not in (_AFTER, _END) or any(
            self.runner.accepts(run) == bool(matches_alone) for run in runs
        ):
            return None
        return "forbids" if matches_alone else "allows"

    def _example(
        self, state: _State, came_from: dict[_State, tuple[_State, int] | None]
    ) -> _Example:
        parts, classes = ["", "", ""], self.runner.nfa.classes
        while (step := came_from[state]) is not None:
            state, letter = step
            if letter != DEAD:
                shown = next(
                    (one for one in classes[letter] if one.isprintable()), classes[letter][0]
                )
                parts[min(state[0], _AFTER)] = shown + parts[min(state[0], _AFTER)]
        return parts[0], parts[1], parts[2]
