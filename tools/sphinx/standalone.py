"""Notebooks for Colab and Binder: the chapters in plain Markdown, to be read away from the book.

    jupyter-book build . --builder custom --custom-builder notebooks

Colab and JupyterLab show directives, roles and labels as they were typed. So this builder starts
from what Sphinx has made of a chapter, where numbers, links, citations and glued values are those
of the book. It writes that as Markdown, with links into the published book, around the cells of the
chapter with their stored outputs. Code that the book folds is folded here too, and a solution does
not show before it is asked for.

There is a method ``on_…`` for each kind of node that occurs; another kind stops the build.
"""

import base64
import html
import re
from pathlib import Path

import nbformat
from docutils import nodes
from myst_nb.core.render import base_render_priority
from sphinx.builders import Builder
from sphinx.errors import ExtensionError

BINDER = """\
--extra-index-url https://download.pytorch.org/whl/cpu
ssm-core[chapters,fast,torch] @ git+{repository}
"""
README = """\
# Notebooks of "{title}"

The chapters of [the book]({book}), made from [its sources]({repository}) to be opened in Colab and
Binder. Each deployment of the book replaces this branch.
"""
NEW_CELL = object()


class NotebookBuilder(Builder):
    """Writes ``book/NAME.ipynb`` for each chapter, and what Binder needs beside it."""

    name = "notebooks"
    format = "notebook"
    supported_image_types = ["image/png"]  # noqa: RUF012

    def get_outdated_docs(self):
        return [name for name in self.env.found_docs if self.source(name).suffix == ".ipynb"]

    def get_target_uri(self, docname, typ=None):
        return f"{self.config.html_baseurl}{docname}.html"

    def get_relative_uri(self, from_, to, typ=None):
        return self.get_target_uri(to, typ)

    def write(self, build_docnames, updated_docnames, method="update"):
        super().write(self.get_outdated_docs(), [], method)  # all, for numbers run through the book

    def prepare_writing(self, docnames):
        pass

    def source(self, docname):
        return Path(self.env.doc2path(docname))

    def write_doc(self, docname, doctree):
        if docname in self.get_outdated_docs():
            path = Path(self.outdir, f"{docname}.ipynb")
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(Chapter(self, docname).notebook(doctree), path)

    def finish(self):
        names = {
            "title": self.config.html_title,
            "book": self.config.html_baseurl,
            "repository": self.config.html_theme_options["repository_url"],
        }
        for name, text in (("requirements.txt", BINDER), ("README.md", README)):
            Path(self.outdir, name).write_text(text.format(**names), encoding="utf-8")


