"""Every link of the built book, read from its pages: what it points at is there."""

from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import pytest

HERE = "http://the-book"


class Links(HTMLParser):
    """What a page points at, what it fetches by itself, and the names others may point at."""

    def __init__(self, source):
        super().__init__()
        self.links, self.fetched, self.anchors = [], [], {""}
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        if tag == "link" and given.get("rel") not in ("canonical", "author"):
            self.fetched.append(given["href"])
        elif given.get("href") is not None:
            self.links.append(given["href"])
        if given.get("src"):
            self.fetched.append(given["src"])


@pytest.fixture(scope="module")
def pages(html):
    """The pages of the book by their place in it."""
    found = (path for path in html.rglob("*.html") if "_static" not in path.parts)
    return {path.relative_to(html).as_posix(): Links(path.read_text("utf-8")) for path in found}


def inside(place, link):
    """Page and anchor of the book that a link on a page points at, or None."""
    address = urljoin(f"{HERE}/{place}", link)
    if not address.startswith(f"{HERE}/"):
        return None
    target = urlsplit(address)
    return unquote(target.path).lstrip("/"), unquote(target.fragment)


def test_every_link_and_anchor_is_there(html, pages):
    missing = []
    for place, page in pages.items():
        for link in page.links + page.fetched:
            target = inside(place, link)
            if target is None:
                continue
            path, anchor = target
            known = pages[path].anchors if path in pages else {"", anchor}
            if not (html / path).is_file() or anchor not in known:
                missing.append(f"{place}: {link}")
    assert not missing, "\n".join(missing)


def test_pages_fetch_nothing_from_elsewhere(pages):
    foreign = [
        f"{place}: {link}"
        for place, page in pages.items()
        for link in page.fetched
        if inside(place, link) is None and not link.startswith("data:")
    ]
    assert not foreign, "\n".join(foreign)
