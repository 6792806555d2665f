"""Three hints for an exercise, each folded by itself: a nudge, the method, nearly the code.

    ```{hints} label-of-the-exercise
    1. Where to look.
    2. What to do there.
    3. What to type, or nearly.
    ```

A page folds them with the browser's own means, so they need no script. On paper they stand in a row.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class folded_hint(nodes.General, nodes.Element):
    """One hint; its ``level`` is 1, 2 or 3."""


class Hints(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self):
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        items = list(parsed.children[0]) if len(parsed) == 1 else []
        if len(items) != 3 or not isinstance(parsed[0], nodes.enumerated_list):
            raise self.error(f"{self.arguments[0]}: hints are a numbered list of three")
        return [folded_hint("", *item, level=level) for level, item in enumerate(items, start=1)]


def open_html(writer, node):
    writer.body.append(f'<details class="hint"><summary>Hint {node["level"]}</summary>\n')


def close_html(writer, node):
    writer.body.append("</details>\n")


def open_latex(writer, node):
    writer.body.append(f"\n\n\\noindent\\textit{{Hint {node['level']}.}} ")


def close_latex(writer, node):
    writer.body.append("\n\n")


def setup(app):
    app.add_node(folded_hint, html=(open_html, close_html), latex=(open_latex, close_latex))
    app.add_directive("hints", Hints)
    return {"parallel_read_safe": True}
