from pathlib import Path

import pytest

from ocifs.sources.registry import session


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the user of this machine has set up for registries counts, and second tries come soon."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(session, "FIRST_PAUSE", 0.01)
