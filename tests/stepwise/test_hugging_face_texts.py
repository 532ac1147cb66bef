"""Where steps of Hugging Face models end in their text, with a model that writes given tokens."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers")

import torch

from maskdiff.stepwise.hugging_face import HuggingFaceBackend
from maskdiff.stepwise.protocol import BackendError, Candidate, Request, Stop
from tests.helpers.hugging_face import MAX_POSITIONS, SIZE, byte_level, network, one

CONFIG = network().config
TABLE = HuggingFaceBackend(network(), byte_level()).table
EMOJI, ACCENT = "🙂".encode(), "é".encode()


class Scripted(torch.nn.Module):
    """Writes a script after a prompt of one token; keeps no cache."""

    generation_config, device, dtype, config = None, torch.device("cpu"), torch.float32, CONFIG

    def __init__(self, script: list[int], logit: float = 30.0) -> None:
        super().__init__()
        self.script, self.logit = script, logit

    def forward(self, input_ids, use_cache=False):
        logits = torch.zeros(*input_ids.shape, SIZE)
        for i in range(input_ids.shape[1]):
            logits[:, i, self.script[i]] = self.logit
        return SimpleNamespace(logits=logits)


def scripted(*pieces: str | bytes) -> HuggingFaceBackend:
    """A backend that writes these tokens and then the end."""
    script = [TABLE.exactly(x.encode() if isinstance(x, str) else x)[0] for x in pieces]
    generator = HuggingFaceBackend(
        Scripted([*script, *[3] * MAX_POSITIONS]), byte_level(None), "scripted"
    )
    assert not generator.caches
    return generator


def step_of(generator: HuggingFaceBackend, stop: Stop, *partial: Candidate) -> Candidate:
    reply = one(generator, prompt="(", partial=partial, stop=stop, num=2, temperature=0.5)
    [step, other] = reply.candidates
    assert step == other
    return step


def test_stop_strings_match_across_and_inside_tokens():
    generator = scripted("a", ">", ">", "(", "b", ">(", "c")
    a = step_of(generator, Stop((">>(",)))
    assert (a.step, a.overshoot, a.tokens, a.finish) == ("a>>(", "", 4, "stop")
    b = step_of(generator, Stop(), a)
    assert (b.step, b.text, b.overshoot, b.tokens) == ("b>", "b>(", "(", 2)
    c = step_of(generator, Stop(), a, b)
    assert (c.step, c.text, c.overshoot, c.finish) == ("(c", "c", "", "end")
    assert c.ids[-1] == 3
    assert c.tokens == len(c.ids) == len(c.log_probs) == 2
    with pytest.raises(BackendError, match="ended"):
        step_of(generator, Stop(), a, b, c)
    assert step_of(generator, Stop(("(c",)), a, b).step == "(c"  # begins in the overshoot
    cut = step_of(generator, Stop((">",), 1))
    assert (cut.step, cut.finish, cut.tokens) == ("a", "length", 1)


def test_an_overshoot_may_be_a_step():
    generator = scripted("b", "><a><", "c", ">")
    a = step_of(generator, Stop())
    assert (a.step, a.overshoot) == ("b>", "<a><")
    reply = one(generator, prompt="(", partial=(a,), num=3)
    assert reply.candidates == (Candidate("<a>", "", "stop", 0, "<", (), (), (), ()),) * 3
    assert (reply.spent.forward_tokens, reply.spent.calls, reply.spent.candidates) == (0, 0, 3)
    b = step_of(generator, Stop(), a, reply.candidates[0])
    assert (b.step, b.text) == ("<c>", "c>")
    assert b.ids == tuple(TABLE.exactly(x)[0] for x in (b"c", b">"))
    later = step_of(generator, Stop(min_tokens=2), a)
    assert (later.step, later.tokens) == ("<a><c>", 2)


def test_early_stop_strings_do_not_count():
    generator = scripted(">", ">", "x", ">(")
    steps = [step_of(generator, Stop(min_tokens=n)).step for n in (1, 2, 3, 4)]
    assert steps == [">", ">>", ">>x>", ">>x>"]
    assert step_of(generator, Stop((">x", ">>"), min_tokens=3)).step == ">>x"


def test_characters_of_several_tokens_are_decoded_whole():
    """No step shows a part of one, though ids are never cut; invalid bytes are replaced."""
    accent = [ACCENT[:1], ACCENT[1:]]
    pieces = ["a", *(EMOJI[i : i + 1] for i in range(4)), *accent, ">", b"\xf0", "b", b"\xc3"]
    generator, steps = scripted(*pieces), list[Candidate]()
    while not (steps and steps[-1].finish == "end"):
        steps.append(step_of(generator, Stop((), 1), *steps))
    shown = ["a", "", "", "", "🙂", "", "é", ">", "", "\ufffdb", "", "\ufffd"]
    assert [step.text for step in steps] == shown
    assert step_of(generator, Stop(("🙂", "é"))).step == "a🙂"
    assert step_of(generator, Stop((">",)), *steps[:3]).text == "🙂é>"


def test_every_position_candidate_and_seed_has_its_own_noise():
    """20 tokens of 16 candidates from a flat distribution: about 198 of 307 tokens are drawn.

    The standard deviation is 7.
    """
    generator = HuggingFaceBackend(Scripted([0] * MAX_POSITIONS, 0.0), byte_level(None), "flat")
    requests = [Request("(", num=4, seed=seed, stop=Stop((), 20)) for seed in range(4)]
    replies = generator.next_step(requests)
    drawn = [token for reply in replies for step in reply.candidates for token in step.ids]
    assert len(drawn) > 240
    assert len(set(drawn)) > 0.5 * len(drawn)


def test_special_tokens_are_not_drawn():
    generator = HuggingFaceBackend(Scripted([1] * MAX_POSITIONS), byte_level(None), "padding alone")
    for temperature in (0.0, 1.0):
        [step] = one(generator, prompt="(", stop=Stop((), 8), temperature=temperature).candidates
        assert all(TABLE.texts[token] is not None or token == 3 for token in step.ids)
        assert max(step.log_probs) < -29  # the model's own
        assert min(step.gaps) > 0.99
