"""Training: the loop, its optimisers, its monitor and its processes."""
