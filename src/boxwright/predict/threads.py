"""Threads beside the network: they read ahead of it and write behind it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(calls: Iterable[Callable[[], T | None]], threads: int, count: int) -> Generator[T, None, None]:
    """Yields results in the order of the calls, up to the first None; makes at most `count` calls in advance."""
    waiting: deque[Future[T | None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > count:
                if (result := waiting.popleft().result()) is None:
                    return
                yield result
        for future in waiting:
            if (result := future.result()) is None:
                return
            yield result


class Behind:
    """Makes calls in threads, in their order where there is one thread; raises what they raise.

    At most `count` calls are pending; the next one waits for the oldest.
    """

    def __init__(self, threads: int, count: int) -> None:
        self._pool, self._count = ThreadPoolExecutor(threads), count
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, call: Callable[..., None], *arguments: Any) -> None:
        self._waiting.append(self._pool.submit(call, *arguments))
        if len(self._waiting) > self._count:
            self._waiting.popleft().result()

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            for future in self._waiting if kind is None else ():
                future.result()
        finally:
            self._pool.shutdown(cancel_futures=True)