class Chapter:
    """One chapter on its way to a notebook.

    ``on_…`` takes a node and returns Markdown: inline, or a block without blank lines around it.
    """

    def __init__(self, builder, docname):
        self.builder = builder
        self.url = builder.get_target_uri(docname)
        self.numbers = builder.env.toc_fignumbers.get(docname, {})
        self.sections = builder.env.toc_secnumbers.get(docname, {})
        self.source = nbformat.read(builder.source(docname), as_version=4)
        self.name = Path(docname).name

    # cells

    def notebook(self, doctree):
        """The notebook of a resolved page."""
        cells, text, done = [], [], 0

        def end_text():
            if text:
                cell = nbformat.v4.new_markdown_cell("\n\n".join(text))
                cell.id = f"{self.name}-text-{len(cells):03d}"
                cells.append(cell)
                text.clear()

        def left_out(start, stop):  # code that the book does not show
            return [code_cell(c) for c in self.source.cells[start:stop] if c.cell_type == "code"]

        for piece in self.pieces(doctree):
            if isinstance(piece, str):
                text.append(piece)
                continue
            end_text()
            if piece is not NEW_CELL:
                index, title = piece
                cells += left_out(done, index)
                cells.append(code_cell(self.source.cells[index], title))
                done = index + 1
        end_text()
        cells += left_out(done, None)
        metadata = {**self.source.metadata, "colab": {"provenance": []}}
        return nbformat.v4.new_notebook(cells=cells, metadata=metadata)

    def pieces(self, node, solution=None):
        """The page in order: Markdown, (index, title of the fold or None) for code, NEW_CELL."""
        for child in node.children:
            if isinstance(child, nodes.container) and child.get("nb_element") == "cell_code":
                captions = [self.on_figure(figure) for figure in child.findall(nodes.figure)]
                title = solution or folded_title(child["cell_metadata"], captions)
                yield child["cell_index"], title
                yield from captions
            elif isinstance(child, nodes.title) and isinstance(node, nodes.section):
                yield NEW_CELL
                yield self.heading(child)
            elif kind(child) == "solution_node":
                yield NEW_CELL
                yield from self.solution(child)
                yield NEW_CELL
            elif isinstance(child, nodes.section):
                yield from self.pieces(child, solution)
            elif markdown := self.block(child):
                yield markdown

    def heading(self, title):
        depth, node = 0, title.parent
        while isinstance(node, nodes.section):
            depth, node = depth + 1, node.parent
        number = self.sections.get("" if depth == 1 else f"#{title.parent['ids'][0]}")
        numbered = ".".join(map(str, number)) + ". " if number else ""
        heading = f"{'#' * depth} {numbered}{self.inline(title)}"
        if depth == 1:
            book = f"[{escape(self.builder.config.html_title)}]({self.url})"
            heading += f"\n\n*This notebook is a chapter of the book {book}. Links lead there.*"
        return heading

    def solution(self, node):
        """Text in folds of its own, code with its input hidden."""
        name = re.search(r"Solution to\s+(\w+ [\d.]+)", node[0].astext())[1]
        summary = f"Solution to {name}"
        text = []
        for piece in [*self.pieces(node[1], solution=summary), NEW_CELL]:
            if isinstance(piece, str):
                text.append(piece)
                continue
            if text:
                yield fold(summary, "\n\n".join(text))
                summary, text = f"Solution to {name}, continued", []
            if piece is not NEW_CELL:
                yield piece

    def number(self, counter, node):
        """The number that the book gives to an equation, a figure, a theorem or an exercise."""
        return ".".join(map(str, self.numbers[counter][node["ids"][0]]))

    # blocks

    def block(self, node):
        for base in type(node).__mro__:
            if method := getattr(self, f"on_{base.__name__}", None):
                return method(node)
        raise ExtensionError(f"{self.name}: no way to write {kind(node)} as Markdown yet: {node}")

    def blocks(self, parent):
        return "\n\n".join(filter(None, map(self.block, parent.children)))

    def on_target(self, node):
        return ""

    on_index = on_target

    def on_compound(self, node):
        """The list of the pages below a chapter; its text links to them."""
        return ""

    def on_paragraph(self, node):
        text = re.sub(r"\n+", "\n", self.inline(node))
        return re.sub(r"^(\d+(?=[.)]\s)|(?=[-+#>]\s))", r"\1\\", text, flags=re.MULTILINE)

    def on_math_block(self, node):
        latex = re.sub(r"\n\s*\n", "\n", node.astext().strip())
        if node.get("number"):
            latex += rf" \tag{{{self.number('displaymath', node)}}}"
        return f"$$\n{latex}\n$$"

    def on_literal_block(self, node):
        code = node.astext().strip("\n")
        fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", code))])
        return f"{fence}{node.get('language', '')}\n{code}\n{fence}"

    def on_bullet_list(self, node):
        return self.items(node, ["-"] * len(node))

    def on_enumerated_list(self, node):
        return self.items(node, [f"{i}." for i in range(1, len(node) + 1)])

    def items(self, node, marks):
        texts = [
            f"{mark} " + self.blocks(item).replace("\n", "\n" + " " * (len(mark) + 1))
            for mark, item in zip(marks, node.children)
        ]
        loose = any(len(item) > 1 for item in node.children)
        return ("\n\n" if loose else "\n").join(texts)

    def on_table(self, node):
        rows = [[self.entry(entry) for entry in row] for row in node.findall(nodes.row)]
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def entry(self, node):
        for math in node.findall(nodes.math):  # a bar would end the cell
            latex = math.astext().replace(r"\|", r"\Vert ").replace("|", r"\vert ")
            math.children = [nodes.Text(latex)]
        return re.sub(r"(?<!\\)\|", r"\\|", " ".join(map(self.inline, node.children)))

    def on_figure(self, node):
        label = self.builder.config.numfig_format["figure"] % self.number("figure", node)
        image = next(node.findall(nodes.image), None)
        inside_a_cell = isinstance(node.parent, nodes.container)  # whose output has the picture
        picture = "" if inside_a_cell or image is None else self.on_image(image) + "\n\n"
        caption = next(node.findall(nodes.caption))
        return f"{picture}**{label}** {self.on_paragraph(caption)}"

    def on_image(self, node):
        picture = Path(self.builder.srcdir, node["uri"]).read_bytes()
        alternative = escape(node.get("alt", "").replace("\n", " "))
        return f"![{alternative}](data:image/png;base64,{base64.b64encode(picture).decode()})"

    def on_admonition(self, node):
        title, *content = node.children
        above = node.parent[0]
        repeated = isinstance(above, nodes.title) and above.astext() == title.astext()
        heading = [] if repeated else [f"**{self.inline(title)}**"]
        return quote(heading + [self.block(child) for child in content])

    def on_theorem_node(self, node):
        return self.numbered(node, node["countertype"], self.inline(node[0]))

    on_proposition_node = on_theorem_node

    def on_exercise_enumerable_node(self, node):
        return self.numbered(node, "exercise", self.inline(node[0]))

    def numbered(self, node, counter, title):
        heading = f"**{counter.title()} {self.number(counter, node)}** {title.strip()}"
        return quote([heading, self.blocks(node[1])])

    def on_proof_node(self, node):
        return quote([re.sub(r"^Proof\. ", "*Proof.* ", self.blocks(node[0]))])

    def on_folded_hint(self, node):
        return fold(f"Hint {node['level']}", self.blocks(node))

    # inline

    def inline(self, node):
        return "".join(map(self.block, node.children))

    def on_Text(self, node):
        return escape(node.astext())

    def on_inline(self, node):
        text = self.inline(node)
        if "bibtex-citation" in node["classes"]:  # some take an escaped bracket for a formula
            text = text.replace(r"\[", "(").replace(r"\]", ")")
        return text

    def on_math(self, node):
        return f"${node.astext().strip()}$"

    def on_emphasis(self, node):
        return f"*{self.inline(node)}*"

    def on_strong(self, node):
        return f"**{self.inline(node)}**"

    def on_literal(self, node):
        code = node.astext()
        ticks = "`" * (1 + max([0, *map(len, re.findall("`+", code))]))
        pad = " " if code.startswith("`") or code.endswith("`") else ""
        return f"{ticks}{pad}{code}{pad}{ticks}"

    def on_reference(self, node):
        address = node.get("refuri") or f"{self.url}#{node['refid']}"
        return f"[{self.inline(node).strip()}]({address})"


