"""The book's own extensions of Sphinx, on a book of a few lines."""

import base64
import importlib
import pathlib
import re
import subprocess
import sys
import types

import nbformat
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sphinx_exercise")

TOOLS = pathlib.Path(__file__).parents[1] / "tools" / "sphinx"
PAGES = {
    "conf.py": f"""
import sys
sys.path[:0] = [{str(TOOLS)!r}, "."]
extensions = ["myst_parser", "sphinx.ext.autodoc", "alt_text", "citations", "descriptions", "equations",
              "exercise_list", "formulas", "hints", "page_contents", "publishing", "solutions",
              "term_index"]
myst_enable_extensions = ["dollarmath"]
bibtex_bibfiles = ["works.bib"]
bibtex_reference_style = "author_year"
project = html_title = "A small book"
html_baseurl = "https://someone.github.io/a-copy/"
html_theme = "sphinx_book_theme"
html_theme_options = {{"repository_url": "https://github.com/someone/a-copy"}}
numfig = True
autodoc_member_order = "bysource"
""",
    "works.bib": """
@misc{b, author = {Gu, A. and Goel, K. and R, C.}, title = {Later}, year = 2022}
@misc{a, author = {Gu, A. and Gupta, A. and R, C.}, title = {Also}, year = 2022}
@misc{c, author = {Gu, A. and Dao, T.}, title = {Two}, year = 2023}
@misc{d, author = {Biderman, S. and others}, title = {Many}, year = 2023}
""",
    "index.md": """
# A small book

Everything there is to say about doubling & halving, in two chapters.

```{toctree}
:numbered: 1

second
first
```

```{toctree}
words
list
library
```
""",
    "first.md": """
# The *first*

$$
y = 2u
$$ (eq-double)

Twice a {term}`signal`.

The *one*, *two*, the ($k$-th), **all** of $a$, $b$; [see $c$, or $d$](second.md). Alone: $e$ here
$f$.

```{exercise} Write it
:label: ex-double

*Five minutes.* Write `double`.
```

```{hints} ex-double
1. Look at {eq}`eq-double`.
2. Multiply.
3. `2 * u`
```

```{solution} ex-double
:class: dropdown

Two times.
```

{cite:p}`b,a` and {cite:t}`c,d`.

```{bibliography}
```
""",
    "second.md": """
# The second

{term}`Signals <signal>` again.

```{exercise} Is $u$ *one*?
:label: ex-one

Half an hour. Find out.
```

```{hints} ex-one
1. Only one hint.
```

```{image} none.png
```

````{alt} A grey square
```{image} none.png
```
````
""",
    "words.md": "# Words\n\n```{glossary}\nsignal\n  A function of time.\n```\n",
    "list.md": "# All exercises\n\n```{exercise-list}\n```\n",
    "library.rst": "The library\n===========\n\n.. automodule:: small\n   :members:\n",
    "small.py": '''
"""Doubling, eq-double."""

def double(u):
    """Twice u, after eq-double: for
    :math:`u` and others.

    =========  ======
    equation   what
    =========  ======
    eq-double  twice
    =========  ======
    """

class Gain:
    """Any factor."""

    def twice(self, u):
        """Equation eq-double."""
''',
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The pages of the small book by name, and what the build complained about."""
    source = tmp_path_factory.mktemp("book")
    for name, text in PAGES.items():
        (source / name).write_text(text, encoding="utf-8")
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    (source / "none.png").write_bytes(base64.b64decode(dot))
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-b", "html", ".", "built"]
    run = subprocess.run(command, cwd=source, check=True, capture_output=True, encoding="utf-8")
    pages = {p.stem: p.read_text(encoding="utf-8") for p in (source / "built").glob("*.html")}
    return pages, run.stderr


def text(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))


def test_nothing_else_is_wrong_with_the_small_book(built):
    complaints = [line for line in built[1].splitlines() if "WARNING" in line or "ERROR" in line]
    assert len(complaints) == 2, built[1]


def test_hints_are_folded_one_by_one(built):
    hints = re.findall(r'<details class="hint"><summary>(Hint \d)</summary>', built[0]["first"])
    assert hints == ["Hint 1", "Hint 2", "Hint 3"]
    assert "<details open" not in built[0]["first"]


def test_what_touches_a_formula_stays_with_it(built):
    paragraph = re.search(r"<p>The <em>one.*?</p>", built[0]["first"], re.DOTALL).group()
    kept = re.findall(r'<span class="together">(.*?</span>.*?)</span>', paragraph)
    assert list(map(text, kept)) == [r"(\(k\)-th),", r"\(a\),", r"\(b\);", r"\(c\),", r"\(f\)."]
    assert text(paragraph) == (
        r"The one, two, the (\(k\)-th), all of \(a\), \(b\); see \(c\), or \(d\). "
        r"Alone: \(e\) here \(f\)."
    )


def test_a_formula_keeps_its_place_until_it_is_set(built):
    places = re.findall(r'<(span|div) class="math[^>]*style="--em: ([\d.]+)">', built[0]["first"])
    assert {kind for kind, _ in places} == {"span", "div"} and all(float(em) for _, em in places)
    formulas = extension("formulas")
    assert (
        formulas.width(r"\(x\)")
        < formulas.width(r"\(x_{k-1}\)")
        < formulas.width(r"\(x_{k-1} + u\)")
    )
    one, two = r"\[y = 2u\]", r"\[\begin{split}y &= 2u \\ z &= \frac{1}{2}\end{split}\]"
    assert formulas.height(one) < formulas.height(two)


def test_a_line_that_ends_before_a_formula_stays_one(built):
    assert r"after (2.1): for \(u\) and others" in text(built[0]["library"])


def test_hints_are_three(built):
    assert "ex-one: hints are a numbered list of three" in built[1]


def test_exercises_are_listed_by_chapter_with_the_numbers_of_the_book(built):
    listed = text(built[0]["list"].partition("<article")[2] or built[0]["list"])
    second = listed.index("1. The second")
    first = listed.index("2. The first")
    assert second < listed.index("Exercise 1.1, Is \\(u\\) one? (half an hour)") < first
    assert first < listed.index("Exercise 2.1, Write it (five minutes)")
    assert 'href="first.html#ex-double"' in built[0]["list"]
    assert 'id="ex-double"' in built[0]["first"]


def test_the_list_of_exercises_and_the_glossary_have_contents(built):
    listed = built[0]["list"]
    assert 'href="#exercises-of-second"' in listed and 'id="exercises-of-second"' in listed
    assert listed.index('href="#exercises-of-second"') < listed.index('href="#exercises-of-first"')
    assert re.search(r'href="#term-signal">\s*S\s*<', built[0]["words"])


def test_each_citation_is_of_one_work(built):
    words = text(built[0]["first"])
    assert re.findall(r"\w[\w .]*, 2022[ab]", words.partition("Two times.")[2])[:2] == [
        "Gu et al., 2022a",
        "Gu et al., 2022b",
    ]
    for label in (
        "Biderman et al., 2023",
        "Gu and Dao, 2023",
        "Gu et al., 2022a",
        "Gu et al., 2022b",
    ):
        assert re.search(rf"\[?{label}\]?", words.partition("Two times.")[2])
    assert re.search(r"Gu et al., 2022b\]? A\. Gu, A\. Gupta", words)


def test_the_title_of_a_solution_leads_nowhere_and_identifiers_occur_once(built):
    title = re.search(r'<p class="admonition-title">Solution to.*?</p>', built[0]["first"]).group()
    assert text(title) == "Solution to Exercise 2.1 (Write it)" and "<a" not in title
    for page in built[0].values():
        names = re.findall(
            r'\sid="([^"]*)"', page.partition("<article")[2].partition("</article")[0]
        )
        assert len(names) == len(set(names))


def test_pages_describe_themselves(built):
    card = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)" />', built[0]["index"]))
    assert card["title"] == "A small book"
    assert card["description"].startswith("Everything there is to say about doubling &amp; halving")
    assert card["url"] == "https://someone.github.io/a-copy/index.html"
    assert re.findall(r"<title>(.*?)</title>", built[0]["index"]) == ["A small book"]
    assert "The <em>first" not in re.search(r"<title>.*?</title>", built[0]["first"]).group()


def test_a_copy_names_its_own_repository(built):
    licence = "https://github.com/someone/a-copy/blob/main/LICENSE"
    assert all(
        f'<a href="{licence}">MIT licence</a>' in built[0][name] for name in ("index", "first")
    )
    assert "ssm-book" not in built[0]["index"]


def test_an_equation_names_its_functions(built):
    line = re.search(r'<p class="in-code">(.*?)</p>', built[0]["first"], re.DOTALL).group(1)
    assert text(line) == "In code: double, Gain.twice"
    links = re.findall(r'href="([^"]*)"', line)
    assert links == ["library.html#small.double", "library.html#small.Gain.twice"]
    places = re.findall(r'id="([^"]*)"', built[0]["library"])
    assert {link.partition("#")[2] for link in links} <= set(places)


def test_a_function_names_its_equations(built):
    links = re.findall(
        r'href="(first\.html#equation-eq-double)"[^>]*>\(2\.1\)', built[0]["library"]
    )
    assert (
        len(links) == 4
    )  # of the module, in the text and the table of the function, of the method
    assert "eq-double" not in text(built[0]["library"])


def test_a_picture_needs_an_alternative_text(built):
    assert built[1].count("no alternative text") == 1
    assert 'alt="A grey square"' in built[0]["second"]


def test_terms_of_the_glossary_are_in_the_index(built):
    entry = next(e for e in built[0]["genindex"].split("<li>") if text(e).startswith("signal"))
    links = re.findall(r'href="([^"]*)"', entry)
    assert links[0] == "words.html#term-signal"
    assert {link.partition("#")[0] for link in links[1:]} == {"first.html", "second.html"}
    for link in links:
        page, _, place = link.partition("#")
        assert f'id="{place}"' in built[0][page.removesuffix(".html")]


# lean pages


def extension(name):
    """One of the book's own extensions, as a module."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def lean():
    return extension("lean_pages")


HEAD = (
    '<link rel="preload" as="script" href="_static/scripts/fontawesome.js?digest=1" />\n'
    '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>\n'
    '<script src="_static/searchtools.js"></script>\n<script src="searchindex.js"></script>\n'
    '<script src="_static/doctools.js"></script>\n'
)


def test_only_the_page_that_searches_loads_the_search(lean):
    names = re.compile(r"(\w+)\.js")
    assert names.findall(lean.without_scripts(HEAD, searches=False)) == ["doctools"]
    searching = names.findall(lean.without_scripts(HEAD, searches=True))
    assert searching == ["searchtools", "searchindex", "doctools"]


def test_icons_keep_what_the_theme_looks_for(lean):
    icon = '<i class="theme-switch fa-solid fa-moon fa-lg" data-mode="dark" title="Dark"></i>'
    svg = lean.ICON.sub(lean.as_svg, icon)
    assert svg.startswith(
        '<svg class="icon theme-switch fa-solid fa-moon fa-lg" data-mode="dark" title="Dark" viewBox='
    )
    assert lean.ICON.sub(lean.as_svg, svg) == svg


def test_an_icon_that_is_missing_is_said(lean, caplog):
    icon = '<span class="fa-solid fa-no-such-icon"></span>'
    assert lean.ICON.sub(lean.as_svg, icon) == icon
    assert "has no icon 'no-such-icon'" in caplog.text


def test_drawings_take_a_palette_and_keep_their_resolution(lean, tmp_path):
    path = tmp_path / "drawing.png"
    shades = np.zeros((200, 300, 3), np.uint8)
    shades[:, :, 2] = np.arange(300) // 2
    Image.fromarray(shades).save(path, dpi=(200, 200))
    lean.take_palette(path)
    with Image.open(path) as image:
        assert image.mode == "P"
        stored = np.asarray(image.convert("RGB"), int)
    assert np.abs(stored - shades).max() <= 2
    assert lean.size_of(path) == (144, 96)  # inches times 96, whatever the resolution
    before = path.read_bytes()
    lean.take_palette(path)
    assert path.read_bytes() == before


def test_a_photograph_keeps_its_colours(lean, tmp_path):
    path = tmp_path / "photograph.png"
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(path)
    lean.take_palette(path)
    with Image.open(path) as image:
        assert image.mode == "RGB"


def test_formulas_are_asked_for_at_once(lean):
    page = '<title>T</title>\n<script defer="defer" src="../_static/mathjax/tex-mml-chtml.js?v=1"></script>'
    early = lean.early(page)
    assert (
        early.index('rel="preload" as="script" href="../_static/mathjax/tex-mml-chtml.js?v=1"')
        < 120
    )
    assert lean.early(early) == early
    assert lean.early("<title>T</title>") == "<title>T</title>"


def test_images_say_their_size(lean, tmp_path):
    dot = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    (tmp_path / "dot.png").write_bytes(dot)
    (tmp_path / "box.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 36"/>', encoding="utf-8"
    )
    sizes = {path.name: lean.size_of(path) for path in tmp_path.iterdir()}
    assert sizes == {"dot.png": (1, 1), "box.svg": (96, 48)}

    def sized(html):
        return lean.IMAGE.sub(lambda found: lean.with_size(found, sizes), html)

    once = sized('<img alt="A dot" src="../_images/dot.png" />')
    assert once == (
        '<img alt="A dot" src="../_images/dot.png" width="1" height="1" loading="lazy" decoding="async" />'
    )
    assert sized(once) == once
    other = '<img alt="Elsewhere" src="https://example.org/_static/logo.png" />'
    assert sized(other) == other


# heads and folds


@pytest.fixture(scope="module")
def head():
    return extension("chapter_head")


@pytest.mark.parametrize(
    ("words", "minutes"),
    [
        ("Reading takes about forty minutes; proofs are elsewhere.", 40),
        ("Reading takes about thirty-five minutes.", 35),
        ("Reading takes about an hour.", 60),
        ("The runs are stored (some twenty minutes).", None),
    ],
)
def test_minutes_are_those_that_a_chapter_says(head, words, minutes):
    assert head.said_minutes(words) == minutes


def test_minutes_that_are_counted_agree_with_those_that_are_said(head):
    for source in sorted((TOOLS.parents[1] / "book" / "source").glob("*.md")):
        said = head.said_minutes(source.read_text(encoding="utf-8"))
        assert (said is None) == source.stem.endswith("-deeper"), source.stem
        counted = head.counted_minutes(source.parents[1] / f"{source.stem}.ipynb")
        assert said is None or abs(said - counted) <= 20, source.stem


def test_a_head_says_what_the_notebook_holds(head, tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# T\n\nReading takes about ten minutes.\n\n## Exercises\n"),
        nbformat.v4.new_code_cell("import numpy as np\nfrom scipy import linalg"),
        nbformat.v4.new_code_cell("import torch", metadata={"tags": ["remove-cell"]}),
        nbformat.v4.new_markdown_cell("```{exercise} One\n```\n\n````{exercise} Two\n````"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "c.ipynb")
    facts = head.read(tmp_path / "c.ipynb", ["numpy", "scipy"])
    assert facts == (10, 2, ["NumPy", "SciPy"], True)
    assert not head.read(tmp_path / "c.ipynb", ["numpy"]).live


def test_folds_have_names_of_their_own():
    name = extension("folds").fold_name
    assert name("def draw(ax):\n    pass", "Fig. 5.3") == "Code of Fig. 5.3"
    assert name("x = 1\nclass Gate:\n    pass", None) == "Code of Gate"
    assert name("x = 1", None) == "Code"


# publishing


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/someone/a-copy.git",
        "https://token@github.com/someone/a-copy",
        "git@github.com:someone/a-copy.git",
        "ssh://git@github.com:22/someone/a-copy.git",
    ],
)
def test_a_remote_is_compared_as_a_browser_takes_it(remote):
    assert extension("publishing").browsable(remote) == "https://github.com/someone/a-copy"


def test_a_build_in_a_checkout_of_another_repository_says_so(tmp_path, caplog):
    publishing = extension("publishing")
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    app = types.SimpleNamespace(srcdir=tmp_path)
    options = {"repository_url": "https://github.com/someone/a-copy"}
    config = types.SimpleNamespace(html_theme_options=options)
    with caplog.at_level("INFO"):
        publishing.follow(app, config)  # no remote: nothing to compare
        assert not caplog.messages
        subprocess.run(
            [*git, "remote", "add", "origin", "git@github.com:other/fork.git"], check=True
        )
        publishing.follow(app, config)
    (line,) = caplog.messages
    assert "github.com/other/fork, but _config.yml names https://github.com/someone/a-copy" in line
