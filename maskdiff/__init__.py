"""maskdiff: masked discrete diffusion for formal languages: one small denoiser that generates, repairs and edits.

The rooms and the rule between them are in `docs/architecture.md`. This module imports nothing, so that `import maskdiff` is
instant; the verbs are in `maskdiff.tasks`.
"""

__version__ = "0.1.0"
