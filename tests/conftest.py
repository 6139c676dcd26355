"""Fixtures that tests use by name: a client that does not wait, small runs of the trainer."""
import signal
from contextlib import contextmanager

import pytest

import train
from gopo import load
from infra import client as client_module
from infra.client import ApiConfig, Client
from shop import mgshop
from tests.asking import KEY
from tests.training import SHORT, SHORT_LM

# --- the client ---------------------------------------------------------------------------------

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


# --- runs of the trainer ------------------------------------------------------------------------

DRAWN = train.draw_curves
# A picture of one point, which stands for curves.png.
POINT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fea7356b9d0000000049454e44ae426082")


@pytest.fixture(scope="session", autouse=True)
def quick_curves():
    """Drawing takes most of a short run: of one run (`strategy_run`) the curves are drawn."""
    def write_point(run):
        (run / "curves.png").write_bytes(POINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_curves", write_point)
        yield


@contextmanager
def small_shops():
    """A smaller mgshop: smoke tests check wiring, not figures.

    The signal handlers that train.main sets are taken back at the end.
    """
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mgshop, "SIZES", {"train": 40, "dev": 6, "test": 6})
        yield
    for name, handler in handlers.items():
        signal.signal(name, handler)


@pytest.fixture(scope="module")
def small_shop():
    with small_shops():
        yield


@pytest.fixture(scope="session")
def strategy_run(tmp_path_factory):
    """A run of two steps in which the phrase book speaks.  Not to be changed."""
    run = tmp_path_factory.mktemp("strategy") / "run"
    with small_shops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_curves", DRAWN)
        flags = [*SHORT, "--steps", "2", "--eval_episodes", "3"]
        assert train.main([*flags, "--output_dir", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def lm_run(tmp_path_factory):
    """A run of one step in which a language model speaks.  Not to be changed."""
    run = tmp_path_factory.mktemp("lm") / "run"
    with small_shops():
        flags = [*SHORT_LM, "--steps", "1", "--eval_episodes", "2"]
        assert train.main([*flags, "--output_dir", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def answer(lm_run):
    """Both agents of `lm_run`."""
    with small_shops():
        return load(lm_run)
