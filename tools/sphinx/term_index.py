"""Each use of a glossary term that a chapter marks with {term} is an entry of the index as well."""

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform


class IndexTerms(SphinxTransform):
    default_priority = 800  # before Sphinx collects the entries

    def apply(self):
        if next(self.document.findall(addnodes.glossary), None) is not None:
            return  # the glossary brings its own entries
        for use in list(self.document.findall(addnodes.pending_xref)):
            if use["reftype"] == "term":
                anchor = f"term-use-{self.env.new_serialno('term-use')}"
                entry = ("single", use["reftarget"], anchor, "", None)
                target = nodes.target("", "", ids=[anchor])
                use.parent.insert(use.parent.index(use), [addnodes.index(entries=[entry]), target])


def setup(app):
    app.add_transform(IndexTerms)
    return {"parallel_read_safe": True}
