"""Tests of infra/transport.py: the deadline, the pause, Retry-After."""
import email.utils
import math
import random
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.transport import Deadline, pause, retry_after


def test_a_deadline_that_passes_while_connecting():
    deadline = Deadline(0)
    deadline.timer.join(10)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        deadline.attach(ours)
        theirs.settimeout(10)
        # hung up
        assert theirs.recv(1) == b""


@given(st.integers(0, 30), st.integers(0, 2**32))
def test_pause_is_full_jitter(attempt, seed):
    assert 0 <= pause(attempt, None, random.Random(seed)) <= min(60, 2 ** attempt)


def test_pause_uses_its_range():
    drawn = [pause(3, None, random.Random(i)) for i in range(400)]
    # uniform on [0, 8]
    assert min(drawn) < 0.5
    assert max(drawn) > 7.5
    assert abs(sum(drawn) / 400 - 4) < 0.5


def test_pause_obeys_the_server():
    assert 7 <= pause(0, 7.0, random.Random(0)) <= 8
    assert pause(0, 86400.0, random.Random(0)) == 60


def test_retry_after_by_hand():
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after("12") == 12
    assert retry_after(" 0.5 ") == 0.5
    assert 25 < retry_after(at) <= 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("nonsense", [
    "-5", "nan", "inf", "soon", "", "Wed, 99 Oct 99999 99:99:99 GMT", "9" * 400, None,
])
def test_retry_after_of_nonsense_is_none(nonsense):
    assert retry_after(nonsense) is None


@given(st.text(max_size=40))
def test_retry_after_never_breaks(text):
    assert retry_after(text) is None or 0 <= retry_after(text) < math.inf
