"""Command lines: flags -> configuration -> one call -> printed lines."""
