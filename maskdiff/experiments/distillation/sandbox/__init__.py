"""Runs untrusted programs in isolation: namespaces, a private root, a seccomp filter and limits."""
