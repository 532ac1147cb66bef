"""Small untrained models of transformers with a byte-level tokenizer, and what draws of them are compared by."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM as Auto
from transformers import GPT2Config, PreTrainedTokenizerFast, Qwen3Config

END, PAD, OPEN, CLOSE = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
WORDS = [
    "<1 + 2>",
    "<(3 * 4)>",
    "compute 12 - 5",
    "the café",
    "日本語",
    " so ",
    "🙂 ok",
    "line\n",
    "assistant",
    "user",
]
SIZE, ROOM = 312, 160  # of the model's output, more than the tokenizer has; positions
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


def byte_level(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    """A byte-level BPE with special tokens, and ordinary ones that reach beyond a step."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, PAD, OPEN, CLOSE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([a + b for a in WORDS for b in WORDS], trainer)
    raw.add_tokens([AddedToken(text, special=False) for text in (">(", "><a><")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=CLOSE, pad_token=PAD)
    tokenizer.chat_template = template
    return tokenizer


def network(kind: str = "qwen3", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A small untrained model with opinions."""
    torch.manual_seed(0)
    sizes = {"vocab_size": SIZE, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 3}
    if kind == "gpt2":
        config = GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=4, n_positions=ROOM)
    else:
        heads = {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_hidden_layers": 2,
        }
        config = Qwen3Config(
            **sizes, **heads, hidden_size=32, intermediate_size=48, max_position_embeddings=ROOM
        )
    return Auto.from_config(config, attn_implementation="sdpa").to(dtype)


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """(..., cells) counts -> (...,); rare tokens are one cell."""
    total = counts.sum(-1, keepdim=True)
    often = p * total.flatten()[0] >= 8
    fold = [
        torch.cat([x[..., often], x[..., ~often].sum(-1, keepdim=True)], -1)
        for x in (counts, p * total)
    ]
    return ((fold[0] - fold[1]) ** 2 / fold[1].clamp(min=1e-9)).sum(-1)


def saved(where, kind: str = "qwen3", dtype: torch.dtype = torch.float32, room: int = ROOM):
    model = network(kind, dtype)
    if room != ROOM:
        model.config.max_position_embeddings = room
    model.save_pretrained(where)
    byte_level().save_pretrained(where)
    return where
