"""Alternative texts: how to give one where a directive has no option for it, and who forgot one.

    ````{alt} What the picture shows
    ```{glue} name-of-the-picture
    ```
    ````

A picture without an alternative text is a warning, and with -W an error.
"""

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


class Alt(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        described = nodes.container("", alt=self.arguments[0])
        self.state.nested_parse(self.content, self.content_offset, described)
        return [described]


def look(app, doctree, docname):
    for described in doctree.findall(nodes.container):
        if "alt" in described:
            for image in described.findall(nodes.image):
                image["alt"] = described["alt"]
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logger.warning("no alternative text: %s", image["uri"], location=(docname, image.line))


def setup(app):
    app.add_directive("alt", Alt)
    app.connect("doctree-resolved", look)
    return {"parallel_read_safe": True}
