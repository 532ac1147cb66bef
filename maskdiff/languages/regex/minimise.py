"""Minimises deterministic automata: Hopcroft's algorithm on the states that lead to acceptance."""

from __future__ import annotations

from collections.abc import Collection, Sequence

DEAD = -1  # the state from which no accepting state can be reached

Table = tuple[tuple[str, ...], tuple[tuple[int, ...], ...], frozenset[int]]


def minimise(
    classes: Sequence[str], edges: list[dict[int, int]], accepting: Collection[int]
) -> Table:
    """Return the classes, moves and accepting states of the minimal automaton in canonical order.

    Args:
        classes: The alphabet as classes, in the order of their first characters.
        edges: For each state the next state by class; state 0 is the initial state.
        accepting: The accepting states.
    """
    # Pairs of a class and a state that lead to each state.
    sources: list[list[tuple[int, int]]] = [[] for _ in edges]
    for state, row in enumerate(edges):
        for letter, to in row.items():
            sources[to].append((letter, state))
    live = _leading_to(accepting, sources)
    block = _blocks(live, set(accepting), sources)
    # Number the blocks in breadth-first order and write their moves.
    numbers, order = {block.get(0, DEAD): 0}, [0]
    rows: list[list[int]] = []
    for member in order:  # `order` grows during the loop
        moves = [DEAD] * len(classes)
        for letter, to in sorted(edges[member].items()) if member in live else ():
            if to in live:
                moves[letter] = number = numbers.setdefault(block[to], len(order))
                if number == len(order):
                    order.append(to)
        rows.append(moves)
    accepted = frozenset(n for n, member in enumerate(order) if member in accepting)
    return (*_merge_classes(classes, rows), accepted)


def _leading_to(accepting: Collection[int], sources: list[list[tuple[int, int]]]) -> set[int]:
    """The states from which an accepting state can be reached."""
    live, todo = set(accepting), list(accepting)
    while todo:
        for _, state in sources[todo.pop()]:
            if state not in live:
                live.add(state)
                todo.append(state)
    return live


def _blocks(
    live: set[int], accepting: set[int], sources: list[list[tuple[int, int]]]
) -> dict[int, int]:
    """The block of equivalent states of each live state, by Hopcroft's algorithm.

    A missing move leads to no block, so both initial blocks are splitters.
    """
    members = [part for part in (accepting, live - accepting) if part]
    block = {state: number for number, part in enumerate(members) for state in part}
    waiting = list(range(len(members)))
    while waiting:
        splitter = waiting.pop()
        # The states with a move into the splitter, by class.
        entering: dict[int, list[int]] = {}
        for to in members[splitter]:
            for letter, state in sources[to]:
                if state in live:
                    entering.setdefault(letter, []).append(state)
        for states in entering.values():
            touched: dict[int, set[int]] = {}
            for state in states:
                touched.setdefault(block[state], set()).add(state)
            for number, part in touched.items():
                if len(part) == len(members[number]):
                    continue
                rest = members[number] - part if len(part) * 2 > len(members[number]) else None
                small = part if rest is None else rest
                members[number] -= small
                for state in small:
                    block[state] = len(members)
                # The larger part keeps its number, so only the smaller part is queued.
                waiting.append(len(members))
                members.append(small)
    return block


def _merge_classes(
    classes: Sequence[str], rows: list[list[int]]
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Joins the classes that have the same moves in all states."""
    columns: dict[tuple[int, ...], list[int]] = {}
    for letter, column in enumerate(zip(*rows)):
        columns.setdefault(column, []).append(letter)
    merged = sorted(
        ("".join(sorted("".join(classes[n] for n in found))), column)
        for column, found in columns.items()
    )
    moves = zip(*(column for _, column in merged)) if merged else ((),) * len(rows)
    return tuple(members for members, _ in merged), tuple(moves)
