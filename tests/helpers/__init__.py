"""Modules shared by tests; they hold no tests of their own."""
