"""Benchmarks: one file per suite, each a function from (subject, settings) to rows; plus reports, plots and the reproduction.

For: measuring.  Not for: command lines (`benchmark.py`) and not for the definitions of the metrics (`maskdiff.metrics`).
Easy to get wrong: a figure without its baseline flatters; every row has room for one.
"""
