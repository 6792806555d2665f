"""Runs the cells of a page as a notebook would. ``worker.js`` gives this file to the browser's Python.

Nothing in it knows of the browser, so that a test can run whole chapters with it.
"""

import ast
import base64
import contextlib
import importlib.util
import io
import json
import linecache
import traceback

namespace = {"__name__": "__main__"}  # of all cells
shown = []  # what the running cell has shown so far, in order


class Text(io.TextIOBase):
    """Where the prints of a cell go."""

    def write(self, text):
        if shown and shown[-1][0] == "text":
            shown[-1][1] += text
        else:
            shown.append(["text", text])
        return len(text)


def show_figures(*_, **__):
    """What ``plt.show`` does here, and the end of each cell."""
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi="figure", bbox_inches="tight")
        shown.append(["png", base64.b64encode(picture.getvalue()).decode()])
    plt.close("all")


plt = None
if importlib.util.find_spec("matplotlib"):  # now, since it takes seconds
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    plt.show = show_figures


def show_value(value):
    """The last line of a cell, where it is an expression."""
    if hasattr(value, "_repr_html_"):
        shown.append(["html", value._repr_html_()])
    elif hasattr(value, "_repr_png_"):  # a diagram
        shown.append(["png", base64.b64encode(value._repr_png_()).decode()])
    elif value is not None:
        print(repr(value))


def is_verdict(error):
    """Whether a check of an exercise has found an answer wrong, which is no fault of the code."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return isinstance(error, AssertionError) and module.startswith("ssm_book.exercises")


def told(error, name):
    """A verdict in its own words, and any other error as Python tells it, without the frames of this file."""
    if is_verdict(error):
        return ["verdict", str(error)]
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename != name:
        frames = frames.tb_next
    return ["error", "".join(traceback.format_exception(type(error), error, frames))]


def run(code, name, alone=False):
    """Run one cell.

    Args:
        code (str):   its text
        name (str):   what a traceback calls it, such as "cell 7"
        alone (bool): it sees the names of the cells before it, and leaves none behind

    Returns:
        str, JSON: pairs of a kind, one of text, html, png, error and verdict (what the check of an
        exercise found wrong), and the content
    """
    names = dict(namespace) if alone else namespace
    shown.clear()
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    with contextlib.redirect_stdout(Text()), contextlib.redirect_stderr(Text()):
        try:
            tree = ast.parse(code, name)
            last = None
            if (
                tree.body
                and isinstance(tree.body[-1], ast.Expr)
                and not code.rstrip().endswith(";")
            ):
                last = ast.Expression(tree.body.pop().value)
            exec(compile(tree, name, "exec"), names)
            if last is not None:
                show_value(eval(compile(last, name, "eval"), names))
        except BaseException as error:  # also SystemExit: a page has nowhere to exit to
            shown.append(told(error, name))
        if plt:
            show_figures()
    return json.dumps(shown)
