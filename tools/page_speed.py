"""How a page of the built book loads on a slow telephone: bytes, first formula, blocking, shifts.

    python -m tools.page_speed [PAGE ...]         PAGE is a name such as rnn; default: all

The book is served with gzip, as web servers do, to a headless Chromium with a line of 1.6 Mb/s, 150 ms
of latency and a processor four times slower than this one. The page loads, and then it is read from
top to bottom. What is printed, as JSON: bytes transferred before and by reading, seconds to the first
text and the first formula, the longest task in seconds, the sum of the blocking parts of tasks, and
how far things moved that nobody had touched (the cumulative layout shift) at loading and at reading.
"""

import argparse
import contextlib
import functools
import gzip
import http.server
import json
import pathlib
import threading

from playwright.sync_api import sync_playwright

from tools import chromium

PHONE, DESK = 390, 1280
LINE = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 200_000,
    "uploadThroughput": 100_000,
}
COMPRESSED = {".html", ".js", ".mjs", ".css", ".json", ".svg", ".txt"}
WATCH = """
window.speed = {formula: null, tasks: [], shifts: []};
new MutationObserver((_, watcher) => {
  if (document.querySelector("mjx-container mjx-math")) {
    speed.formula = performance.now();
    watcher.disconnect();
  }
}).observe(document, {childList: true, subtree: true});
new PerformanceObserver((list) => speed.tasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({type: "longtask", buffered: true});
new PerformanceObserver((list) => speed.shifts.push(
  ...list.getEntries().filter((e) => !e.hadRecentInput).map((e) => [e.startTime, e.value])))
  .observe({type: "layout-shift", buffered: true});
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, text compressed."""

    def log_message(self, *_):
        pass

    def send_head(self):
        path = pathlib.Path(self.translate_path(self.path))
        if path.suffix not in COMPRESSED or not path.is_file():
            return super().send_head()
        body = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@functools.cache
def compressed(path):
    return gzip.compress(path.read_bytes(), 6)


@contextlib.contextmanager
def served(folder):
    """The address at which a folder is served as long as the context lasts."""
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def measure(browser, address, width=PHONE, slow=True, read=True):
    """What loading a page costs, and reading it; see the first lines of this file."""
    context = browser.new_context(viewport={"width": width, "height": 844})
    tab = context.new_page()
    tab.set_default_timeout(180_000)
    tab.add_init_script(WATCH)
    bytes_of = []
    cdp = context.new_cdp_session(tab)
    cdp.on("Network.loadingFinished", lambda event: bytes_of.append(event["encodedDataLength"]))
    cdp.send("Network.enable")
    if slow:
        cdp.send("Network.emulateNetworkConditions", LINE)
        cdp.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    tab.goto(address, wait_until="load")
    tab.wait_for_function("speed.formula !== null || performance.now() > 20000", polling=100)
    tab.wait_for_timeout(3000)
    loaded = {
        "bytes": round(sum(bytes_of)),
        "first_text": tab.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"
        ),
        "first_formula": tab.evaluate("speed.formula && speed.formula / 1000"),
        **tasks_and_shift(tab),
    }
    if not read:
        context.close()
        return {"loaded": loaded}
    tab.evaluate("speed.tasks = [], speed.shifts = []")
    bottom, at = tab.evaluate("document.documentElement.scrollHeight"), 0
    while at < bottom:
        at += 600
        tab.evaluate("(y) => scrollTo({top: y, behavior: 'instant'})", at)
        tab.wait_for_timeout(200)
    tab.wait_for_timeout(1000)
    all_read = {"bytes": round(sum(bytes_of)), **tasks_and_shift(tab)}
    context.close()
    return {"loaded": loaded, "read": all_read}


def tasks_and_shift(tab):
    tasks, shifts = tab.evaluate("[speed.tasks, speed.shifts]")
    return {
        "longest_task": max(tasks, default=0) / 1000,
        "blocking": sum(max(0, task - 50) for task in tasks) / 1000,
        "shift": worst_second(shifts),
    }


def worst_second(shifts):
    """The cumulative layout shift: of windows of at most 5 s, without a pause of 1 s, the largest sum."""
    worst = total = 0
    start = last = float("-inf")
    for time, value in shifts:
        if time - last > 1000 or time - start > 5000:
            start, total = time, 0
        total, last = total + value, time
        worst = max(worst, total)
    return round(worst, 4)


def main():
    names = {page.removeprefix("book/"): page for page in chromium.pages()}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=", ".join(names))
    parser.add_argument("--width", type=int, default=PHONE)
    parser.add_argument("--fast", action="store_true", help="no slow line and processor")
    arguments = parser.parse_args()
    with sync_playwright() as playwright, served(chromium.HTML) as address:
        browser = chromium.launch(playwright)
        for name in arguments.pages or names:
            result = measure(
                browser, f"{address}{names[name]}.html", arguments.width, not arguments.fast
            )
            print(json.dumps({"page": name, "width": arguments.width, **result}), flush=True)


if __name__ == "__main__":
    main()
