"""Experiments that use the library and that the library never imports."""
