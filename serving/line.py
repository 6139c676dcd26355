"""The line in which requests wait: one thread answers several of them together.

However many clients there are, no more than `waiting` requests are kept, no more than `at_once`
are answered at a time, and none waits for longer than its time-out."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.wire import Refused


class Line:
    """Requests that wait, and who answers them.

    answer  from requests to as many answers or exceptions; called in a thread, one call at a time
    """

    def __init__(
        self, answer: Callable[[Sequence[Any]], list[Any]], waiting: int, at_once: int
    ):
        self.answer = answer
        self.at_once = at_once
        self.queue: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue(waiting)

    async def ask(self, request: Any, seconds: float) -> Any:
        """The answer to a request; raises Refused, or what `answer` gave in its place."""
        future = asyncio.get_running_loop().create_future()
        try:
            self.queue.put_nowait((request, future))
        except asyncio.QueueFull:
            raise Refused(503, "too many requests are waiting; ask again in a second") from None
        try:
            answer = await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise Refused(504, f"no answer within {seconds:g} seconds; ask again") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work(self) -> None:
        """Answers what waits, until it is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "pair") as thread:
            while True:
                batch = await self._next()
                requests = [request for request, _ in batch]
                answers = await loop.run_in_executor(thread, self.answer, requests)
                for (_, future), answer in zip(batch, answers):
                    if not future.done():
                        future.set_result(answer)

    async def _next(self) -> list[tuple[Any, asyncio.Future]]:
        """The next requests, without those whose time ran out while they waited."""
        batch: list[tuple[Any, asyncio.Future]] = []
        while not batch:
            taken = [await self.queue.get()]
            while len(taken) < self.at_once and not self.queue.empty():
                taken.append(self.queue.get_nowait())
            batch = [(request, future) for request, future in taken if not future.done()]
        return batch
