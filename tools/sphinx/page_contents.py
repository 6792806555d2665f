"""Entries at the right for pages to look something up in: letters of the glossary, chapters of the list
of exercises. Sphinx knows sections only.
"""

import exercise_list
from docutils import nodes
from sphinx import addnodes


def add_entries(app, env):
    """Once all pages have been read and chapters have their numbers."""
    for page in env.exercise_pages:
        chapters = exercise_list.chapters(env)
        append(env, page, [(env.titles[p].children, exercise_list.anchor(p)) for p in chapters])
    letters = {}
    for (kind, term), (page, anchor) in env.get_domain("std").objects.items():
        if kind == "term":
            letters.setdefault(page, {}).setdefault(term[0].upper(), anchor)
    for page, anchors in letters.items():
        append(env, page, [([nodes.Text(letter)], anchors[letter]) for letter in sorted(anchors)])
    return []


def append(env, page, entries):
    """Put entries, of words and the place they lead to, into the contents of a page."""
    items = nodes.bullet_list()
    for words, anchor in entries:
        link = nodes.reference("", "", internal=True, refuri=page, anchorname=f"#{anchor}")
        link += [word.deepcopy() for word in words]
        items += nodes.list_item("", addnodes.compact_paragraph("", "", link))
    env.tocs[page][0][1:] = [items]
    env.toc_num_entries[page] = 1 + len(entries)


def setup(app):
    app.setup_extension("exercise_list")
    app.connect("env-get-updated", add_entries, priority=900)
    return {"parallel_read_safe": True}
