import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
