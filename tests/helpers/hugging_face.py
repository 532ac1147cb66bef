"""Small untrained models of transformers with a byte-level tokenizer, and a test of draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM as Auto
from transformers import GPT2Config, PreTrainedTokenizerFast, Qwen3Config

from maskdiff.stepwise.protocol import Reply, Request, StepBackend

END, PAD, OPEN, CLOSE = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
WORDS = ["<1 + 2>", "<(3 * 4)>", "compute 12 - 5", "the café", "日本語"]
WORDS += [" so ", "🙂 ok", "line\n", "assistant", "user"]
SIZE, MAX_POSITIONS = 312, 160  # of the model's output, more than the tokenizer has; positions
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
TINY_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
PROMPTS = [f"compute {a} {op} {b}" for a in (3, 47) for b in (5, 19) for op in "+-*"]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ ANSWER }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = TURNS.replace("ANSWER", "m.content")
STRIPS = TURNS.replace("ANSWER", "m.content | trim")
THINKS = TURNS.replace(
    "ANSWER", "('<think>\n\n</think>\n\n' if m.role == 'assistant' else '') + m.content"
)


def byte_level(
    template: str | None = PLAIN,
    words: Sequence[str] = WORDS,
    special: Sequence[str] = (END, PAD, OPEN, CLOSE),
    added: Sequence[str] = (">(", "><a><"),
    normalizer: object = None,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens and some that are added; CLOSE or else END ends a text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if normalizer is not None:
        raw.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([a + b for a in words for b in words], trainer)
    raw.add_tokens([AddedToken(text, special=False) for text in added])
    end = CLOSE if CLOSE in special else END
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, pad_token=PAD)
    tokenizer.chat_template = template
    return tokenizer


def untrained(
    config: object, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> torch.nn.Module:
    """A model with random weights that are always the same."""
    torch.manual_seed(0)
    return Auto.from_config(config, attn_implementation=attention).to(dtype)


def network(kind: str = "qwen3", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A small untrained model with distributions that are not flat."""
    sizes = {"vocab_size": SIZE, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 3}
    if kind == "gpt2":
        return untrained(GPT2Config(**sizes, **TINY_GPT2, n_positions=MAX_POSITIONS), dtype)
    return untrained(Qwen3Config(**sizes, **TINY, max_position_embeddings=MAX_POSITIONS), dtype)


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """(..., cells) counts -> (...,); rare tokens are one cell."""
    total = counts.sum(-1, keepdim=True)
    often = p * total.flatten()[0] >= 8
    fold = [
        torch.cat([x[..., often], x[..., ~often].sum(-1, keepdim=True)], -1)
        for x in (counts, p * total)
    ]
    return ((fold[0] - fold[1]) ** 2 / fold[1].clamp(min=1e-9)).sum(-1)


def saved(
    where, kind: str = "qwen3", dtype: torch.dtype = torch.float32, positions: int = MAX_POSITIONS
):
    """The folder `where`, with a model and a tokenizer."""
    model = network(kind, dtype)
    if positions != MAX_POSITIONS:
        model.config.max_position_embeddings = positions
    model.save_pretrained(where)
    byte_level().save_pretrained(where)
    return where


def check_draws(drawn: Iterable[int], logits: torch.Tensor, temperature: float = 0.8) -> None:
    """Assert that tokens are draws from softmax(logits / temperature).

    The level is 0.001. The power is asserted too: a temperature that is off by a fifth is found
    with a probability of at least 0.99.
    """
    counts = torch.bincount(torch.tensor([*drawn]), minlength=SIZE).double()
    count = int(counts.sum())
    p, other = ((logits.double() / t).softmax(-1) for t in (temperature, 1.2 * temperature))
    torch.manual_seed(1)

    def simulated(q: torch.Tensor) -> torch.Tensor:
        draws = torch.multinomial(q.expand(1000, -1), count, replacement=True)
        ones = torch.ones_like(draws).double()
        zeros = torch.zeros(1000, SIZE, dtype=torch.float64)
        return chi_square(zeros.scatter_add_(1, draws, ones), p)

    level = simulated(p).quantile(0.999)
    assert (simulated(other) > level).double().mean() >= 0.99
    assert chi_square(counts, p) <= level


def greedy(module: torch.nn.Module, ids: Sequence[int], tokens: int, barred: list[int]):
    """The ids that `generate` of transformers writes after some ids at temperature 0."""
    given = torch.tensor([ids])
    mask = torch.ones_like(given)
    settings = {"do_sample": False, "max_new_tokens": tokens, "suppress_tokens": barred}
    return tuple(module.generate(given, attention_mask=mask, **settings)[0, len(ids) :].tolist())


def one(generator: StepBackend, **settings) -> Reply:
    """The reply to one request."""
    [reply] = generator.next_step([Request(**settings)])
    return reply
