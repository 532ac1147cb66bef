"""Training: the loop, optimizers, validation, and the processes and files of a run."""
