"""Citations by author and year, each to one work: Gu et al., 2022a and 2022b.

Works that would be cited alike get letters, in the order of the bibliography, before anything is read;
the bibliography is labelled as the text cites.
"""

from collections import defaultdict

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as UnsrtStyle
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting.author_year_title import SortingStyle


def cited_as(entry):
    """The words of a citation: "Hochreiter and Schmidhuber, 1997"."""
    persons = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in persons]
    if len(names) > 2 or names[1:] == ["others"]:
        names = [f"{names[0]} et al."]
    names = " and ".join(names).replace("{", "").replace("}", "")
    return f"{names or entry.fields['title']}, {entry.fields.get('year', 'n.d.')}"


def tell_apart(entries):
    """Append a letter to the years of works that are cited alike."""
    alike = defaultdict(list)
    for entry in SortingStyle().sort(entries):
        alike[cited_as(entry)].append(entry)
    for group in alike.values():
        for letter, entry in zip("abcdefgh", group):
            if len(group) > 1 and not entry.fields["year"].endswith(letter):
                entry.fields["year"] += letter


class AuthorYearLabels(BaseLabelStyle):
    def format_labels(self, sorted_entries):
        return map(cited_as, sorted_entries)


class BookStyle(UnsrtStyle):
    default_sorting_style = "author_year_title"
    default_label_style = "book"


def start(app):
    tell_apart(list(app.env.get_domain("cite").bibdata.data.entries.values()))


def setup(app):
    app.setup_extension("sphinxcontrib.bibtex")
    register_plugin("pybtex.style.labels", "book", AuthorYearLabels)
    register_plugin("pybtex.style.formatting", "book", BookStyle)
    app.config.bibtex_default_style = "book"
    app.connect("builder-inited", start)
    return {"parallel_read_safe": True}
