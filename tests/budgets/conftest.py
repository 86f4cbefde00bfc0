"""A cache of latencies and a device of its own for every test."""

import pytest

from tests.fake_device import Device, installed


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def device(monkeypatch):
    return installed(Device(), monkeypatch)
