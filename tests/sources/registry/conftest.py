"""Every test here is isolated from the registry configuration of this machine."""

import pytest


@pytest.fixture(autouse=True)
def _alone(alone: None) -> None:
    """Isolate each test."""
