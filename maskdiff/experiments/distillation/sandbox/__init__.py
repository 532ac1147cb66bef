"""Runs untrusted programs in a process that can reach nothing."""
