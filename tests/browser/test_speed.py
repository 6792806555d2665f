"""How pages load: bytes are counted, shifts are measured, times have wide limits.

What a telephone on a slow line sees in seconds: python -m tools.page_speed
"""

import pytest

from tools import chromium, page_speed

BYTES = 1_500_000  # compressed, a whole page read to its end
SHIFT = 0.1


@pytest.fixture(scope="module")
def compressed(html):
    with page_speed.served(html) as address:
        yield address


@pytest.fixture(scope="module")
def longest(html):
    """The chapter with the longest page."""
    chapters = [page for page in chromium.pages() if page.count("/") == 1]
    return max(chapters, key=lambda page: (html / f"{page}.html").stat().st_size)


def test_the_longest_chapter_is_light_and_still_to_its_end(browser, compressed, longest):
    read = page_speed.measure(browser, f"{compressed}{longest}.html", page_speed.DESK, slow=False)
    assert 100_000 < read["loaded"]["bytes"] <= read["read"]["bytes"] < BYTES, longest
    assert read["read"]["shift"] < SHIFT, longest


@pytest.mark.parametrize("page", ["book/hippo", "book/s4"])
def test_nothing_moves_and_nothing_blocks_while_a_slow_telephone_loads(browser, compressed, page):
    loaded = page_speed.measure(browser, f"{compressed}{page}.html", read=False)["loaded"]
    assert loaded["shift"] < SHIFT
    assert loaded["first_formula"] < 20  # 5 on a machine with nothing else to do
    assert loaded["longest_task"] < 4
