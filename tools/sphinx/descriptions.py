"""What others see of a page: its description for search engines, and its card where it is linked."""

import html

from docutils import nodes

LONGEST = 200


def describe(app, pagename, templatename, context, doctree):
    if pagename == app.config.root_doc:
        context["docstitle"] = ""  # its title is that of the book
    if doctree is None:
        return
    base = app.config.html_baseurl
    words = summary(doctree)
    card = {
        "og:site_name": app.config.html_title,
        "og:type": "article",
        "og:title": app.env.titles[pagename].astext(),
        "og:description": words,
        "og:url": f"{base}{pagename}.html",
        "og:image": f"{base}_static/opening.png",
    }
    tags = [f'<meta name="description" content="{html.escape(words)}" />'] if words else []
    tags += [
        f'<meta property="{name}" content="{html.escape(value)}" />'
        for name, value in card.items()
        if value
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(["", *tags, ""])


def summary(doctree):
    """The first paragraph of some length without a formula, cut after a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        has_formula = next(paragraph.findall(nodes.math), None) is not None
        text = " ".join(paragraph.astext().split())
        if isinstance(paragraph.parent, nodes.section) and len(text) > 40 and not has_formula:
            return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def setup(app):
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True}
