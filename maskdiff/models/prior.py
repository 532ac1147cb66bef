"""`Prior`: how the models of a checkpoint are combined into one log-probability of a string."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prior:
    """Weights of a log-linear combination of log p by each model, up to a constant.

    They are fitted on held-out strings. A sum below 1 is a flatter distribution, which corrects
    models that are too sure.

    Attributes:
        neural: Weight of the causal mode, at least 0.
        ngram: Weight of the n-gram, at least 0.
        grammar: Weight of the fitted grammar, at least 0. Strings that it does not derive have its
            `smoothed_log_probs`, so that they stay possible.
    """

    neural: float = 1.0
    ngram: float = 0.0
    grammar: float = 0.0

    @classmethod
    def usual(cls, neural: bool, ngram: bool) -> Prior:
        """Return the weights of models that were not fitted together."""
        if neural and ngram:
            return cls(0.6, 0.2)
        return cls(1.0, 0.0) if neural else cls(0.0, 0.8)

    def state(self) -> dict[str, float]:
        """Return the weights by name, for a checkpoint."""
        return {"neural": self.neural, "ngram": self.ngram, "grammar": self.grammar}
