"""How tests are dealt out to processes, how many cases property tests draw, and what each page of
the book weighs."""

import os
import pathlib
import re

import pytest
from hypothesis import HealthCheck, settings

from tests import triton_interpreter

KILOBYTE = 1000
PARTS = "text", "widgets", "figures", "theme"
WEIGHTS = pathlib.Path(__file__).parents[1] / "_build" / "page-weights.txt"

# "fast" draws the same few cases in every run, for `make test`; HYPOTHESIS_PROFILE=full draws many
# new ones and remembers those that failed. A loaded machine is slow, which is not a failure.
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fast", max_examples=10, derandomize=True, database=None, **_PATIENT)
settings.register_profile("full", max_examples=300, print_blob=True, **_PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


if os.environ.get("TRITON_INTERPRET") == "1":
    triton_interpreter.prepare_once()

# A test or a module of these takes a minute and more. They begin first, so that no process is left
# alone with one of them while the other has nothing to do.
_LONG = re.compile(r"interpreter|test_live|test_standalone|test_speed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.search(item.nodeid) is None)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Modules stay together, as with loadscope, but a page of the book stays with itself."""
    if config.option.dist != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByPage(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            page = re.search(r"^tests/browser/.*\[(book/\w+)", nodeid)
            return page[1] if page else super()._split_scope(nodeid)

    return ByPage(config, log)


def pytest_terminal_summary(terminalreporter):
    """A table of what pages weigh, which their tests have measured in whatever process."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    pages = {
        page: parts
        for report in reports
        for kind, (page, *parts) in report.user_properties
        if kind == "weight"
    }
    if not pages:
        return
    lines = ["What each page loads, in kilobytes, before compression.", ""]
    lines.append(f"{'page':24}" + "".join(f"{part:>10}" for part in (*PARTS, "all")))
    for page, parts in pages.items():
        sizes = (*parts, sum(parts))
        lines.append(f"{page:24}" + "".join(f"{size / KILOBYTE:10.0f}" for size in sizes))
    WEIGHTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
