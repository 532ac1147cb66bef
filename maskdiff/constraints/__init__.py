"""Exact conditioning of per-position distributions on a grammar, and left-to-right masks."""
