"""Reading ahead and background work of a prediction."""

import threading
import time
from itertools import count

import pytest

from boxwright.predict.threads import Behind, ahead


def test_reading_ahead_keeps_the_order_ends_at_none_and_is_bounded():
    started = []

    def call(number):
        def result():
            started.append(number)
            time.sleep(0.002 * (number % 3))
            return None if number == 20 else number

        return result

    for expected, number in enumerate(ahead(map(call, count()), threads=3, count=4)):
        assert number == expected
        assert len(started) <= number + 4 + 2
    assert expected == 19
    assert list(ahead([lambda: 1, lambda: 2], threads=1, count=10)) == [1, 2]


def test_background_work_is_bounded_in_order_and_its_errors_are_raised():
    done, main = [], threading.get_ident()
    with Behind(threads=1, count=2) as behind:
        for number in range(20):
            behind(lambda n: done.append((n, threading.get_ident())), number)
            assert number - len(done) <= 3
    assert [n for n, _ in done] == list(range(20))
    assert main not in {thread for _, thread in done}

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(threads=2, count=8) as behind:
        behind(fail)
