"""Pure functions on texts: edit scripts, repetition, the first complete answer."""
