"""`FittedGrammar`: a probabilistic context-free grammar, fitted to strings.

Every rule of the normal form has a probability given its left-hand side, so a string has the sum
over its derivations of the product of their rules. Rules are counted in the derivations of the
training strings. Where strings have several derivations, the counts are expectations and are
repeated (EM by the inside-outside algorithm: Baker 1979; Lari and Young 1990). A constant is added
to the counts (add-alpha), chosen on held-out strings.

Only whole strings have probabilities: there are no next-symbol distributions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff.errors import DataError
from maskdiff.languages.cfg import ForestParser, Forests, NormalForm, compile_reader

if TYPE_CHECKING:
    from maskdiff.languages import Language, Vocabulary

MAX_SYMBOLS = 100_000  # symbols of different strings that are parsed at most: a fit takes seconds
HELD_OUT = 1000  # strings on which alpha is chosen at most
ALPHAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
USUAL_ALPHA = 0.1  # without held-out strings
ROUNDS = 20  # of EM at most
ENOUGH = 1e-3  # gain of a round in nats per string at which EM ends
MAX_RULES = 1_000_000  # of a grammar in a file
PARTS = ("parent", "left", "right", "emits", "log_rules", "escape")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class FittedGrammar:
    """A probabilistic grammar over the tokens of a vocabulary of characters.

    Attributes:
        grammar: The grammar over the inner symbols of the vocabulary.
        vocabulary: The vocabulary.
        log_rules: (rules,) log-probabilities of the rules in the order of `ForestParser`; those of
            one left-hand side sum to 1.
        escape: Probability of a string that the grammar does not derive, in (0, 1).
    """

    def __init__(
        self, grammar: NormalForm, vocabulary: Vocabulary, log_rules: Floats, escape: float
    ) -> None:
        self.grammar, self.vocabulary = grammar, vocabulary
        self.log_rules, self.escape = log_rules, escape

    @classmethod
    def fit(
        cls,
        grammar: NormalForm,
        strings: Sequence[Sequence[int]],
        held_out: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        seed: int = 0,
    ) -> FittedGrammar:
        """Return the fit of a grammar to strings of inner token ids.

        Equal strings are parsed once. Of many, a random choice of different strings with at most
        `MAX_SYMBOLS` symbols in all is used. Strings that the grammar does not derive count for
        `escape` alone.

        Args:
            grammar: A grammar over the inner symbols of `vocabulary`.
            strings: The strings.
            held_out: Strings that choose alpha; of many, the first `HELD_OUT`.
            vocabulary: The vocabulary.
            seed: Of the choice of strings.

        Raises:
            DataError: The grammar derives none of the strings.
        """
        started = cls(grammar, vocabulary, np.zeros(0), 0.5)
        chosen, counts = _chosen(strings, seed)
        forests = started._parsed(chosen)
        derived = forests.root >= 0
        if not derived.any():
            raise DataError("the grammar derives none of the strings, so it cannot be fitted")
        heads = started._parser.heads
        expected = _expected_counts(forests, counts * derived, heads)
        # Alpha is that under which the held-out strings are most likely.
        tests = started._parsed(held_out[:HELD_OUT])
        known = tests.root >= 0
        alpha = USUAL_ALPHA
        if known.any():
            alpha = max(
                ALPHAS,
                key=lambda a: float(tests.log_probs(_smoothed(expected, heads, a))[known].sum()),
            )
        missed = float(counts[~derived].sum()) + int((~known).sum())
        escape = (missed + 1) / (float(counts.sum()) + len(known) + 2)
        return cls(grammar, vocabulary, _smoothed(expected, heads, alpha), escape)

    # ---------------------------------------------------------------------------- probabilities

    def log_probs(self, strings: Sequence[Sequence[int]]) -> Floats:
        """Return log p of each string of token ids by the rules alone, (strings,), in nats.

        It is minus infinity for a string that the grammar does not derive.
        """
        return self._parsed(strings).log_probs(self.log_rules)

    def smoothed_log_probs(self, strings: Sequence[Sequence[int]]) -> Floats:
        """Return log((1 - escape) p(x) + escape u(x)) of each string, (strings,), in nats.

        u draws each symbol and the end with equal probabilities, so that every string has a
        probability.
        """
        lengths = np.array([len(string) for string in strings], dtype=np.int64)
        uniform = -(lengths + 1) * np.log(len(self.grammar.symbols) + 1)
        by_rules = np.log1p(-self.escape) + self.log_probs(strings)
        return np.asarray(np.logaddexp(by_rules, np.log(self.escape) + uniform))

    def _parsed(self, strings: Sequence[Sequence[int]]) -> Forests:
        index = {token: i for i, token in enumerate(self.vocabulary.inner_ids)}
        return self._parser([[index.get(token, -1) for token in string] for string in strings])

    @cached_property
    def _parser(self) -> ForestParser:
        return ForestParser(self.grammar)

    # ------------------------------------------------------------------------------------ files

    def state(self) -> dict[str, torch.Tensor]:
        """Return the rules and their probabilities as tensors, for a checkpoint."""
        grammar = self.grammar
        arrays = [grammar.parent, grammar.left, grammar.right, grammar.emits.astype(np.int64)]
        values = [*arrays, self.log_rules, np.array([self.escape])]
        return {
            name: torch.from_numpy(value.copy()) for name, value in zip(PARTS, values, strict=True)
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], vocabulary: Vocabulary) -> FittedGrammar:
        """Return the grammar of `state`. Raises DataError for rules that no grammar has."""
        try:
            if set(state) != set(PARTS):
                raise ValueError("parts are missing")
            parent, left, right, emits, log_rules, escape = (
                state[name].cpu().numpy() for name in PARTS
            )
            _check(parent, left, right, emits, len(vocabulary.inner_ids))
            names = tuple(map(str, range(len(emits))))
            symbols = vocabulary.inner_symbols
            grammar = NormalForm(symbols, names, emits.astype(bool), parent, left, right)
            fitted = cls(grammar, vocabulary, log_rules, float(escape[0]))
            _check_probabilities(fitted, escape)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"the fitted grammar is damaged: {error}") from None
        return fitted


def fit_grammar(
    language: Language, strings: Sequence[str], held_out: Sequence[str], seed: int = 0
) -> FittedGrammar | None:
    """Return the grammar of a language, fitted to strings.

    It is None for a language without a grammar, and if the grammar derives none of the strings. The
    grammar is that of the strings that are accepted: with `%ignore`, white space has rules, too.
    """
    source, vocabulary = language.lark_grammar(), language.vocabulary
    if source is None:
        return None
    grammar = compile_reader(source, vocabulary.inner_symbols)
    encode = vocabulary.encode_many
    try:
        return FittedGrammar.fit(grammar, encode(strings), encode(held_out), vocabulary, seed)
    except DataError:
        return None


def _chosen(strings: Sequence[Sequence[int]], seed: int) -> tuple[list[tuple[int, ...]], Floats]:
    """Different strings with at most `MAX_SYMBOLS` symbols, and how often each occurs."""
    counted = Counter(map(tuple, strings))
    distinct = list(counted)
    if sum(map(len, distinct)) > MAX_SYMBOLS:
        order = np.random.default_rng([seed, 83]).permutation(len(distinct))
        ends = np.cumsum([len(distinct[i]) for i in order])
        most = max(1, int(np.searchsorted(ends, MAX_SYMBOLS, side="right")))
        distinct = [distinct[i] for i in order[:most]]
    return distinct, np.array([counted[string] for string in distinct], dtype=np.float64)


def _expected_counts(forests: Forests, counts: Floats, heads: Ints) -> Floats:
    """(rules,) the counts of the rules at the end of EM, from equal probabilities of rules."""
    log_rules = _smoothed(np.zeros(len(heads)), heads, 1.0)
    expected = forests.expected_counts(log_rules, counts)
    derived = forests.root >= 0
    before = -np.inf
    for _ in range(ROUNDS if forests.ambiguous else 0):
        log_rules = _smoothed(expected, heads, 0.0)
        now = float((counts * forests.log_probs(log_rules))[derived].sum())
        if now - before < ENOUGH * counts.sum():
            break
        before, expected = now, forests.expected_counts(log_rules, counts)
    return expected


def _smoothed(counts: Floats, heads: Ints, alpha: float) -> Floats:
    """(rules,) log-probabilities from counts plus alpha; equal ones where nothing was counted."""
    totals = np.bincount(heads, counts)
    unseen = totals[heads] == 0
    raised = np.where(unseen, 1.0, counts + alpha)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(raised) - np.log(np.bincount(heads, raised))[heads])


def _check(parent: Any, left: Any, right: Any, emits: Any, symbols: int) -> None:
    """Raise ValueError unless arrays are the rules of a `NormalForm`."""
    if emits.ndim != 2 or emits.shape[1] != symbols or not len(emits):
        raise ValueError("its symbols are not those of the vocabulary")
    if not np.isin(emits, (0, 1)).all() or emits.size > 64 * MAX_RULES:
        raise ValueError("its symbols are not flags")
    if not len(parent) == len(left) == len(right) <= MAX_RULES:
        raise ValueError("rules are incomplete")
    for column in (parent, left, right):
        if column.ndim != 1 or column.dtype != np.int64:
            raise ValueError("rules are not lists of integers")
        if len(column) and not 0 <= column.min() <= column.max() < len(emits):
            raise ValueError("a rule has an unknown nonterminal")
    if (np.diff(parent) < 0).any():
        raise ValueError("rules are not sorted")


def _check_probabilities(fitted: FittedGrammar, escape: NDArray[Any]) -> None:
    """Raise ValueError unless the rules of each left-hand side sum to 1."""
    heads, log_rules = fitted._parser.heads, fitted.log_rules
    if log_rules.shape != heads.shape or escape.shape != (1,) or log_rules.dtype != np.float64:
        raise ValueError("its probabilities are not those of its rules")
    sums = np.bincount(heads, np.exp(log_rules))
    if not np.allclose(sums[np.unique(heads)], 1.0, atol=1e-6) or not 0 < fitted.escape < 1:
        raise ValueError("its probabilities do not sum to 1")
