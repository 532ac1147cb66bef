"""Typed, documented, validated configuration: the one place where every option of the project has its name.

For: the dataclasses that the other rooms take as arguments.  Not for: reading YAML and flags (``configio.py``), or anything
that a option *does*; this file imports nothing of the package but its errors.  Easy to get wrong: field names are unique across
sections, because each is also a command-line flag of the same name.  Every number has a lower and
an upper bound, which hold however a section is made: from a file, from flags, or in Python.
"""

from __future__ import annotations

import math
import operator
import os
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from maskdiff.errors import ConfigError, nearest, quote

MAX_SEED = 2**63 - 1
MAX_COUNT = 10**9  # of steps and the like, which take time one by one and no memory
MAX_LENGTH = 16_384  # tokens of the longest string that any model makes
MAX_THREADS = 1024
MAX_PARAMETERS = 10**9  # of a model
MAX_STEP_TOKENS = 2**24  # of the strings of one step
MAX_HELD_TOKENS = 2**31  # of a fixed training set, at most
MAX_VALIDATED_TOKENS = 2**26  # of the held-out strings of a validation, at most
MAX_RATE = 100.0  # learning rates and decays

# Of requests, by flags and in Python.
MAX_STRINGS = 10**6  # new strings, or completions of a text, of one call
MAX_MEASURED = 10**5  # strings of each figure of a benchmark, which are all kept
MAX_BEAM = 1024
MAX_ALTERNATIVES = 1000
MAX_CHANGE = 4096  # symbols by which a repair may change a length, and edits of one
MAX_BOUND = 10**7  # beginnings that a search looks at
MAX_PLACE = 10**9  # positions and lengths in symbols; those that there are depend on the text

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "tuple[str, ...]": "a text or a list of texts",
}


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its documentation and its range (``low`` and ``high`` inclusive) or its choices."""
    return field(
        default=default, metadata={"help": help, "low": low, "high": high, "choices": choices}
    )


def range_text(option: Field[Any]) -> str:
    """The allowed range or choices of a field in words; empty when anything goes."""
    choices, low, high = (option.metadata.get(key) for key in ("choices", "low", "high"))
    if choices:
        return ", ".join(choice or "''" for choice in choices)
    return "" if low is None else f"{_number(low)} to {_number(high)}"


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def checked(option: Field[Any], value: Any, given: Any = None) -> Any:
    """``value`` as the type of the field ``option``; ``given`` is what messages quote.

    Integers may be of any library (``operator.index``), a number may be an integer, a text may be
    a path, and a list of texts one text.

    Raises:
        ConfigError: another type, a number that is not finite or out of its range, or no choice.
    """
    shown = quote(value if given is None else given)
    try:
        value = _typed(str(option.type), value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"{option.name} is {shown}; it must be {KINDS[str(option.type)]}"
        ) from None
    choices, low, high = (option.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        hint = f"; the nearest is {nearest(value, choices)!r}" if value else ""
        allowed = ", ".join(map(repr, choices))
        raise ConfigError(f"{option.name} is {shown}; allowed are {allowed}{hint}")
    if low is not None and not low <= value <= high:
        raise ConfigError(f"{option.name} is {shown}; allowed is {range_text(option)}")
    return value


def _typed(kind: str, value: Any) -> Any:
    """``value`` as the type of that name; raises TypeError, ValueError or OverflowError."""
    truth = type(value).__name__ in ("bool", "bool_")  # of Python, or numpy
    if kind == "bool" and truth:
        return bool(value)
    if kind == "int" and not truth:
        return operator.index(value)
    if kind == "float" and not truth and not isinstance(value, (str, bytes)):
        if not math.isfinite(number := float(value)):
            raise ValueError
        return number + 0.0  # no -0.0
    if kind == "str" and isinstance(path := os.fspath(value), str):
        return str(path)
    if kind == "tuple[str, ...]":
        texts = (value,) if isinstance(value, str) else value
        if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
            return tuple(map(str, texts))
    raise TypeError


class Section:
    """What all sections have in common: their values are checked, whoever makes one.

    Raises:
        ConfigError: a value of another type, or out of its range.
    """

    def __post_init__(self) -> None:
        for option in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, option.name, checked(option, getattr(self, option.name)))


CANDIDATES = 100  # answers to a repair or an edit, the likeliest first, looked at for a valid one
MOST_CANDIDATES = 1000


@dataclass(frozen=True)
class LanguageConfig(Section):
    """Which formal language, and the shape of its strings."""

    language: str = option(
        "arithmetic",
        "arithmetic, arithmetic-steps, arithmetic-corrections, json, python-expressions, or a folder with corpus.txt",
    )
    max_len: int = option(
        64,
        "longest string in tokens, BOS and EOS included; longer draws are rejected",
        low=5,
        high=1024,
    )
    validity: str = option(
        "",
        "MODULE:FUNCTION that parses texts (with ?: that judges them), for a folder; docs/languages.md",
    )
    validity_timeout: float = option(
        10.0, "seconds after which validity is stopped at a text", low=0.001, high=3600.0
    )
    skip_invalid: bool = option(
        False, "leave out lines of the corpus that are invalid or too long, instead of refusing it"
    )
    accept_ambiguous: bool = option(
        False, "take an ambiguous grammar, under which a string counts once for every derivation"
    )
    start: str = option(
        "", "rule of grammar.lark whose strings are the language; empty is the rule `start`"
    )
    spacing: str = option(
        "needed",
        "with %ignore: write one separator where two terminals would run together (needed), or none",
        choices=("needed", "none"),
    )
    notation: str = option("prefix", "where the operator stands", choices=("prefix", "infix"))
    operators: str = option("+*", "operator symbols, each of + - *")
    min_int: int = option(0, "smallest operand", low=0, high=10**6)
    max_int: int = option(10, "largest operand", low=0, high=10**6)
    min_depth: int = option(1, "smallest depth that the generator asks for", low=0, high=12)
    max_depth: int = option(6, "largest depth that the generator asks for", low=0, high=12)
    max_value: int = option(
        9999,
        "largest absolute value in a derivation of arithmetic-steps or -corrections; others are "
        "rejected",
        low=1,
        high=10**9,
    )
    attempts: str = option(
        "",
        "arithmetic-corrections: a file of a model's own attempts, of which most of the records are made",
    )
    separator: str = option(
        "",
        "symbol between operands; required where the notation is ambiguous",
        choices=("", ",", "_"),
    )


@dataclass(frozen=True)
class NoiseConfig(Section):
    """How clean strings become canvases to train on."""

    sigma_min: float = option(0.1, "lowest noise level", low=0.0, high=1.0)
    sigma_max: float = option(0.9, "highest noise level", low=0.0, high=1.0)
    high_noise_bias: float = option(
        0.0, "share of the draws taken from [0.8, sigma_max]", low=0.0, high=1.0
    )
    low_discrepancy: bool = option(True, "stratify noise levels across the batch (2406.07524)")
    sigma_input: str = option(
        "visible",
        "noise level told to the model: 0 where all visible tokens are right (visible), or always the level",
        choices=("visible", "level"),
    )
    corruption_mode: str = option(
        "mixed", "corruption of repair batches", choices=("mixed", "mask_only")
    )
    mask_share: float = option(0.5, "share of masks in the mixed corruption", low=0.0, high=1.0)
    replace_share: float = option(
        0.2, "share of replacements in the mixed corruption", low=0.0, high=1.0
    )
    swap_share: float = option(
        0.15, "share of swaps with the next token in the mixed corruption", low=0.0, high=1.0
    )
    delete_share: float = option(
        0.075, "share of deletions in the mixed corruption", low=0.0, high=1.0
    )
    insert_share: float = option(
        0.075, "share of insertions in the mixed corruption", low=0.0, high=1.0
    )
    ar_prefix_ratio: float = option(
        0.0, "share of masked strings that keep a clean prefix, the rest masked", low=0.0, high=1.0
    )
    ar_prefix_len: int = option(
        3, "longest clean prefix in symbols; 0 draws it uniformly over the string", low=0, high=1024
    )


@dataclass(frozen=True)
class ModelConfig(Section):
    """The shape of a ``UniversalDenoiser``."""

    vocabulary: str = option(
        "characters",
        "what a token is: a character, or a piece that byte-pair merges make",
        choices=("characters", "bpe"),
    )
    vocab_size: int = option(
        256,
        "tokens of a bpe vocabulary, special ones included; characters have their own number",
        low=5,
        high=32767,
    )
    block_size: int = option(
        64, "longest string in tokens; training sets it to max_len", low=5, high=1024
    )
    n_layer: int = option(2, "distinct transformer blocks", low=1, high=64)
    k_iter: int = option(2, "times that the stack of blocks is applied", low=1, high=64)
    n_head: int = option(4, "attention heads", low=1, high=64)
    n_embd: int = option(128, "width of the residual stream", low=8, high=4096)
    mlp_ratio: float = option(
        4.0, "width of the hidden layer of the MLP, in units of n_embd", low=0.5, high=16.0
    )
    positions: str = option(
        "rotary", "rotary, or learned absolute positions only", choices=("rotary", "learned")
    )
    end_positions: bool = option(
        True, "also embed the distance to both ends, which tells the length"
    )
    causal_length: bool = option(
        True, "tell the causal mode the length, too; without it, it ends its strings itself"
    )
    head: str = option(
        "next",
        "row i of the raw output predicts token i+1 (next) or i (aligned)",
        choices=("next", "aligned"),
    )
    tied: bool = option(
        False,
        "the head's weights are the token embedding's, so that an aligned head copies from the start",
    )
    use_self_cond: bool = option(
        False, "embed the previous prediction at masked positions (2208.04202)"
    )
    use_coupling: bool = option(
        False, "embed the Gumbel noise of the draw at masked positions (2512.21323)"
    )
    dropout: float = option(
        0.0, "dropout of the embeddings and residual branches while training", low=0.0, high=0.9
    )


@dataclass(frozen=True)
class TrainConfig(Section):
    """Optimisation, mixture of modes, data and bookkeeping of one training run."""

    num_samples: int = option(
        20000, "draws of the training set; 0 draws afresh for ever", low=0, high=10**7
    )
    length_tilt: float = option(
        0.0, "draw length n with weight p(n)^(1-tilt): 1 makes all lengths alike", low=0.0, high=1.0
    )
    strings_in_a_row: int = option(
        1,
        "strings taught as one, end-of-string after the last: above 1 the model learns to go on "
        "(a common mistake)",
        low=1,
        high=1024,
    )
    cut_rows: float = option(
        0.0,
        "share of causal strings cut before their end-of-string, which is then not taught (a common mistake)",
        low=0.0,
        high=1.0,
    )
    batch_size: int = option(64, "strings in a step, over all processes", low=1, high=65_536)
    max_iters: int = option(2000, "optimiser steps", low=0, high=MAX_COUNT)
    causal_share: float = option(
        0.3, "share of strings trained to predict the next token", low=0.0, high=1.0
    )
    repair_share: float = option(
        0.15, "share of strings under the mixed corruption", low=0.0, high=1.0
    )
    skeleton_share: float = option(
        0.05, "share of strings trained as skeletons or to fill a skeleton", low=0.0, high=1.0
    )
    open_share: float = option(
        0.0, "share of strings cut anywhere, or run on as EOS, with blanks at their end: to be filled block by block",
        low=0.0, high=1.0,
    )  # fmt: skip
    loss_weight: str = option(
        "elbo", "weights of masked positions: the ELBO's or uniform", choices=("elbo", "uniform")
    )
    self_cond_prob: float = option(
        0.5, "share of steps that self-condition, with use_self_cond", low=0.0, high=1.0
    )
    coupling_prob: float = option(
        0.5, "share of steps that show the draw's noise, with use_coupling", low=0.0, high=1.0
    )
    optimizer: str = option(
        "muon",
        "muon on the block matrices (adamw on the rest), or adamw",
        choices=("muon", "adamw"),
    )
    lr: float = option(3e-3, "peak learning rate of AdamW", low=0.0, high=MAX_RATE)
    muon_lr: float = option(0.02, "peak learning rate of Muon", low=0.0, high=MAX_RATE)
    weight_decay: float = option(0.01, "decoupled weight decay of matrices", low=0.0, high=MAX_RATE)
    grad_clip: float = option(1.0, "largest global gradient norm; 0 is off", low=0.0, high=1e6)
    warmup_iters: int = option(100, "steps of linear warm-up", low=0, high=MAX_COUNT)
    decay_share: float = option(
        0.6, "last share of the steps in which the rate falls", low=0.0, high=1.0
    )
    decay: str = option("linear", "shape of the fall", choices=("linear", "cosine"))
    min_lr_ratio: float = option(0.0, "rate at the end, in units of the peak", low=0.0, high=1.0)
    ema: float = option(
        0.999,
        "decay of the weights' moving average, validated and kept; 0 is off",
        low=0.0,
        high=0.999999,
    )
    amp: bool = option(False, "autocast to bf16 (pays on a GPU, not on a CPU that emulates it)")
    compile: bool = option(False, "torch.compile the training step")
    shards: int = option(
        0,
        "parts of a batch, whose gradients are added in order; equal shards and threads give equal "
        "weights on any number of processes that divides the shards; 0: one a process",
        low=0,
        high=1024,
    )
    faithful: bool = option(
        False,
        "reproduce the reference: rows padded to max_len, pads attended to, loss on every position",
    )
    log_interval: int = option(50, "steps between logged losses", low=1, high=MAX_COUNT)
    eval_interval: int = option(500, "steps between validations", low=1, high=MAX_COUNT)
    eval_samples: int = option(512, "held-out strings in a validation", low=1, high=10**5)
    live_samples: int = option(
        64, "strings sampled and parsed at a validation; 0 is none", low=0, high=1024
    )
    save_interval: int = option(500, "steps between saves of last.pt", low=1, high=MAX_COUNT)
    checkpoint_dir: str = option(
        "", "where best.pt, last.pt, config.yaml and TensorBoard go; empty means runs/NAME"
    )
    name: str = option("run", "name of the run")
    seed: int = option(0, "seed of everything random", low=0, high=MAX_SEED)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    threads: int = option(0, "CPU threads; 0 is all cores", low=0, high=MAX_THREADS)


@dataclass(frozen=True)
class SamplerConfig(Section):
    """One way of filling canvases; see ``maskdiff.sampling`` for what each setting does."""

    sampler: str = option(
        "autoregressive", "preset that the other settings refine; see docs/samplers.md"
    )
    steps: int = option(
        12,
        "evaluations of a string in all, causal ones included; 0: one token each, or no limit",
        low=0,
        high=10**6,
    )
    num_ar_tokens: int = option(
        3, "causal tokens before the parallel part of the hybrid", low=0, high=MAX_LENGTH
    )
    temperature: float = option(1.0, "of the token distribution; 0 is argmax", low=0.0, high=100.0)
    top_p: float = option(1.0, "smallest set of tokens with this mass is kept", low=0.0, high=1.0)
    grammar: bool = option(
        False, "condition every draw on the language's grammar, so that every string parses"
    )


@dataclass(frozen=True)
class CompletionConfig(Section):
    """How what was typed is completed; see docs/completion.md."""

    mode: str = option(
        "auto",
        "which histories of tokens are weighed",
        choices=("auto", "exact", "beam", "canonical"),
    )
    budget: int = option(
        4096,
        "most histories that exact mode evaluates, and up to which auto is exact",
        low=1,
        high=10**6,
    )
    beam: int = option(
        32, "histories that beam mode keeps at every byte of what was typed", low=1, high=10**5
    )
    temperature: float = option(
        1.0, "of the conditioned distribution; 0 is argmax", low=0.0, high=100.0
    )
    top_p: float = option(
        1.0, "smallest set of tokens with this conditioned mass is kept", low=0.0, high=1.0
    )
    candidates: int = option(
        1, "draws of a string until one is valid; 1 takes any", low=1, high=MOST_CANDIDATES
    )


@dataclass(frozen=True)
class ControlConfig(Section):
    """What keeps a string from repeating itself and from running on; see docs/repetition.md. The defaults change nothing."""

    repetition_penalty: float = option(
        1.0,
        "logits of what was said are divided by it, times it below 0 (1909.05858)",
        low=0.01,
        high=100.0,
    )
    presence_penalty: float = option(
        0.0, "taken from the logit of every token that was drawn", low=-100.0, high=100.0
    )
    frequency_penalty: float = option(
        0.0, "taken from its logit each time that a token was drawn", low=-100.0, high=100.0
    )
    no_repeat_ngram: int = option(
        0,
        "no run of so many tokens is said twice, written from left to right (1705.04304); 0 is off",
        low=0,
        high=1024,
    )
    dry_multiplier: float = option(
        0.0, "DRY: logits lose this for going on as before; 0 is off", low=0.0, high=100.0
    )
    dry_base: float = option(
        1.75, "DRY: the loss grows by this factor with each token that matches", low=1.0, high=10.0
    )
    dry_allowed_length: int = option(
        2, "DRY: matching tokens that cost nothing more", low=1, high=50
    )
    dry_breakers: str = option("", "DRY: symbols over which no match reaches, nor begins with one")
    dry_range: int = option(
        0, "DRY: how many tokens it looks back; 0 is all", low=0, high=MAX_LENGTH
    )
    exempt_prompt: bool = option(False, "what was given is not counted as said")
    min_p: float = option(
        0.0,
        "tokens with less than this share of the likeliest one's probability are dropped",
        low=0.0,
        high=1.0,
    )
    top_k: int = option(
        0, "only so many of the likeliest tokens are drawn; 0 is all", low=0, high=10**6
    )
    stop: tuple[str, ...] = option(
        (), "the string ends before the first of these texts; may be given several times"
    )
    stop_token: tuple[str, ...] = option(
        (), "a token with this very text ends the string; may be given several times"
    )
    first_complete: bool = option(
        False, "of every output only the first string that parses, by the language's own parser"
    )
    max_tokens: int = option(
        0,
        "most tokens of a string, given ones included; 0 is as many as in training",
        low=0,
        high=MAX_LENGTH,
    )
    loop_period: int = option(
        0, "longest period of a loop that ends the string; 0 is off", low=0, high=1024
    )
    loop_repeats: int = option(
        4, "how often a period stands at the end before that is a loop", low=2, high=1024
    )


@dataclass(frozen=True)
class StepConfig(Section):
    """How a problem is solved step by step; see docs/stepwise.md."""

    strategy: str = option(
        "adaptive", "when a step gets several candidates; always is every-step, never the first candidates alone",
        choices=("greedy", "sample", "every-step", "always", "adaptive", "random", "never", "best-of-n"),
    )  # fmt: skip
    scorer: str = option(
        "perplexity", "what chooses among candidates",
        choices=("entropy", "perplexity", "probability", "gap", "vote", "denoiser", "checker"),
    )  # fmt: skip
    candidates: int = option(
        4, "candidates of a step, or whole answers of best-of-n", low=1, high=1024
    )
    temperature: float = option(0.6, "of the draw of candidates", low=0.0, high=100.0)
    draft: str = option(
        "greedy", "how the first candidate of a step is taken", choices=("greedy", "sample")
    )
    momentum: float = option(
        0.9,
        "adaptive: weight of the past in the momentum uncertainty (2507.14958)",
        low=0.0,
        high=0.999999,
    )
    scaling: float = option(
        0.9,
        "adaptive: a step gets more candidates above 1/scaling of it; lower is rarer",
        low=1e-6,
        high=1.0,
    )
    bias_corrected: bool = option(
        False, "adaptive: divide the momentum uncertainty by 1 - momentum^t"
    )
    rate: float = option(
        0.5, "random: probability that a step gets more candidates", low=0.0, high=1.0
    )
    max_steps: int = option(32, "steps of an answer at most", low=1, high=10_000)
    max_step_tokens: int = option(
        96, "tokens of a step at most; one that is cut there says so", low=1, high=16_384
    )
    min_step_tokens: int = option(
        1, "tokens of a step before a stop string counts", low=1, high=16_384
    )
    step_stop: tuple[str, ...] = option(
        (), "a text that ends a step (default: the language's separator, or an empty line)"
    )
    scorer_groups: int = option(
        0,
        "denoiser: evaluations of a candidate, each hiding a part of it; 0: each token alone",
        low=0,
        high=1024,
    )
    guard: bool = option(True, "stop an answer that starts again and again")
    require_continuation: bool = option(
        True, "refuse a backend that does not go on from a partial answer"
    )
    fallback: str = option(
        "none", "what is done over such a backend instead", choices=("none", "best-of-n")
    )


@dataclass(frozen=True)
class BackendConfig(Section):
    """What proposes steps; see docs/stepwise.md. Keys are read from the environment (OPENAI_API_KEY), never from here."""

    backend: str = option(
        "causal", "our causal or bidirectional mode, a model of transformers, or OpenAI-compatible HTTP",
        choices=("causal", "blocks", "hugging-face", "completions", "chat"),
    )  # fmt: skip
    model: str = option(
        "", "hugging-face: a folder or name; completions, chat: the model's name at the server"
    )
    base_url: str = option("", "completions, chat: such as http://127.0.0.1:8000/v1")
    prefill: str = option(
        "continue_final_message", "chat: how the server is asked to go on from a partial answer",
        choices=("continue_final_message", "prefix", "plain"),
    )  # fmt: skip
    server_timeout: float = option(
        60.0, "completions, chat: seconds without a word from the server", low=0.001, high=86_400.0
    )
    retries: int = option(2, "completions, chat: tries after the first", low=0, high=100)
    concurrency: int = option(8, "completions, chat: requests at a time", low=1, high=1024)
    log_probs: bool = option(True, "completions, chat: ask for log-probabilities")
    block: int = option(8, "blocks: tokens that are filled at a time", low=1, high=1024)
    per_call: int = option(1, "blocks: tokens that an evaluation commits", low=1, high=1024)


@dataclass(frozen=True)
class DistillationConfig(Section):
    """What the experiments on self-distillation measure and train; see docs/distillation.md."""

    environment: str = option("arithmetic", "what judges answers", choices=("arithmetic", "python"))
    feedback: str = option(
        "first_wrong_step", "arithmetic: what is said of an attempt; leak says the result, and bounds the rest from above",
        choices=("none", "scalar", "first_wrong_step", "leak"),
    )  # fmt: skip
    records: str = option(
        "",
        "python: problems in LiveCodeBench's format (.jsonl); empty: ten that come with the package",
    )
    isolation: str = option(
        "required", "python: run programs isolated, or anywhere", choices=("required", "none")
    )
    packages: str = option(
        "", "python: installed packages that programs may read and import, by comma; empty: none"
    )
    problems: int = option(10, "problems of a seed", low=1, high=10_000)
    rollouts: int = option(8, "answers to a problem", low=1, high=1024)
    seeds: int = option(
        10, "seeds, each with problems of its own where there are enough", low=1, high=10_000
    )
    first_seed: int = option(0, "the first seed; the others follow it", low=0, high=2**62)
    temperature: float = option(
        1.0, "of the student's answers, and of what is compared with them", low=0.01, high=100.0
    )
    max_tokens: int = option(
        0,
        "tokens of an answer at most; 0: 96 for our models, 512 for large ones",
        low=0,
        high=65_536,
    )
    divergence: str = option(
        "reverse", "KL(student || teacher), KL(teacher || student), or both to their mixture",
        choices=("reverse", "forward", "jensen-shannon"),
    )  # fmt: skip
    top_k: int = option(
        20, "of the student's likeliest tokens; 0: the whole vocabulary", low=0, high=10**6
    )
    tail: bool = option(
        False,
        "everything else is one more outcome (as published), instead of renormalising over the top k",
    )
    show_attempt: bool = option(
        False,
        "standard: the teacher also sees the answer that it judges, as in the reference's code",
    )
    teacher: str = option(
        "self", "whose weights judge: the student's own at every step, those it began with, or their average",
        choices=("self", "initial", "ema"),
    )  # fmt: skip
    teacher_rate: float = option(
        0.05, "ema: share of the student that its teacher takes over at a step", low=0.0, high=1.0
    )
    trainer: str = option(
        "standard", "what is trained through time: on the teacher's view of the answer, or of its own regeneration",
        choices=("standard", "regeneration"),
    )  # fmt: skip
    steps: int = option(8, "steps of training that are followed", low=1, high=100_000)
    window_steps: int = option(3, "steps of training for each window", low=1, high=100_000)
    lr: float = option(
        0.0,
        "learning rate of AdamW; 0: 1e-4 for our models, 1e-6 for large ones",
        low=0.0,
        high=10.0,
    )
    weight_decay: float = option(0.01, "decoupled weight decay", low=0.0, high=MAX_RATE)
    grad_clip: float = option(1.0, "largest norm of a gradient; 0 is off", low=0.0, high=1e6)
    resamples: int = option(2000, "draws of the bootstrap", low=100, high=1_000_000)


@dataclass(frozen=True)
class DecodeConfig:
    """Everything that strings are drawn with: the settings files of ``inference.py``."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    control: ControlConfig = field(default_factory=ControlConfig)


@dataclass(frozen=True)
class Config:
    """Everything a training run is made from."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


__all__ = [
    "BackendConfig",
    "CompletionConfig",
    "Config",
    "ConfigError",
    "ControlConfig",
    "DecodeConfig",
    "DistillationConfig",
    "LanguageConfig",
    "ModelConfig",
    "NoiseConfig",
    "SamplerConfig",
    "StepConfig",
    "TrainConfig",
    "checked",
    "fields",
    "is_dataclass",
    "option",
    "range_text",
]
