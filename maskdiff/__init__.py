"""Masked discrete diffusion for formal languages: one small denoiser generates, repairs and edits.

The packages are described in `docs/architecture.md`, and the Python API is `maskdiff.tasks`. This
module imports nothing, so that `import maskdiff` is instant.
"""

__version__ = "0.1.0"
