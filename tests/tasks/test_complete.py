"""Tests of `complete` on tiny random models: both modes against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.config import CompletionConfig
from maskdiff.decoding import CausalModel, Decoding, condition, ending_with
from maskdiff.drawing.random import new_keys
from maskdiff.errors import CanvasError, ConfigError, DataError
from maskdiff.models.continuation import ROOT as NO_PARENT
from maskdiff.sampling import causal_log_prob
from tests.helpers.completion import chi_square
from tests.helpers.tiny import PIECES, tiny_loaded

PREFIX = "(+(*75)1"


@pytest.fixture(scope="module")
def pieced() -> Loaded:
    """A model that reads pieces and ends its strings itself, in double precision."""
    loaded = tiny_loaded(**PIECES)
    loaded.denoiser.model.double()
    return loaded


@pytest.fixture(scope="module")
def plain() -> Loaded:
    """A model that reads characters and gets the length."""
    loaded = tiny_loaded()
    loaded.denoiser.model.double()
    return loaded


def next_log_probs(loaded: Loaded, history: list[int]) -> Tensor:
    """log p(next token | history), (vocab,), by a forward pass of a model that draws its end."""
    vocabulary = loaded.vocabulary
    tokens = torch.tensor([[vocabulary.bos, *history, vocabulary.mask]])
    model = loaded.denoiser.model
    logits = model.forward_strings(tokens, torch.tensor([tokens.shape[1]]), torch.zeros(1), True)[
        0, -1
    ]
    allowed = torch.zeros(len(vocabulary), dtype=torch.bool)
    allowed[[*vocabulary.inner_ids, vocabulary.eos]] = True
    return logits.double().masked_fill(~allowed, -math.inf).log_softmax(-1)


def brute_mass(loaded: Loaded, history: list[int], prefix: str) -> float:
    """log Z by the definition, one forward pass a history."""
    text = "".join(loaded.vocabulary.symbols[i] for i in history)
    if text.startswith(prefix):
        return 0.0
    if not prefix.startswith(text):
        return -math.inf
    log_next = next_log_probs(loaded, history)
    terms = [
        float(log_next[t]) + brute_mass(loaded, [*history, t], prefix)
        for t in loaded.vocabulary.inner_ids
    ]
    return float(np.logaddexp.reduce(terms))


# -------------------------- the causal mode


def test_the_packed_tree_equals_plain_passes(pieced: Loaded) -> None:
    """Nodes with parents of earlier calls and of the same call, in any order of depth."""
    tree, rng = CausalModel(pieced.denoiser, pieced.lengths).tree(), np.random.default_rng(3)
    histories: list[list[int]] = []
    for size in (1, 7, 1, 12):
        parents, tokens = [], []
        for _ in range(size):
            parent = int(rng.integers(-1, len(histories))) if histories else NO_PARENT
            token = 0 if parent == NO_PARENT else int(rng.choice(pieced.vocabulary.inner_ids))
            histories.append([] if parent == NO_PARENT else [*histories[parent], token])
            parents.append(parent)
            tokens.append(token)
        got = tree.extend(torch.tensor(parents), torch.tensor(tokens))
        for row, history in zip(got, histories[-size:], strict=True):
            torch.testing.assert_close(row, next_log_probs(pieced, history), atol=1e-9, rtol=0)
    assert (tree.calls, tree.positions) == (4, 21)
    chain = rng.choice(
        pieced.vocabulary.inner_ids, size=70
    ).tolist()  # longer than a string of the training
    for parent in (NO_PARENT, 5):
        first, before = len(histories), [] if parent == NO_PARENT else histories[parent]
        tokens = [0, *chain] if parent == NO_PARENT else chain
        histories += [[*before, *chain[: i + (parent != NO_PARENT)]] for i in range(len(tokens))]
        parents = [parent, *range(first, first + len(tokens) - 1)]
        got = tree.extend(torch.tensor(parents), torch.tensor(tokens))
        for i in (0, 1, 33, len(tokens) - 1):
            torch.testing.assert_close(
                got[i], next_log_probs(pieced, histories[first + i]), atol=1e-9, rtol=0
            )
    leaf = len(histories) - 1
    got = tree.extend(
        torch.tensor([leaf, 3]), torch.tensor([chain[0], chain[1]])
    )  # they see what chains left
    for row, history in zip(
        got, ([*histories[leaf], chain[0]], [*histories[3], chain[1]]), strict=True
    ):
        torch.testing.assert_close(row, next_log_probs(pieced, history), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_z_and_q_equal_brute_force(pieced: Loaded) -> None:
    model = CausalModel(pieced.denoiser, pieced.lengths)
    conditioned = condition(model, PREFIX.encode(), "exact")
    assert conditioned.summary.calls == 1
    assert (
        conditioned.summary.positions
        == conditioned.summary.histories
        == len(conditioned.histories)
        > 10
    )
    for node in range(len(conditioned.histories)):
        history = conditioned.histories.path(node)
        z = brute_mass(pieced, history, PREFIX)
        assert float(conditioned.log_z[node]) == pytest.approx(z, abs=1e-9)
        log_next, log_q = next_log_probs(pieced, history), conditioned.log_q([node])[0]
        for token in pieced.vocabulary.inner_ids:
            want = float(log_next[token]) + brute_mass(pieced, [*history, token], PREFIX) - z
            assert math.exp(float(log_q[token])) == pytest.approx(math.exp(want), abs=1e-10)


def test_passes_are_counted_as_the_model_sees_them(pieced: Loaded) -> None:
    """A hook on the model counts what the summary claims."""
    seen: list[int] = []
    model = pieced.denoiser.model
    handle = model.blocks[0].register_forward_hook(
        lambda _, given, __: seen.append(given[0].shape[0])
    )
    try:
        conditioned = condition(
            CausalModel(pieced.denoiser, pieced.lengths), PREFIX.encode(), "exact"
        )
    finally:
        handle.remove()
    assert seen == [conditioned.summary.histories] * model.config.k_iter


def test_a_length_that_is_told_is_drawn_with_the_first_token(plain: Loaded) -> None:
    """Z is the sum over n of p(n) p(prefix | n); a draw has log-probability p(n) p(text | n)."""
    conditioned = condition(CausalModel(plain.denoiser, plain.lengths), b"(+1", "exact")
    vocabulary, masses = plain.vocabulary, []
    for n in np.flatnonzero(plain.lengths > 0).tolist():
        if n < 3:
            continue
        ids = vocabulary.encode("(+1")
        tokens = torch.tensor(
            [[vocabulary.bos, *ids, *[vocabulary.mask] * (n - 3), vocabulary.eos]]
        )
        logits = plain.denoiser(tokens, torch.tensor([n + 2]), torch.zeros(1), True)[0]
        allowed = torch.zeros(len(vocabulary), dtype=torch.bool)
        allowed[list(vocabulary.inner_ids)] = True
        log_probs = logits.double().masked_fill(~allowed, -math.inf).log_softmax(-1)
        masses.append(
            math.log(plain.lengths[n])
            + sum(float(log_probs[i + 1, token]) for i, token in enumerate(ids))
        )
    assert conditioned.summary.log_z == pytest.approx(float(np.logaddexp.reduce(masses)), abs=1e-4)
    drawn = Decoding(conditioned, new_keys(20, torch.Generator().manual_seed(0))).run()
    for item in drawn:
        ids = vocabulary.encode(item.data.decode())
        tokens = torch.tensor([[vocabulary.bos, *ids, vocabulary.eos]])
        own = float(causal_log_prob(plain.denoiser, tokens, torch.tensor([len(ids) + 2]))[0])
        assert item.log_p == pytest.approx(own + math.log(plain.lengths[len(ids)]), abs=1e-3)


def test_the_causal_mode_that_is_not_told_ignores_the_end(pieced: Loaded) -> None:
    tokens = torch.tensor([[2, 20, 21, 22, 3]])
    model, zero = pieced.denoiser.model, torch.zeros(1)
    near, far = (
        model.forward_strings(tokens, torch.tensor([n]), zero, True)[0, 1:4] for n in (5, 9)
    )
    assert torch.equal(near, far)
    both = [model.forward_strings(tokens, torch.tensor([n]), zero, False)[0, 1:4] for n in (5, 9)]
    assert not torch.allclose(*both)


def test_an_aligned_head_completes_nothing() -> None:
    with pytest.raises(ConfigError, match="predicts no next token"):
        tasks.complete(tiny_loaded(head="aligned"), ["(+"])


# -------------------------- a suffix


def canvas_log_probs(loaded: Loaded, row: list[int], place: int) -> Tensor:
    """(vocab,) log-probabilities of one place of a canvas by one plain call."""
    tokens = torch.tensor([[loaded.vocabulary.bos, *row, loaded.vocabulary.eos]])
    logits = loaded.denoiser(tokens, torch.tensor([len(row) + 2]), torch.zeros(1), False)[
        0, place + 1
    ]
    allowed = torch.zeros(len(loaded.vocabulary), dtype=torch.bool)
    allowed[list(loaded.vocabulary.inner_ids)] = True
    return logits.double().masked_fill(~allowed, -math.inf).log_softmax(-1)


def brute_joint(loaded: Loaded, n: int, prefix: str, suffix: str) -> dict[str, float]:
    """p(text | n) of all strings of n tokens with this prefix and suffix, as they are drawn."""
    mask, symbols, found = loaded.vocabulary.mask, loaded.vocabulary.symbols, {}
    stack: list[tuple[list[int], float]] = [([], 0.0)]
    ends: list[tuple[list[int], float]] = []
    while stack:
        end, log_p = stack.pop()
        text = "".join(symbols[i] for i in end)
        if text.endswith(suffix):
            ends.append((end, log_p))
        elif suffix.endswith(text) and len(end) < n:
            log_next = canvas_log_probs(loaded, [mask] * (n - len(end)) + end, n - len(end) - 1)
            stack += [([t, *end], log_p + float(log_next[t])) for t in loaded.vocabulary.inner_ids]
    for end, log_p in ends:
        fillings: list[tuple[list[int], float]] = [([], log_p)]
        for place in range(n - len(end)):
            longer = []
            for start, own in fillings:
                log_next = canvas_log_probs(
                    loaded, start + [mask] * (n - len(end) - place) + end, place
                )
                for t in loaded.vocabulary.inner_ids:
                    text = "".join(symbols[i] for i in [*start, t])
                    if text.startswith(prefix) or prefix.startswith(text):
                        longer.append(([*start, t], own + float(log_next[t])))
            fillings = longer
        for start, own in fillings:
            text = "".join(symbols[i] for i in start + end)
            found[text] = float(np.logaddexp(found.get(text, -math.inf), own))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("prefix, suffix", [("9", "=4"), ("", "=45")])
def test_a_suffix_is_conditioned_on_exactly(prefix: str, suffix: str) -> None:
    """All strings of at most 3 tokens by brute force: Z, and log-probabilities of draws."""
    small = {"vocabulary": "bpe", "vocab_size": 30, "causal_length": False}
    loaded = tiny_loaded(**small)
    loaded.denoiser.model.double()
    lengths = np.array([0.0, 0.2, 0.3, 0.5])
    conditioned = condition(
        ending_with(loaded.denoiser, lengths, suffix.encode()), prefix.encode(), "exact"
    )
    texts: dict[str, float] = {}
    for n in (1, 2, 3):
        for text, log_p in brute_joint(loaded, n, prefix, suffix).items():
            if text.startswith(prefix) and len(text) >= len(prefix) + len(suffix):
                texts[text] = float(
                    np.logaddexp(texts.get(text, -math.inf), log_p + math.log(lengths[n]))
                )
    assert conditioned.summary.log_z == pytest.approx(
        float(np.logaddexp.reduce(list(texts.values()))), abs=1e-5
    )
    drawn = Decoding(conditioned, new_keys(10_000, torch.Generator().manual_seed(1))).run()
    shares = {text: math.exp(p - conditioned.summary.log_z) for text, p in texts.items()}
    assert {item.data.decode() for item in drawn} <= set(texts)
    if len(texts) > 1:
        assert (
            chi_square([item.data.decode() for item in drawn], shares) < 4.8
        )  # one false alarm in a million
        alike = dict.fromkeys(texts, 1 / len(texts))
        assert (
            chi_square([item.data.decode() for item in drawn], alike) > 4.8
        )  # another distribution is noticed


def test_with_a_suffix_both_ends_are_kept(pieced: Loaded, plain: Loaded) -> None:
    pieced.denoiser.model.float()
    settings = CompletionConfig(mode="beam", beam=4)
    for loaded in (pieced, plain):
        for result in tasks.complete(
            loaded, ["(+(*7", "3"], num=4, suffix="=45", settings=settings
        ):
            assert result.text.endswith("=45")
            assert result.text.startswith(("(+(*7", "3"))
            assert result.completion is not None
    pieced.denoiser.model.double()


# -------------------------- the verb


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "beam", "canonical", "auto"])
def test_every_completion_begins_with_what_was_typed(
    pieced: Loaded, plain: Loaded, mode: str
) -> None:
    typed = ["", "( + 3", PREFIX]
    for loaded, text in itertools.product((pieced, plain), typed):
        results = tasks.complete(loaded, [text], num=3, settings=CompletionConfig(mode=mode))
        assert len(results) == 3
        for result in results:
            assert result.text.startswith(text.replace(" ", ""))
            assert result.completion is not None
            assert 0.0 <= result.completion.dropped <= 1.0
            assert result.evaluations >= result.completion.calls
            assert result.score is not None
            assert result.score < 0


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch_nor_on_other_lines(pieced: Loaded) -> None:
    texts: list[str | DataError] = ["(+3", DataError("no text"), PREFIX]
    one = tasks.complete(pieced, texts, num=5, seed=7)
    two = tasks.complete(pieced, texts, num=5, seed=7, batch_size=2)
    assert [r.text for r in one] == [r.text for r in two]
    assert [r.finish_reason for r in one].count("error") == 1
    other = tasks.complete(pieced, ["(+3", "(z", PREFIX], num=5, seed=7)
    assert [r.text for r in other] == [r.text for r in one]
    streamed: dict[int, str] = {}
    watched = tasks.completing(
        pieced,
        ["(+3"],
        num=5,
        seed=7,
        on_characters=lambda number, piece: streamed.update(
            {number: streamed.get(number, "") + piece}
        ),
    )
    assert [r.text for r in watched] == [r.text for r in one[:5]] == [streamed[i] for i in range(5)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("(+z", "unknown symbol 'z' at position 2"),
        ("(+?", "unknown symbol"),
        ("1" * 63, "at most 62"),
        ("1" * 10_000, "at most 62"),
    ],
)
def test_bad_texts_are_one_line(pieced: Loaded, text: str, message: str) -> None:
    (result,) = tasks.complete(pieced, [text], num=3)
    assert result.error is not None
    assert message in result.error
    assert "\n" not in result.error


def test_a_beam_over_many_lengths_is_as_good_as_one_over_one(plain: Loaded) -> None:
    """Each of 58 lengths has its own beam, so that short strings do not displace long ones."""
    model = CausalModel(plain.denoiser, plain.lengths)
    exact, beam = (
        condition(model, PREFIX.encode(), mode, beam=4).summary for mode in ("exact", "beam")
    )
    assert len(model.latent_states) > 50
    assert beam.dropped < 1e-9
    assert beam.log_z == pytest.approx(exact.log_z, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["pieced", "plain"])
def test_what_was_drawn_is_forgotten(which: str, request: pytest.FixtureRequest) -> None:
    """A batch of one text shares a tree, which does not grow with it, and gives the same draws."""
    loaded: Loaded = request.getfixturevalue(which)
    conditioned = condition(CausalModel(loaded.denoiser, loaded.lengths), b"(+3")
    keys = new_keys(9, torch.Generator().manual_seed(0))
    whole = [item.tokens for item in Decoding(conditioned, keys).run()]
    sizes, parts = [], []
    for part in keys.split(3):
        parts += [item.tokens for item in Decoding(conditioned, part).run()]
        sizes.append(len(conditioned.tree.cache.depth))  # type: ignore[attr-defined]
    assert parts == whole
    assert max(sizes) - len(conditioned.histories) < sum(map(len, whole))
    canvas = condition(
        ending_with(loaded.denoiser, loaded.lengths, b"5", CompletionConfig("beam", beam=2)),
        b"(",
        "beam",
        beam=2,
    )
    first, again = ([item.tokens for item in Decoding(canvas, keys[:2]).run()] for _ in range(2))
    assert first == again


def test_settings_are_checked_in_python_too(pieced: Loaded) -> None:
    for settings in (
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 2.0},
        {"beam": 0},
        {"budget": 0},
        {"mode": "x"},
    ):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            settings_of_draw = CompletionConfig(**settings)  # type: ignore[arg-type]
            tasks.complete(pieced, ["("], settings=settings_of_draw)


def test_an_impossible_suffix_is_named_as_it_was_typed(plain: Loaded) -> None:
    (result,) = tasks.complete(plain, ["("], suffix="1234" * 15 + "56")
    assert result.error is not None
    assert "ends with '1234" in result.error
    with pytest.raises(CanvasError, match="at most 3 tokens was found that ends with '1234'"):
        ending_with(plain.denoiser, np.array([0.0, 0.0, 0.0, 1.0]), b"1234")
    with pytest.raises(ConfigError, match=r"^the suffix: exact mode"):
        tasks.complete(plain, ["("], suffix="=45", settings=CompletionConfig("exact", budget=3))


def test_bad_settings_raise(pieced: Loaded) -> None:
    with pytest.raises(ConfigError, match="num is 0; allowed is 1 to"):
        tasks.complete(pieced, ["("], num=0)
    (result,) = tasks.complete(
        pieced, ["(+(*(*"], settings=CompletionConfig(mode="exact", budget=3)
    )
    assert result.error is not None
    assert "beam" in result.error
    assert "canonical" in result.error
    with pytest.raises(CanvasError, match="at most 62"):
        tasks.complete(pieced, ["("], suffix="1" * 70)
