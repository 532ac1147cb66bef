"""`Draw`, the settings of a draw, and `Constraint`, what a draw under a constraint asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from maskdiff.drawing.logits import Symbols, draw_tokens
from maskdiff.drawing.penalties import NO_PENALTIES, Penalties
from maskdiff.errors import ConfigError
from maskdiff.utils.arguments import real


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn from the distributions of a model.

    Attributes:
        temperature: Of the distribution, in [0, 100]; 0 takes the likeliest token.
        top_p: The smallest set of tokens of this mass is kept, in [0, 1].
        penalties: Penalties of repetition, and top-k and min-p.
        constraint: What every string satisfies.
        symbols: The alphabet: all symbols ("plain"), `<DIGIT>` for digits ("skeleton"), digits for
            `<DIGIT>` ("fill"), or all symbols and EOS ("open").

    Raises:
        ConfigError: For a number out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    penalties: Penalties = NO_PENALTIES
    constraint: Constraint | None = None
    symbols: Symbols = "plain"

    def __post_init__(self) -> None:
        real(0.0, 100.0)("temperature", self.temperature)
        real(0.0, 1.0)("top_p", self.top_p)

    def refuse(self, owner: str, *names: str) -> None:
        """Raise ConfigError if one of the fields `names`, which `owner` does not apply, is set."""
        for name in names:
            default = "plain" if name == "symbols" else None
            if getattr(self, name) != default:
                raise ConfigError(
                    f"{owner} does not apply the field {name} of a Draw; leave it out"
                )

    @property
    def truncation(self) -> tuple[float, int, float]:
        """`top_p`, `top_k` and `min_p`."""
        return self.top_p, *self.penalties.truncation

    def tokens(self, log_probs: Tensor, noise: Tensor | None) -> Tensor:
        """(…) tokens drawn from (…, vocab) with Gumbel noise (…, vocab).

        See `logits.draw_tokens`.
        """
        return draw_tokens(
            log_probs, noise, self.temperature, self.top_p, *self.penalties.truncation
        )


class Constraint(Protocol):
    """A set of strings to which samplers are restricted."""

    def condition(
        self,
        log_probs: Tensor,
        tokens: Tensor,
        free: Tensor,
        length: Tensor,
        uniform: Tensor | None,
        draw: Draw,
    ) -> tuple[Tensor, Tensor]:
        """Condition a product of distributions on the constraint, and draw one string jointly.

        Args:
            log_probs: (batch, width, vocab) of the product, untempered.
            tokens: (batch, width) certain tokens, where `free` is False.
            free: (batch, width) bool.
            length: (batch,) with BOS and EOS.
            uniform: (batch, width - 2, width - 1) numbers in (0, 1); None for the likeliest string.
            draw: Temperature and truncation of each position before conditioning. Where they leave
                no string, all symbols count.

        Returns:
            (batch, width, vocab) log-probabilities given the constraint, and (batch, width) tokens.

        Raises:
            CanvasError: Where no string fits.
        """

    def mask(self, tokens: Tensor, free: Tensor, length: Tensor) -> NextSymbol:
        """What may come next from left to right, for a canvas as in `condition`."""

    def check(self, tokens: Tensor, free: Tensor, length: Tensor) -> None:
        """Raise CanvasError for the first string of a canvas that cannot fit."""


class NextSymbol(Protocol):
    """The symbols that may come next, from left to right, from position 1 (the first symbol) on."""

    def allowed(self) -> Tensor:
        """(batch, vocab) bool: the symbols that keep a string completable; none beyond its end."""

    def write(self, token: Tensor) -> None:
        """Take the token (batch,) of the present position and go on to the next one."""

    def select(self, rows: Tensor) -> NextSymbol:
        """The mask of some strings, in the order of `rows`, which may repeat (a beam)."""
