"""Next steps from a causal language model of Hugging Face: the very tokens of the answer go on, and only new ones are run.

For: `HuggingFaceBackend`, a `StepBackend` of a `PreTrainedModel` and its fast tokenizer, and `load`, of a folder or a name.
Not for: servers, encoder-decoders, tokenizers whose tables are not understood (see `maskdiff.models.hugging_face`).
Easy to get wrong: a chat template closes the turn of an assistant. A partial answer that is rendered with the prompt for a new
turn behind it is a finished one, and the model begins another, silently; here the template is asked for the prompt alone, and
the ids of the answer are put behind it as they were drawn, never as text.

Token p (counted from the first of the prompt) of candidate i is the argmax of log p + Gumbel numbers that are a function of
(seed, i, p): other candidates, earlier requests and where steps end do not matter, up to the rounding of a model in batches.
"""

from __future__ import annotations

import codecs
import copy
import inspect
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from maskdiff.checkpoint import resolve_device
from maskdiff.drawing.random import bits, token_noise
from maskdiff.errors import CheckpointError, folded, quote
from maskdiff.models.hugging_face import _transformers, read_tokens
from maskdiff.models.token_table import TokenTable
from maskdiff.stepwise.protocol import (
    BackendError,
    Candidate,
    Capabilities,
    Finish,
    Reply,
    Request,
    Spent,
    Stop,
    bounded,
)

PROBE = "\tSo <1> + 2\n"  # an answer that shows whether a template leaves answers, and the white space around them, alone
KEPT, KEPT_TOKENS = (
    8,
    65_536,
)  # what is kept by default: groups of a request each, and rows x tokens
Ids = tuple[int, ...]


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = "auto",
    chat: bool = True,
    template: Mapping[str, Any] | None = None,
    kept: int = KEPT,
    kept_tokens: int = KEPT_TOKENS,
) -> HuggingFaceBackend:
    """What `save_pretrained` wrote to a folder, or what `from_pretrained` knows by name: safetensors, and no code.

    device: as in `resolve_device`. dtype "auto" is that of the weights. The rest: see `HuggingFaceBackend`. Raises
    ConfigError where the package transformers or the device is missing, CheckpointError for what cannot be read.
    """
    transformers, where = _transformers(), resolve_device(device)
    path, settings = str(name), {"trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **settings)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
        )
    except Exception as error:  # of many kinds, each library's own
        raise CheckpointError(
            f"cannot read a model and a tokenizer in {quote(path)}: {folded(error)}"
        ) from error
    if missing := sorted(info["missing_keys"]):  # they were drawn at random
        raise CheckpointError(
            f"the weights in {quote(path)} lack {len(missing)} tensors, {quote(missing[0])} first"
        )
    title = Path(path).resolve().name if Path(path).is_dir() else path
    return HuggingFaceBackend(model.to(where), tokenizer, title, chat, template, kept, kept_tokens)


