"""The denoiser, the two protocols of a model (`Denoiser`, `Continuation`) and their adapters."""
