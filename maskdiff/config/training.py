"""Options of a training run: language, noise, model, optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from maskdiff.config.limits import MAX_COUNT, MAX_RATE, MAX_SEED, MAX_THREADS
from maskdiff.config.options import MODE, Section, fraction, mode_share, option


@dataclass(frozen=True)
class LanguageConfig(Section):
    """Which formal language, and the shape of its strings."""

    language: str = option(
        "arithmetic",
        "arithmetic, arithmetic-steps, arithmetic-corrections, json, python-expressions, or a "
        "folder with corpus.txt (or .csv, .jsonl; any with .gz), or such a file",
    )
    max_len: int = option(
        64,
        "longest string in tokens, BOS and EOS included; longer draws are rejected; of a corpus "
        "more by default if its lines need it, up to 514",
        low=5,
        high=1024,
    )
    validity: str = option(
        "",
        "MODULE:FUNCTION that parses texts of a folder (with ?: that judges them); "
        "docs/languages.md",
    )
    validity_timeout: float = option(
        10.0, "seconds allowed to validity for one text", low=0.001, high=3600.0
    )
    skip_invalid: bool = option(
        False, "drop lines of the corpus that are invalid or too long instead of refusing it"
    )
    accept_ambiguous: bool = option(
        False, "accept an ambiguous grammar, which counts a string once per derivation"
    )
    start: str = option(
        "", "rule of grammar.lark whose strings are the language; empty is the rule `start`"
    )
    spacing: str = option(
        "needed",
        "with %ignore: write one separator where two terminals would join (needed), or none",
        choices=("needed", "none"),
    )
    notation: str = option("prefix", "position of the operator", choices=("prefix", "infix"))
    operators: str = option("+*", "operator symbols, each of + - *")
    min_int: int = option(0, "smallest operand", low=0, high=10**6)
    max_int: int = option(10, "largest operand", low=0, high=10**6)
    min_depth: int = option(1, "smallest depth of the generator", low=0, high=12)
    max_depth: int = option(6, "largest depth of the generator", low=0, high=12)
    max_value: int = option(
        9999,
        "largest absolute value in a derivation of arithmetic-steps or -corrections",
        low=1,
        high=10**9,
    )
    attempts: str = option(
        "", "arithmetic-corrections: a file of a model's own attempts, the source of most records"
    )
    separator: str = option(
        "",
        "symbol between operands; required where the notation is ambiguous",
        choices=("", ",", "_"),
    )
    field: str = option(
        "", "column of a CSV corpus or key of JSON lines; empty is the only one, or `text`"
    )


@dataclass(frozen=True)
class NoiseConfig(Section):
    """How clean strings become canvases to train on."""

    sigma_min: float = fraction(0.1, "lowest noise level")
    sigma_max: float = fraction(0.9, "highest noise level")
    high_noise_bias: float = fraction(0.0, "share of the draws taken from [0.8, sigma_max]")
    low_discrepancy: bool = option(True, "stratify noise levels across the batch (2406.07524)")
    sigma_input: str = option(
        "visible",
        "sigma passed to the model: 0 where all visible tokens are right (visible), or always "
        "the noise level (level)",
        choices=("visible", "level"),
    )
    corruption_mode: str = option(
        "mixed", "corruption of repair batches", choices=("mixed", "mask_only")
    )
    mask_share: float = fraction(0.5, "share of masks in the mixed corruption")
    replace_share: float = fraction(0.2, "share of replacements in the mixed corruption")
    swap_share: float = fraction(0.15, "share of swaps with the next token in the mixed corruption")
    delete_share: float = fraction(0.075, "share of deletions in the mixed corruption")
    insert_share: float = fraction(0.075, "share of insertions in the mixed corruption")
    ar_prefix_ratio: float = fraction(
        0.0, "share of masked strings that keep a clean prefix, the rest masked"
    )
    ar_prefix_len: int = option(
        3, "longest clean prefix in symbols; 0 draws it uniformly over the string", low=0, high=1024
    )


@dataclass(frozen=True)
class ModelConfig(Section):
    """The shape of a `UniversalDenoiser`."""

    vocabulary: str = option(
        "characters",
        "tokens are characters, or pieces made by byte-pair merges",
        choices=("characters", "bpe"),
    )
    vocab_size: int = option(
        256,
        "tokens of a bpe vocabulary, special ones included; of no effect on characters",
        low=5,
        high=32767,
    )
    block_size: int = option(
        64, "longest string in tokens; training sets it to max_len", low=5, high=1024
    )
    n_layer: int = option(2, "distinct transformer blocks", low=1, high=64)
    k_iter: int = option(2, "applications of the stack of blocks", low=1, high=64)
    n_head: int = option(4, "attention heads", low=1, high=64)
    n_embd: int = option(128, "width of the residual stream", low=8, high=4096)
    mlp_ratio: float = option(
        4.0, "width of the hidden layer of the MLP, in units of n_embd", low=0.5, high=16.0
    )
    positions: str = option(
        "rotary", "rotary, or only learned absolute positions", choices=("rotary", "learned")
    )
    end_positions: bool = option(
        True, "also embed the distances to both ends, which give the length"
    )
    causal_length: bool = option(
        True, "condition the causal mode on the length; without it, it ends its strings itself"
    )
    head: str = option(
        "next",
        "row i of the raw output predicts token i+1 (next) or i (aligned)",
        choices=("next", "aligned"),
    )
    tied: bool = option(
        False,
        "share the weights of head and token embedding; an aligned head then starts as a copy",
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

    @property
    def gets_length(self) -> bool:
        """Whether the causal mode gets the length of its string, by the distance to its end."""
        return self.causal_length and self.end_positions


@dataclass(frozen=True)
class TrainConfig(Section):
    """Optimisation, mixture of modes, data and bookkeeping of one training run."""

    num_samples: int = option(
        20000, "size of the training set; 0 draws new strings at every step", low=0, high=10**7
    )
    length_tilt: float = fraction(
        0.0, "draw length n with weight p(n)^(1-tilt); 1 makes lengths uniform"
    )
    strings_in_a_row: int = option(
        1,
        "strings trained as one, EOS after the last: above 1 the model learns not to stop "
        "(a common mistake)",
        low=1,
        high=1024,
    )
    cut_rows: float = fraction(
        0.0,
        "share of causal strings cut before their EOS, which is then no target (a common mistake)",
    )
    batch_size: int = option(64, "strings in a step, over all processes", low=1, high=65_536)
    max_iters: int = option(
        2000, "optimizer steps; with minutes, the most of them (0: no limit)", low=0, high=MAX_COUNT
    )
    minutes: float = option(
        0.0,
        "minutes of the whole command, from which max_iters is set after the first steps; "
        "0: max_iters alone. The default for a folder is 10",
        low=0.0,
        high=100_000.0,
    )
    purpose: str = option(
        "repair",
        "what a model of a folder is for; chooses the options that are not given",
        choices=("repair", "complete", "generate", "edit"),
        flag="for",
    )
    causal_share: float = mode_share(0.3, "share of strings trained to predict the next token")
    repair_share: float = mode_share(0.15, "share of strings under the mixed corruption")
    skeleton_share: float = mode_share(
        0.05, "share of strings trained as skeletons or to fill a skeleton"
    )
    open_share: float = mode_share(
        0.0,
        "share of strings cut anywhere or continued with EOS, with blanks at their end, for "
        "filling block by block",
    )
    loss_weight: str = option(
        "elbo", "weights of masked positions: the ELBO's or uniform", choices=("elbo", "uniform")
    )
    self_cond_prob: float = fraction(0.5, "share of steps that self-condition, with use_self_cond")
    coupling_prob: float = fraction(
        0.5, "share of steps with the noise of the draw as input, with use_coupling"
    )
    optimizer: str = option(
        "muon",
        "muon for the matrices of the blocks and adamw for the rest, or adamw alone",
        choices=("muon", "adamw"),
    )
    lr: float = option(3e-3, "peak learning rate of AdamW", low=0.0, high=MAX_RATE)
    muon_lr: float = option(0.02, "peak learning rate of Muon", low=0.0, high=MAX_RATE)
    weight_decay: float = option(0.01, "decoupled weight decay of matrices", low=0.0, high=MAX_RATE)
    grad_clip: float = option(1.0, "largest global gradient norm; 0 is off", low=0.0, high=1e6)
    warmup_iters: int = option(100, "steps of linear warm-up", low=0, high=MAX_COUNT)
    decay_share: float = fraction(0.6, "last share of the steps, in which the rate decays")
    decay: str = option("linear", "shape of the decay", choices=("linear", "cosine"))
    min_lr_ratio: float = fraction(0.0, "rate at the end, in units of the peak")
    ema: float = option(
        0.999,
        "decay of the weights' moving average, validated and kept; 0 is off",
        low=0.0,
        high=0.999999,
    )
    amp: bool = option(
        False, "autocast to bf16 (faster on a GPU, slower on a CPU that emulates it)"
    )
    compile: bool = option(False, "torch.compile the training step")
    shards: int = option(
        0,
        "parts of a batch, whose gradients are added in order; equal shards and threads give "
        "equal weights on any number of processes that divides the shards; 0: one per process",
        low=0,
        high=1024,
    )
    faithful: bool = option(
        False, "reproduce the reference: rows padded to max_len, attention to pads, loss everywhere"
    )
    log_interval: int = option(50, "steps between logged losses", low=1, high=MAX_COUNT)
    eval_interval: int = option(
        500, "steps between validations; 0: about 20 in a run", low=0, high=MAX_COUNT
    )
    criterion: str = option(
        "mixture",
        "validation loss that chooses best.pt: elbo, next_token, or their mean weighted by the "
        "causal share (mixture)",
        choices=("mixture", "next_token", "elbo"),
    )
    patience: int = option(
        0,
        "end the run after as many intervals of validation without a better loss; 0: never",
        low=0,
        high=MAX_COUNT,
    )
    eval_samples: int = option(512, "held-out strings in a validation", low=1, high=10**5)
    live_samples: int = option(
        64, "strings sampled and parsed at a validation; 0 is none", low=0, high=1024
    )
    save_interval: int = option(500, "steps between saves of last.pt", low=1, high=MAX_COUNT)
    checkpoint_dir: str = option(
        "", "folder of best.pt, last.pt, config.yaml and TensorBoard; empty: runs/NAME"
    )
    name: str = option("run", "name of the run")
    seed: int = option(0, "seed of everything random", low=0, high=MAX_SEED)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    threads: int = option(0, "CPU threads; 0 is all cores", low=0, high=MAX_THREADS)

    def mode_shares(self) -> dict[str, float]:
        """The shares of the training objectives by option; masking takes what they leave."""
        return {o.name: getattr(self, o.name) for o in fields(self) if o.metadata.get(MODE)}


@dataclass(frozen=True)
class Config:
    """All options of a training run."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