class HuggingFaceBackend:
    """See `StepBackend`. `model` is put into evaluation mode.

    chat: ask through the chat template, if the tokenizer has one; else prompt and answer are one text. template: what the
    template is told besides the messages (`{"enable_thinking": False}`). kept: for how many requests keys and values are kept:
    of what was given and of each candidate that a stop string ended, until one of them is gone on with; for those of the last
    two calls where they are more (0 keeps nothing). kept_tokens: beyond so many rows x tokens, the oldest requests are dropped.
    Of whole answers (no stop strings, more than one token) nothing is kept. To go on with several, ask for them in one call;
    what is not found is evaluated again.

    Attributes. capabilities: `chat` where a template is used. template_agrees: whether the template writes a partial answer
    as the prompt for an answer and then its text, unchanged. Where it does not (it strips, or writes the marks of a thought),
    the prompt is what it writes before an answer.
    caches: whether the model's cache can be copied and gone on with, which is tried; else each token costs a pass over all.
    barred: (vocabulary,) ids that are never drawn.

    Special tokens that do not end an answer are never drawn; log-probabilities, entropies and gaps are of the model's own
    distribution, which has them. A candidate without ids, of another backend, is tokenised alone: not always as it was drawn
    there. A character whose bytes two steps share is said by the second. Texts are what the tokens stand for: the answer of a
    SentencePiece-like tokenizer may begin with a space.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str | None = None,
        chat: bool = True,
        template: Mapping[str, Any] | None = None,
        kept: int = KEPT,
        kept_tokens: int = KEPT_TOKENS,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        config = model.config.get_text_config(decoder=True)
        self.name = name or str(getattr(model.config, "name_or_path", "")) or type(model).__name__
        self.room: int | None = getattr(config, "max_position_embeddings", None)
        self.table, _ = read_tokens(model, tokenizer)
        barred = torch.tensor([text is None for text in self.table.texts])
        barred[list(self.table.ends)] = False
        self.barred = barred.to(model.device)
        self._keep = (
            {"logits_to_keep": 1}
            if "logits_to_keep" in inspect.signature(model.forward).parameters
            else {}
        )
        self.chat, self._template = chat and bool(tokenizer.chat_template), dict(template or {})
        self.capabilities = Capabilities(
            continues=True, log_probs=True, entropies=True, stop_strings=True, seed=True, token_ids=True, chat=self.chat
        )  # fmt: skip
        self.template_agrees = True
        if self.chat:
            prompt = self._prompt_text("X")
            self.template_agrees = self._partial_text("X") == prompt + PROBE
            self._prompt_text("X")  # raises where nothing tells where an answer begins
        self._kept = _Kept(kept, kept_tokens)
        self._tokens = self._calls = 0  # run through the model so far
        self.caches = True
        self.caches = self._cache_works()

    @torch.no_grad()
    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend.next_step`. Requests are evaluated one after another, the candidates of each as one batch."""
        self._kept.expect(len(requests))
        at_once = [_said_before(request) for request in requests]
        ids = [
            () if done else self._request_ids(request)
            for request, done in zip(requests, at_once, strict=True)
        ]
        found = [
            self._kept.find(request.seed, known)
            for request, known in zip(requests, ids, strict=True)
        ]
        for request, known, place in zip(requests, ids, found, strict=True):
            self._kept.release(request.seed, known, place)
        replies = []
        for i, (request, done) in enumerate(zip(requests, at_once, strict=True)):
            begun, tokens, calls = time.perf_counter(), self._tokens, self._calls
            candidates = (
                [done] * request.num if done else self._candidates(request, ids[i], found[i])
            )
            found[i] = None  # lets go of its memory
            seconds = time.perf_counter() - begun
            spent = Spent(self._tokens - tokens, self._calls - calls, request.num, seconds)
            replies.append(Reply(tuple(candidates), spent))
        return replies

    def forget(self) -> None:
        """See `StepBackend.forget`."""
        self._kept.groups.clear()

    def prompt_ids(self, prompt: str) -> Ids:
        """The ids before an answer."""
        if not self.chat:
            return tuple(self.tokenizer(prompt).input_ids)
        return tuple(self.tokenizer(self._prompt_text(prompt), add_special_tokens=False).input_ids)

    def _prompt_text(self, prompt: str) -> str:
        """What the chat template writes before an answer."""
        if self.template_agrees:
            return self._render([{"role": "user", "content": prompt}], add_generation_prompt=True)
        text = self._partial_text(prompt)
        for said in (PROBE, PROBE.lstrip(), PROBE.rstrip(), PROBE.strip()):
            if text.endswith(said):
                return text.removesuffix(said)
        raise BackendError(
            f"the chat template of {quote(self.name)} hides where an answer begins; set chat to false"
        )

    def _partial_text(self, prompt: str) -> str:
        """What the chat template writes up to the end of the partial answer PROBE, whose turn stays open."""
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": PROBE}]
        return self._render(messages, continue_final_message=True, add_generation_prompt=False)

    def _render(self, messages: list[dict[str, str]], **settings: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, **settings, **self._template
                )
            )
        except Exception as error:  # of many kinds: the template is a program
            raise BackendError(
                f"the chat template of {quote(self.name)} cannot be rendered: {folded(error)}"
            ) from error

    def _request_ids(self, request: Request) -> Ids:
        """Of the prompt and the answer so far. Raises BackendError where no token fits behind them."""
        if request.partial and request.partial[-1].finish == "end":
            raise BackendError("the model has ended this answer: there is no next step")
        ids = self.prompt_ids(request.prompt) + self._answer_ids(request)
        if not ids:
            raise BackendError("this prompt has no tokens; give one that is not empty")
        if self.room is not None and len(ids) >= self.room:
            raise BackendError(
                f"the prompt and the answer so far have {len(ids)} tokens, of the model's {self.room} positions"
            )
        return ids

    def _answer_ids(self, request: Request) -> Ids:
        parts = [candidate.ids or self._cut(candidate.text) for candidate in request.partial]
        return tuple(token for part in parts for token in part)

    def _cut(self, text: str) -> Ids:
        """How the tokenizer cuts a text; the space in front of it may be the one that the tokenizer writes."""
        for skip in (0, 1) if text.startswith(" ") else (0,):
            ids: list[int] = self.tokenizer(text[skip:], add_special_tokens=False).input_ids
            if self.table.text(ids) == text.encode(errors="replace"):
                return tuple(ids)
        raise BackendError(
            f"the tokenizer of {quote(self.name)} has no tokens that stand for the step {quote(text)}"
        )

    def _candidates(self, request: Request, ids: Ids, place: _Place | None) -> list[Candidate]:
        """Draw the candidates of one request behind `ids`; `place`: what is known of them, if that was found before."""
        again = self._kept.find(request.seed, ids)  # by a request of the same call
        known = max(
            (p.entry for p in (place, again) if p), key=lambda entry: len(entry.ids), default=None
        )
        root, limit = self._evaluate(ids, known), request.stop.max_tokens
        if self.room is not None:
            limit = min(limit, self.room - len(ids))
        said = self.table.text(self._answer_ids(request))
        rows = [_Row(request.overshoot, limit, _decoder(said)) for _ in range(request.num)]
        alive, numbers = rows, torch.arange(request.first, request.first + request.num)
        cache = _select(root.cache, [0] * request.num)
        logits, behind = (
            cast(Tensor, root.logits).expand(request.num, -1),
            [],
        )  # (candidates, vocabulary)
        while alive:
            position = len(ids) + len(alive[0].ids)
            drawn = self._draw(logits, request, numbers, position)
            for row, values in zip(alive, drawn, strict=True):
                row.take(*values, self.table, request.stop)
            going = [i for i, row in enumerate(alive) if row.finish is None]
            for i, row in enumerate(alive):
                if row.finish == "stop" and len(row.ids) > 1 and self._kept.size:
                    behind.append(_Entry((*ids, *row.ids[:-1]), _select(cache, [i])))
            if 0 < len(going) < len(alive):
                cache = _select(cache, going)
            alive, numbers = [alive[i] for i in going], numbers[going]
            if alive:
                logits, cache = self._forward(
                    [(*ids, *row.ids) for row in alive], len(ids) + len(alive[0].ids) - 1, cache
                )
        if self.caches and (
            request.stop.strings or request.stop.max_tokens == 1
        ):  # not of whole answers
            self._kept.add(request.seed, root, behind)
        return [row.candidate() for row in rows]

    def _evaluate(self, ids: Ids, known: _Entry | None) -> _Entry:
        """What the model says behind `ids`, from what is known of how they begin."""
        if known is None:
            logits, cache = self._forward([ids], 0, None)
        elif len(known.ids) == len(ids):
            return known
        else:
            logits, cache = self._forward([ids], len(known.ids), _select(known.cache, [0]))
        return _Entry(ids, cache, logits)

    def _draw(
        self, logits: Tensor, request: Request, numbers: Tensor, position: int
    ) -> list[tuple[int, float, float, float]]:
        """(rows, vocabulary) -> of each row a token, its log-probability, and the distribution's entropy and gap."""
        rows = (
            logits.cpu() if logits.device.type == "mps" else logits
        ).double()  # mps has no float64
        log_p = rows.log_softmax(-1)
        p = log_p.exp()
        entropies, best = torch.special.entr(p).sum(-1), p.topk(2).values
        if not entropies.isfinite().all():
            raise BackendError(
                f"{quote(self.name)} says what is no number at position {position}; load it with a wider dtype"
            )
        scores = log_p.masked_fill(self.barred.to(log_p.device), -torch.inf)
        if request.temperature > 0:
            seed = (request.seed + (1 << 63)) % (1 << 64) - (1 << 63)  # as an int64
            keys = bits(torch.tensor([seed]), numbers).to(log_p.device)
            visits, places = (
                torch.zeros_like(keys)[:, None],
                torch.tensor([position], device=log_p.device),
            )
            scores = (
                scores / request.temperature
                + token_noise(keys, visits, 0, places, log_p.shape[-1])[:, 0]
            )
        tokens = scores.argmax(-1)
        said = log_p.gather(1, tokens[:, None])[:, 0]
        columns = (tokens, said, entropies, best[:, 0] - best[:, 1])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _forward(self, rows: Sequence[Ids], since: int, cache: Any) -> tuple[Tensor, Any]:
        """(rows, vocabulary) logits behind rows of equal length, `cache` holding what is before `since`; and the new cache."""
        begin = since if cache is not None else 0
        inputs = torch.tensor(
            [row[begin:] for row in rows], device=self.model.device
        )  # (rows, new tokens)
        past = {} if cache is None else {"past_key_values": cache}
        out = self.model(input_ids=inputs, use_cache=self.caches, **past, **self._keep)
        self._tokens, self._calls = self._tokens + inputs.numel(), self._calls + 1
        return out.logits[:, -1], out.past_key_values if self.caches else None

    @torch.no_grad()
    def _cache_works(self) -> bool:
        """Copy, widen, narrow and go on with the cache of a few tokens, twice; compare with passes over all of them."""
        ordinary = [token for token, text in enumerate(self.table.texts) if text]
        a, b, c = (ordinary[(len(ordinary) - 1) * i // 2] for i in range(3))
        tokens, calls = self._tokens, self._calls
        paths = [(a, b, c, a), (a, b, c, b), (a, b, c, b, c), (a, b, c, c, a, b)]
        try:
            _, root = self._forward([(a, b)], 0, None)
            _, root = self._forward([(a, b, c)], 2, root)
            both, wide = self._forward(paths[:2], 3, _select(root, [0, 0]))
            one, _ = self._forward(paths[2:3], 4, _select(wide, [1]))
            more, _ = self._forward(paths[3:], 3, _select(root, [0]))
            alone = torch.cat([self._forward([path], 0, None)[0] for path in paths])
            given, expected = (
                rows.cpu().double().softmax(-1) for rows in (torch.cat([both, one, more]), alone)
            )
            distance = (given - expected).abs().sum(1).max().item() / 2
        except Exception:  # whatever a model's own code raises
            return False
        finally:
            self._tokens, self._calls = tokens, calls
        return distance <= (1e-3 if self.model.dtype.itemsize >= 4 else 0.05)


@dataclass
class _Row:
    """A candidate while it is drawn."""

    carried: str
    limit: int
    decoder: codecs.IncrementalDecoder
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    text: str = ""
    since: int = 0  # characters of carried + text in which no stop string ends that counts
    split: tuple[str, str] | None = None  # step and overshoot
    finish: Finish | None = None

    def take(
        self, token: int, log_prob: float, entropy: float, gap: float, table: TokenTable, stop: Stop
    ) -> None:
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.entropies.append(entropy)
        self.gaps.append(gap)
        ended = token in table.ends
        self.text += self.decoder.decode(table.texts[token] or b"", ended)
        if ended:
            self.finish = "end"
            return
        if len(self.ids) >= stop.min_tokens:
            self.split = bounded(self.text, self.since, stop, self.carried)
        self.since = len(self.carried) + len(self.text)
        if self.split:
            self.finish = "stop"
        elif len(self.ids) == self.limit:
            self.finish = "length"

    def candidate(self) -> Candidate:
        step, over = self.split or (self.carried + self.text, "")
        numbers = (tuple(self.log_probs), tuple(self.entropies), tuple(self.gaps))
        assert self.finish is not None
        return Candidate(
            step, self.text, self.finish, len(self.ids), over, tuple(self.ids), *numbers
        )


def _said_before(request: Request) -> Candidate | None:
    """The step that what was carried over already ends; no token is drawn for it."""
    split = (
        bounded("", 0, request.stop, request.overshoot) if request.stop.min_tokens == 1 else None
    )
    return Candidate(split[0], "", "stop", 0, split[1], (), (), (), ()) if split else None


def _decoder(data: bytes) -> codecs.IncrementalDecoder:
    """One that has read `data`, and holds back the bytes of a character that is incomplete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder


@dataclass(frozen=True)
class _Entry:
    """What the model has computed of some ids."""

    ids: Ids
    cache: Any  # of one row
    logits: Tensor | None = (
        None  # (1, vocabulary) behind the last id, where the next request may need them
    )


@dataclass(frozen=True)
class _Place:
    """An entry, and the group that it was found in."""

    key: tuple[int, Ids]
    entry: _Entry


class _Kept:
    """What was computed for the latest requests: a group each, of what was given and of the candidates behind it."""

    def __init__(self, size: int, tokens: int) -> None:
        self.size, self.tokens = size, tokens
        self.asked = (0, 0)  # requests of the last two calls
        self.groups: OrderedDict[tuple[int, Ids], dict[Ids, _Entry]] = (
            OrderedDict()
        )  # by seed and given ids

    def expect(self, count: int) -> None:
        """A call of `count` requests begins; a cohort finds what it left, also after a call for more candidates of some."""
        self.asked = self.asked[1], count

    def find(self, seed: int, ids: Ids) -> _Place | None:
        """The entry that covers most of how `ids` begin, of the same seed where there are several."""
        best: _Place | None = None
        rank = (0, False)
        for key, group in self.groups.items():
            for known, entry in group.items():
                size, same = len(known), key[0] == seed
                fits = size < len(ids) or (size == len(ids) and entry.logits is not None)
                if fits and (size, same) > rank and ids[:size] == known:
                    best, rank = _Place(key, entry), (size, same)
        return best

    def release(self, seed: int, ids: Ids, place: _Place | None) -> None:
        """Drop a group of which one candidate is gone on with."""
        if place is None or place.entry.ids == ids:
            return
        if (
            place.key[0] == seed or place.entry.ids != place.key[1]
        ):  # a prompt may be another seed's too
            self.groups.pop(place.key, None)

    def add(self, seed: int, root: _Entry, behind: list[_Entry]) -> None:
        key = seed, root.ids
        group = self.groups.pop(key, {root.ids: root})
        self.groups[key] = group | {entry.ids: entry for entry in behind}
        most = max(self.size, *self.asked) if self.size else 0
        while len(self.groups) > most or self.weight() > self.tokens:
            self.groups.popitem(last=False)

    def weight(self) -> int:
        """Rows x tokens."""
        return sum(len(ids) for group in self.groups.values() for ids in group)


def _select(cache: Any, rows: list[int]) -> Any:
    """The cache of some rows, of each as often as it is named; shares no tensor that changes with the old one."""
    if cache is None:
        return None
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:  # layers with a state keep dictionaries
        vars(layer).update(
            {name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)}
        )
    new.reorder_cache(torch.tensor(rows))
    return new
