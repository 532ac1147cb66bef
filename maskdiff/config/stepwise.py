"""Options of solving a problem step by step."""

from __future__ import annotations

from dataclasses import dataclass

from maskdiff.config.options import Section, fraction, option


@dataclass(frozen=True)
class StepConfig(Section):
    """How a problem is solved step by step; see docs/stepwise.md."""

    strategy: str = option(
        "adaptive",
        "when a step gets several candidates; always is every-step, never the first candidates "
        "alone",
        choices=(
            "greedy", "sample", "every-step", "always", "adaptive", "random", "never", "best-of-n",
        ),
    )  # fmt: skip
    scorer: str = option(
        "perplexity",
        "what chooses among candidates",
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
    rate: float = fraction(0.5, "random: probability that a step gets more candidates")
    max_steps: int = option(32, "steps of an answer at most", low=1, high=10_000)
    max_step_tokens: int = option(96, "tokens of a step at most", low=1, high=16_384)
    min_step_tokens: int = option(
        1, "tokens of a step before a stop string counts", low=1, high=16_384
    )
    step_stop: tuple[str, ...] = option(
        (), "a text that ends a step (default: the separator of the language, or an empty line)"
    )
    scorer_groups: int = option(
        0,
        "denoiser: parts of a candidate, hidden one per evaluation; 0: one token each",
        low=0,
        high=1024,
    )
    guard: bool = option(True, "stop an answer that repeats earlier steps")
    require_continuation: bool = option(
        True, "refuse a backend that does not continue a partial answer"
    )
    fallback: str = option(
        "none", "what to do with such a backend instead", choices=("none", "best-of-n")
    )


@dataclass(frozen=True)
class BackendConfig(Section):
    """What proposes steps; see docs/stepwise.md. The API key is read from OPENAI_API_KEY."""

    backend: str = option(
        "causal",
        "our causal or bidirectional mode, a model of transformers, or OpenAI-compatible HTTP",
        choices=("causal", "blocks", "hugging-face", "completions", "chat"),
    )  # fmt: skip
    model: str = option(
        "", "hugging-face: a folder or name; completions, chat: the model's name at the server"
    )
    base_url: str = option("", "completions, chat: such as http://127.0.0.1:8000/v1")
    prefill: str = option(
        "continue_final_message",
        "chat: how the server is asked to continue a partial answer",
        choices=("continue_final_message", "prefix", "plain"),
    )  # fmt: skip
    server_timeout: float = option(
        60.0, "completions, chat: seconds without data from the server", low=0.001, high=86_400.0
    )
    retries: int = option(2, "completions, chat: attempts after the first", low=0, high=100)
    concurrency: int = option(8, "completions, chat: requests at a time", low=1, high=1024)
    log_probs: bool = option(True, "completions, chat: ask for log-probabilities")
    block: int = option(8, "blocks: tokens that are filled at a time", low=1, high=1024)
    per_call: int = option(1, "blocks: tokens that an evaluation commits", low=1, high=1024)
