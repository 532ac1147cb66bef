"""Canvases: known and blank positions, and shape changes that keep the contents."""

from __future__ import annotations

import pytest
import torch

from maskdiff.errors import CanvasError, ParseError
from maskdiff.languages import Vocabulary
from maskdiff.sampling import Autoregressive, Canvas, Sample, Unmask
from tests.helpers.dummies import TINY, Scrambled


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_blank_has_frame_masks_and_padding():
    canvas = Canvas.blank([1, 3], TINY)
    p, m, b, e = TINY.pad, TINY.mask, TINY.bos, TINY.eos
    assert canvas.tokens.tolist() == [[b, m, e, p, p], [b, m, m, m, e]]
    assert canvas.known.tolist() == [
        [True, False, True, True, True],
        [True, False, False, False, True],
    ]
    assert canvas.length.tolist() == [3, 5]
    assert len(canvas) == 2


def test_template_prefix_and_draft():
    template = Canvas.template(["(?)", "1"], TINY)
    assert Sample(template).texts(TINY) == ["(?)", "1"]
    assert template.known[0].tolist() == [True, True, False, True, True]
    prefix = Canvas.prefix(["(1", ""], [4, 2], TINY)
    assert Sample(prefix).texts(TINY) == ["(1??", "??"]
    draft = Canvas.draft(["(?1"], TINY, 0.3)
    assert not draft.known[0, 1:4].any()
    assert draft.known[0, [0, 4]].all()
    assert draft.suspect.tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Canvas.blank([0], TINY), "length 0"),
        (lambda: Canvas.blank([], TINY), "at least one string"),
        (lambda: Canvas.template([""], TINY), "empty"),
        (lambda: Canvas.prefix(["((("], [2], TINY), "3 symbols does not fit in length 2"),
        (lambda: Canvas.draft(["1"], TINY, 1.5), "noise level 1.5"),
    ],
)
def test_errors_name_the_given_value(make, message):
    with pytest.raises(CanvasError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_unknown_symbol_names_its_position():
    with pytest.raises(ParseError) as caught:
        Canvas.template(["(x"], TINY)
    assert caught.value.position == 1


def test_select_put_trim_and_widen_are_inverse():
    canvas = Canvas.blank([2, 5, 3], TINY, generator())
    part = canvas[torch.tensor([0, 2])].trim()
    assert part.tokens.shape == (2, 5)
    assert torch.equal(canvas.put(torch.tensor([0, 2]), part).tokens, canvas.tokens)
    assert torch.equal(canvas.wider(20, TINY.pad).trim().tokens, canvas.tokens)
    assert torch.equal(canvas[[1]].keys, canvas.keys[1:2])


def test_trace_renders_each_evaluation_and_paints_a_grid():
    canvas = Canvas.template(["(?+?)", "?"], TINY, generator()).traced()
    sample = Unmask(order="left_to_right", steps=0)(Scrambled(), canvas)
    lines = sample.trace.render(0, TINY).splitlines()
    assert lines[0] == "   0  (?+?)"
    assert lines[-2] == f"   2  {sample.texts(TINY)[0]}"
    assert lines[2] == "       ^"
    assert lines[-1] == "         ^"
    assert sample.trace.committed(0).sum() == 2
    assert len(sample.trace.steps(1)[0]) == 2  # finished a frame earlier
    picture = sample.trace.picture(0, TINY, cell=4)
    assert picture.shape == (3 * 4, 7 * 4, 3)
    assert picture.dtype.name == "uint8"


def test_trace_shows_joined_and_wide_characters_whole():
    """Tokens that make one emoji share its columns, a wide character has two, and a tab is a
    sign."""
    vocabulary = Vocabulary.of("👨\u200d漢a\t")
    canvas = Canvas.template(["a👨\u200d👨漢\ta"], vocabulary, generator()).traced()
    after = canvas.tokens.clone()
    after[0, 5] = vocabulary.ids["a"]  # the place of 漢
    canvas.trace.record(after, canvas.spent + 1)
    lines = canvas.trace.render(0, vocabulary).split("\n")
    assert lines == ["   0  a👨\u200d👨漢␉a", "   1  a👨\u200d👨a␉a", "         ^"]


def test_trace_of_a_chain_covers_all_stages():
    canvas = Canvas.blank([6], TINY, generator()).traced()
    sample = Autoregressive(2).then(Unmask(steps=4))(Scrambled(), canvas)
    assert sample.trace.steps(0)[1].tolist() == [0, 1, 2, 3, 4]


def test_samplers_do_not_write_to_the_canvas_they_are_given():
    canvas = Canvas.blank([4, 6], TINY, generator())
    before = canvas.tokens.clone()
    Unmask()(Scrambled(), canvas)
    Autoregressive()(Scrambled(), canvas)
    assert torch.equal(canvas.tokens, before)
    assert canvas.spent.sum() == 0
