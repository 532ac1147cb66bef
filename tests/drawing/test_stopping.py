"""Ends of strings: stop texts against a search of the whole text, decoding against cutting."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from copy import copy

import numpy as np
import pytest
import torch

from maskdiff.config import ControlConfig
from maskdiff.decoding import Completion, Decoding, LatentStates, TableModel, TokenTable, condition
from maskdiff.drawing.random import new_keys
from maskdiff.errors import ConfigError
from maskdiff.sampling import NEVER, Stopping, StopText, cut_short
from maskdiff.text.repetition import first_periodic_tail
from tests.helpers.completion import Given, Many, random_table, searched

# --------------------------------------------------------------------------------------- stop texts


def streamed(pieces: Sequence[bytes], stops: Sequence[bytes]) -> tuple[bytes, bool]:
    search, shown = StopText(stops), b""
    for piece in pieces:
        shown += search.feed(piece)
    return shown + search.close(), search.stopped


def usual(pieces: Sequence[bytes], stops: Sequence[bytes]) -> bytes:
    """The negative control: after every piece, whether one of them is in the text, and a cut at
    that which ended first."""
    text = b""
    for piece in pieces:
        text += piece
        ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
        if ends:
            return text[: min(ends)[1]]
    return text


def case(rng: random.Random) -> tuple[bytes, list[bytes], list[bytes]]:
    """A text, its pieces, which may cut through a character, and stop texts that are likely to
    overlap."""
    symbols = rng.choice(["ab", "abc", "aé", "éè日", "日曜🙂", "🙂🙃a"])

    def word(least: int, most: int) -> str:
        return "".join(rng.choices(symbols, k=rng.randint(least, most)))

    text, stops = word(0, 20), [word(1, 5) for _ in range(rng.randint(1, 4))]
    for kind in rng.choices(["prefix", "inside", "longer", "text"], k=rng.randint(0, 2)):
        base = rng.choice(stops)
        if kind == "text":
            base, kind = text or "a", "inside"
        start = rng.randrange(len(base)) if kind == "inside" else 0
        stops.append(
            base + word(1, 3)
            if kind == "longer"
            else base[start : rng.randint(start + 1, len(base))]
        )
    data = text.encode()
    places = [0, *sorted(rng.randint(0, len(data)) for _ in range(rng.randint(0, 12))), len(data)]
    return data, [data[a:b] for a, b in zip(places, places[1:])], [stop.encode() for stop in stops]


@pytest.mark.slow
def test_a_stream_is_cut_like_the_whole_text() -> None:
    """Four thousand texts in random pieces; characters are never cut."""
    rng, matched, waited, wrong = random.Random(0), 0, 0, 0
    for _ in range(4000):
        data, pieces, stops = case(rng)
        expected = searched(data, stops)
        assert streamed(pieces, stops) == (expected, len(expected) < len(data)), (pieces, stops)
        assert data.decode().startswith(expected.decode())
        matched += len(expected) < len(data)
        waited += len({searched(data, [stop]) for stop in stops}) > 2
        wrong += usual(pieces, stops) != expected
    assert matched > 1200
    assert waited > 400
    assert wrong > 80  # the usual way is not that


def common(texts: Sequence[bytes]) -> bytes:
    """Returns their longest common prefix."""
    first, last = min(texts), max(texts)
    return first[
        : next(
            (i for i, symbol in enumerate(first) if last[i : i + 1] != bytes([symbol])), len(first)
        )
    ]


def test_streams_hold_back_only_possible_stop_matches() -> None:
    """After every piece the shown text is the common prefix of all continuations.

    One character more is wrong for one of them.
    """
    rng, held = random.Random(0), 0
    for _ in range(300):
        symbols = rng.choice([b"ab", b"abc"])
        stops = [bytes(rng.choices(symbols, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        pieces = [bytes(rng.choices(symbols, k=rng.randint(0, 3))) for _ in range(5)]
        more = [
            b"".join(map(bytes, tail))
            for n in range(4)
            for tail in itertools.product(*[[[s] for s in symbols]] * n)
        ]
        search, shown, text = StopText(stops), b"", b""
        for piece in pieces:
            shown, text = shown + search.feed(piece), text + piece
            ways = [searched(text + tail, stops) for tail in more]
            assert shown == common(ways)
            assert search.stopped == (
                len(set(ways)) == 1 and ways[0] != text
            )  # no continuation changes the result
            assert search.stopped or text == shown + search.held
            held += len(search.held)
            assert shown + copy(search).close() == searched(text, stops)
    assert held > 300


def test_a_match_waits_for_one_that_began_before_it() -> None:
    search = StopText([b"bc", b"abcd"])
    assert (search.feed(b"xxabc"), search.held, search.stopped) == (b"xx", b"abc", False)
    assert (search.feed(b"d"), search.stopped, search.feed(b"more"), search.close()) == (
        b"",
        True,
        b"",
        b"",
    )
    for after, rest in ((b"e", b"a"), (b"", b"a")):
        search = StopText([b"bc", b"abcd"])
        assert search.feed(b"xxabc") + search.feed(after) + search.close() == b"xx" + rest
        assert search.stopped
    plain = StopText([])
    assert (plain.feed(b"abc"), plain.close(), plain.stopped) == (b"abc", b"", False)


# ----------------------------------------------------------------------------------------- decoding


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return new_keys(count, torch.Generator().manual_seed(seed))


def stream_of(decoding: Decoding) -> list[Completion]:
    """Returns the results after checking that the joined stream equals them."""
    streamed: dict[int, bytes] = {}
    made = decoding.run(lambda i, piece: streamed.update({i: streamed.get(i, b"") + piece}))
    assert [streamed.get(i, b"") for i in range(len(made))] == [item.data for item in made]
    return made


def tables(count: int) -> list[tuple[TableModel, bytes, random.Random]]:
    """Tables over tokens of several characters, some with texts of several bytes, and a prefix
    that need not end with one."""
    found = []
    for number in range(count):
        rng, plain = np.random.default_rng([7, number]), random.Random(number)
        table = random_table(
            rng,
            b"ab" if number % 3 else "éa".encode(),
            4,
            silent=number % 4 == 0,
            ends=1 + number % 2,
        )
        texts = [text for text in table.texts if text]
        prefix = b"".join(plain.choices(texts, k=2))[: plain.randint(0, 3)]
        found.append((TableModel(table, plain.randint(8, 16), number, 1.0), prefix, plain))
    return found


def some_stops(rng: random.Random, texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """Parts of texts, the end of one and the beginning of the next among them."""
    joined = [rng.choice(texts) + rng.choice(texts) for _ in range(rng.randint(1, 3))]
    starts = [rng.randrange(len(text)) for text in joined]
    return tuple(
        text[start : start + rng.randint(1, 4)] for text, start in zip(joined, starts, strict=True)
    )


@pytest.mark.slow
def test_a_stopped_string_is_the_other_one_cut() -> None:
    """Returns the leftmost match in the generated text.

    What was typed ends nothing, nor does a match that begins in it.
    """
    stopped, crossing = 0, 0
    for model, prefix, rng in tables(24):
        given, stops = (
            condition(model, prefix),
            some_stops(rng, [text for text in model.table.texts if text]),
        )
        whole = Decoding(given, keys(4)).run()
        made = stream_of(Decoding(given, keys(4), stopping=Stopping(stops)))
        for plain, own in zip(whole, made, strict=True):
            tail = plain.data[len(prefix) :]
            expected = searched(tail, stops)
            assert own.data == prefix + expected
            assert own.reason == ("stop" if len(expected) < len(tail) else plain.reason)
            assert own.tokens == plain.tokens[: len(own.tokens)]
            stopped += own.reason == "stop"
            crossing += searched(plain.data, stops) != own.data
    assert stopped > 20
    assert crossing > 10  # a search of the whole text would cut others


@pytest.mark.slow
def test_stop_tokens_end_a_string_before_them() -> None:
    stopped = 0
    for model, prefix, rng in tables(24):
        ids = frozenset(rng.sample([i for i, text in enumerate(model.table.texts) if text], 2))
        given = condition(model, prefix)
        whole, made = (
            Decoding(given, keys(4)).run(),
            stream_of(Decoding(given, keys(4), stopping=Stopping(tokens=ids))),
        )
        for plain, own in zip(whole, made, strict=True):
            sizes = np.cumsum([len(model.table.texts[i] or b"") for i in plain.tokens])
            before = [0, *sizes.tolist()]
            at = next(
                (k for k, i in enumerate(plain.tokens) if i in ids and before[k] >= len(prefix)),
                None,
            )
            assert own.reason == (plain.reason if at is None else "stop")
            assert own.tokens == (plain.tokens if at is None else plain.tokens[: at + 1])
            assert own.data == (plain.data if at is None else plain.data[: before[at]])
            stopped += at is not None
    assert stopped > 20


@pytest.mark.slow
def test_max_tokens_counts_all_tokens_and_cuts_no_prefix() -> None:
    cut, early = 0, 0
    for model, prefix, rng in tables(24):
        most, given = rng.randint(1, 8), condition(model, prefix)
        whole = Decoding(given, keys(4)).run()
        made = stream_of(Decoding(given, keys(4), stopping=Stopping(max_tokens=most)))
        for plain, own in zip(whole, made, strict=True):
            texts = [model.table.texts[i] or b"" for i in plain.tokens]
            covering = next(
                k for k in range(len(texts) + 1) if len(b"".join(texts[:k])) >= len(prefix)
            )
            end = max(most, covering)
            assert own.data.startswith(prefix)
            assert own.tokens == plain.tokens[:end]
            assert own.reason == ("length" if end < len(plain.tokens) else plain.reason)
            cut, early = cut + (own.reason == "length"), early + (covering > most)
    assert cut > 20
    assert early > 2


def loopy(number: int, limit: int = 40) -> TableModel:
    return TableModel(TokenTable((b"a", b"b", b"ab", None), (3,)), limit, number, 2.5)


@pytest.mark.slow
def test_loops_end_a_string_at_the_exact_step() -> None:
    """The first token with which what was generated ends in copies.

    A loop that begins in what was typed is none.
    """
    found = 0
    for number, prefix, most, repeats in itertools.product(
        range(5), (b"", b"abab"), (1, 3), (2, 3)
    ):
        given = condition(loopy(number), prefix)
        stopping = Stopping(period=most, repeats=repeats)
        whole, made = (
            Decoding(given, keys(3)).run(),
            stream_of(Decoding(given, keys(3), stopping=stopping)),
        )
        for plain, own in zip(whole, made, strict=True):
            sizes = [len(given.model.table.texts[i] or b"") for i in plain.tokens]
            typed = next(k for k in range(len(sizes) + 1) if sum(sizes[:k]) >= len(prefix))
            loop = first_periodic_tail(plain.tokens[typed:], most, repeats)
            assert own.reason == (plain.reason if loop is None else "repetition")
            assert own.tokens == (plain.tokens if loop is None else plain.tokens[: typed + loop[0]])
            assert plain.data.startswith(own.data)
            found += loop is not None
    assert found > 15


def test_an_end_while_a_match_waits() -> None:
    """The string ends, so that nothing can come before the match.

    By the model, a limit, a token or a loop.
    """
    stops = (b"bc", b"abcd")
    forced = {(): {0: 1.0}, (0,): {1: 1.0}, (0, 1): {2: 1.0}}
    model = Given((b"a", b"b", b"c", b"d"), {**forced, (0, 1, 2): {4: 1.0}})
    longer = Given((b"a", b"b", b"c", b"d"), {**forced, (0, 1, 2): {3: 1.0}})

    def made(model: Given, **settings: object) -> tuple[bytes, str]:
        (own,) = stream_of(
            Decoding(condition(model, b""), keys(1), stopping=Stopping(stops, **settings))
        )  # type: ignore[arg-type]
        return own.data, own.reason

    assert made(model) == (b"a", "stop")
    assert made(longer) == (b"", "stop")
    assert made(longer, max_tokens=3) == (b"a", "stop")
    assert made(longer, tokens=frozenset({3})) == (b"a", "stop")
    assert made(longer, max_tokens=2) == (b"ab", "length")
    again = Given((b"a", b"b", b"c", b"d"), {**forced, (0, 1, 2): {2: 1.0}})
    assert made(again, period=1, repeats=2) == (b"a", "stop")
    (partial,) = stream_of(
        Decoding(
            condition(again, b""), keys(1), stopping=Stopping((b"abccd",), period=1, repeats=2)
        )
    )
    assert (partial.data, partial.reason) == (b"abcc", "repetition")


def everything(rng: random.Random, table: TokenTable) -> Stopping:
    """Some of all that can end a string."""
    ids = [i for i, text in enumerate(table.texts) if text]
    stops = some_stops(rng, [table.texts[i] or b"" for i in ids]) if rng.random() < 0.5 else ()
    tokens = frozenset(rng.sample(ids, 1)) if rng.random() < 0.3 else frozenset()
    period = rng.choice([0, 2, 3])
    return Stopping(stops, tokens, rng.choice([0, 0, 4, 7, 12]), period, rng.randint(2, 3))


@pytest.mark.slow
def test_cut_short_equals_decoding() -> None:
    """The same tokens, whole, given or drawn: text and reason, whatever comes first."""
    reasons = []
    for model, _, rng in tables(24):
        stopping, count = everything(rng, model.table), 3
        for typed in (0, 2):
            plain = Decoding(condition(model, b""), keys(count)).run()[0]
            prefix = model.table.text(plain.tokens[:typed])
            given = condition(model, prefix)
            whole, made = (
                Decoding(given, keys(count)).run(),
                Decoding(given, keys(count), stopping=stopping).run(),
            )
            for string, own in zip(whole, made, strict=True):
                tokens = string.tokens
                sizes = [len(model.table.text(tokens[:k])) for k in range(len(tokens) + 1)]
                first = next(k for k, size in enumerate(sizes) if size >= len(prefix))
                if sizes[first] == len(prefix):  # no token spans the prompt and the drawn text
                    assert cut_short(tokens, model.table.texts, stopping, first) == (
                        own.data,
                        own.reason,
                    )
                    reasons.append(own.reason)
    assert all(reasons.count(reason) > 8 for reason in ("eos", "stop", "length", "repetition"))
    assert cut_short((0, 0), (b"a",), NEVER) == (b"aa", "eos")


@pytest.mark.slow
def test_length_conditioned_strings_end_alike() -> None:
    """They are complete at their limit; a loop at the limit still counts unless text follows
    it."""
    reasons = []
    for number in range(60):
        rng = np.random.default_rng(number)
        table = random_table(rng, b"ab", 2, ends=0)
        stopping = everything(random.Random(number), table)
        model = Many(
            table,
            LatentStates(torch.tensor([0.3, 0.7]).double().log(), (4, 9), closed=True),
            number,
        )
        given = condition(model, b"")
        whole, made = (
            Decoding(given, keys(4)).run(),
            stream_of(Decoding(given, keys(4), stopping=stopping)),
        )
        for string, own in zip(whole, made, strict=True):
            assert cut_short(string.tokens, table.texts, stopping) == (own.data, own.reason)
            reasons.append(own.reason)
    assert all(reasons.count(reason) > 10 for reason in ("eos", "stop", "length", "repetition"))
    latent_states = LatentStates(torch.zeros(1, dtype=torch.float64), (3,), True, (b"b",), b"!")
    (followed,) = Decoding(
        condition(Many(TokenTable((b"a",)), latent_states, 0), b""),
        keys(1),
        stopping=Stopping(period=1, repeats=3),
    ).run()
    assert (followed.data, followed.reason) == (b"aaab!", "eos")


def test_stopping_of_a_configuration() -> None:
    table = (None, b"a", b"ab", b"a", "é".encode())
    found = Stopping.of(
        ControlConfig(stop=("é", "ab"), stop_token=("a", "é"), max_tokens=5, loop_period=3), table
    )
    assert found == Stopping(("é".encode(), b"ab"), frozenset({1, 3, 4}), 5, 3, 4)
    assert Stopping.of(ControlConfig(), table) == NEVER
    with pytest.raises(ConfigError, match="stands everywhere"):
        Stopping.of(ControlConfig(stop=("a", "")), table)
    for token in ("abc", "", "b"):
        with pytest.raises(ConfigError, match="no token of the model; the nearest is"):
            Stopping.of(ControlConfig(stop_token=(token,)), table)
