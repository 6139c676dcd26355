"""Fixtures for the tests of the client, which use them by name."""
import pytest

from infra import client as client_module
from infra.client import ApiConfig, Client
from tests.asking import KEY


@pytest.fixture
def quick(monkeypatch):
    """No pause between retries, no proxy of this machine; a key in the environment."""
    monkeypatch.setattr(client_module, "pause", lambda *_: 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GOPO_API_KEY", KEY)


@pytest.fixture
def make_client(tmp_path, quick):
    """make_client(server or url, flag=...) -> a Client with its cache in tmp_path/cache.sqlite.

    It is closed at the end.
    """
    made = []

    def make(server, **flags):
        url = server if isinstance(server, str) else server.url
        cache = str(tmp_path / "cache.sqlite")
        flags = {"api_base": url, "api_cache": cache, "api_timeout": 5.0} | flags
        made.append(Client("test-model", ApiConfig(**flags)))
        return made[-1]

    yield make
    for client in made:
        client.close()
