"""Exact conditioning of distributions over strings on a context-free grammar."""
