"""Short intervals for watching files."""

import pytest

from scalesocket.reload import watch


@pytest.fixture
def real_intervals() -> None:
    """For a test of the intervals themselves."""


@pytest.fixture(autouse=True)
def short_intervals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_intervals" not in request.fixturenames:
        monkeypatch.setattr(watch, "SETTLE", 0.03)
        monkeypatch.setattr(watch, "POLL", 0.1)
        monkeypatch.setattr(watch, "STEP_MS", 10)
