"""What the tests of the data share."""

import tracemalloc

import pytest


@pytest.fixture
def with_peak_memory():
    """What ``make()`` returns, and the most bytes that were allocated meanwhile."""

    def run(make):
        tracemalloc.start()
        try:
            return make(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return run
