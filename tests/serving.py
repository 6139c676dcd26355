"""A server of a trained pair on a free port of this machine, for tests."""
import contextlib
import importlib.util
import threading
import time

import pytest
import requests

NEEDED = ("fastapi", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(
    bool(MISSING), reason=f"serving needs {', '.join(MISSING)}: pip install -r requirements.txt")


@contextlib.contextmanager
def served(pair, key=None, limits=None):
    """The address of a server that runs in a thread until the block ends."""
    from serving.app import make_app
    from serving.server import Server, address_of, listening
    server = Server(make_app(pair, key, limits))
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.serve_on, args=(listener,))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield address_of(listener, "127.0.0.1")
        finally:
            server.should_exit = True
            thread.join()


def session():
    """A client that no proxy stands before."""
    http = requests.Session()
    http.trust_env = False
    return http


def said(text, **more):
    """A request with one message of the customer."""
    return {"messages": [{"role": "user", "content": text}], **more}
