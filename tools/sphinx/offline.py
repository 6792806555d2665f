"""Take Thebe out of the pages: the book offers no server to run code on.

Jupyter Book loads sphinx-thebe whether it is used or not; its script names another host and is
printed twice, which is a JavaScript error on every page.
"""


def setup(app):
    app.connect("builder-inited", _drop_thebe, priority=0)
    return {"parallel_read_safe": True}


def _drop_thebe(app):
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__.startswith("sphinx_thebe"):
                app.disconnect(listener.id)