def kind(node):
    return type(node).__name__


def escape(text):
    """Text in which Markdown finds nothing to do."""
    return re.sub(r"([\\`*_$\[\]|]|<(?=[A-Za-z/!?]))", r"\\\1", text)


def quote(blocks):
    """Set apart by a bar. Displayed formulas go on one line, or the marks would be read as >."""
    text = re.sub(
        r"\$\$\n(.*?)\n *\$\$",
        lambda match: f"$$ {' '.join(match[1].split())} $$",
        "\n\n".join(blocks),
        flags=re.DOTALL,
    )
    return re.sub(r"^", "> ", text, flags=re.MULTILINE).replace("> \n", ">\n")


def fold(summary, text):
    return f"<details>\n<summary>{html.escape(summary)}</summary>\n\n{text}\n\n</details>"


def folded_title(metadata, captions):
    """The title of a folded cell: what the cell says, its figure's number, or None if it is open."""
    prompt = metadata.get("mystnb", {}).get("code_prompt_show")
    if prompt or "hide-input" not in metadata.get("tags", []):
        return prompt
    return captions[0].split("**")[1] if captions else "Code"


def code_cell(cell, title=None):
    """A cell with its outputs, without what only the book understands, folded under a title."""
    outputs = [output for output in cell.outputs if not glued(output)]
    new = nbformat.v4.new_code_cell(
        cell.source, outputs=outputs, execution_count=cell.execution_count
    )
    new.id = cell.id
    if title:
        new.source = f"# @title {title}\n{cell.source}"
        new.metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}  # Colab, JupyterLab
    return new


def glued(output):
    """Is this output a value for the text, shown nowhere else?"""
    return any(form.startswith("application/papermill.record/") for form in output.get("data", {}))


def choose_outputs(app, config):
    """Of several forms of an output take the one that a web page gets."""
    order = base_render_priority()["html"].items()
    mine = [(NotebookBuilder.name, form, priority) for form, priority in order]
    config.nb_mime_priority_overrides = [*config.nb_mime_priority_overrides, *mine]


def setup(app):
    app.add_builder(NotebookBuilder)
    app.connect("config-inited", choose_outputs)
    return {"parallel_read_safe": True}
