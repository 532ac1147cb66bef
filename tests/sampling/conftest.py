"""Two tiny models, shared by the tests of a process."""

from __future__ import annotations

import pytest

from maskdiff.checkpoint import Loaded
from tests.helpers.tiny import PIECES, tiny_loaded


@pytest.fixture(scope="session")
def plain() -> Loaded:
    """A length-conditioned model of characters."""
    return tiny_loaded()


@pytest.fixture(scope="session")
def pieced() -> Loaded:
    """A model that reads pieces and ends its strings itself."""
    loaded = tiny_loaded(**PIECES)
    loaded.denoiser.model.double()
    return loaded
