"""Benchmarks: one file for each suite, and reports and plots of their rows.

The metrics themselves are in `maskdiff.metrics`. A figure without its baseline flatters, so every
row has room for one.
"""
