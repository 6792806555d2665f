"""Pages that load faster: each gets only what it shows.

The theme loads the scripts and the index of the search on every page, and half a megabyte of icons of
which the book uses seventeen. Here the search stays on the page *Search* (elsewhere
``sphinx_highlight.js`` then marks the words that were looked for), the icons become SVG in the page,
and pictures say how large they are and wait until they are near. Drawings of a few colours need a
palette only, which takes a third of the bytes. What sets formulas is asked for at once.
"""

import json
import pathlib
import re
from xml.etree import ElementTree

from PIL import Image, ImageChops, ImageStat
from sphinx.util.logging import getLogger

ICONS = json.loads(pathlib.Path(__file__).with_name("icons.json").read_text(encoding="utf-8"))[
    "icons"
]
ICON = re.compile(
    r'<(?P<tag>i|span) class="(?P<classes>[^"]*\bfa-[^"]*)"(?P<more>[^>]*)></(?P=tag)>'
)
SCRIPTS = re.compile(
    r'\s*<(?:script|link)\b[^>]*(?:src|href)="[^"]*'
    r'(?P<name>fontawesome\.js|searchtools\.js|language_data\.js|searchindex\.js)[^"]*"[^>]*/?>'
    r"(?:\s*</script>)?"
)
IMAGE = re.compile(r'<img\b(?P<rest>[^>]*?)src="(?P<source>[^"]*_images/[^"]+)"(?P<more>[^>]*?)/?>')
LOST = 0.5  # of 255, in the mean of a colour channel
STYLES = {"fa-lg", "fa-solid", "fa-brands", "fa-regular"}


def setup(app):
    app.connect("html-page-context", let_results_land)
    app.connect("build-finished", make_lean)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def let_results_land(app, pagename, templatename, context, doctree):
    if pagename == "search":
        app.add_js_file("search_lands.js")


def make_lean(app, exception):
    if exception or app.builder.name != "html":
        return
    folder = pathlib.Path(app.outdir)
    sizes = {}
    for path in (folder / "_images").glob("*"):
        sizes[path.name] = size_of(path)
        if path.suffix == ".png":
            take_palette(path)
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        lean = early(without_scripts(text, searches=page.name == "search.html"))
        lean = IMAGE.sub(lambda found: with_size(found, sizes), ICON.sub(as_svg, lean))
        if lean != text:
            page.write_text(lean, encoding="utf-8")


def without_scripts(text, searches):
    def drop(found):
        return found[0] if searches and "fontawesome" not in found["name"] else ""

    return SCRIPTS.sub(drop, text)


def early(text):
    """A page that asks for MathJax as soon as it is there, and not when its end has been read."""
    script = re.search(r'<script[^>]* src="([^"]*mathjax/)(tex-[^"]*)"', text)
    if script is None or 'href="' + script[1] in text:
        return text
    links = "".join(
        f'<link rel="preload" as="script" href="{script[1]}{name}" />\n'
        for name in (script[2], "ui/lazy.js")
    )
    return text.replace("</title>\n", f"</title>\n{links}", 1)


def as_svg(found):
    """An icon of Font Awesome as SVG, with the classes and attributes that the theme looks for."""
    names = [name for name in found["classes"].split() if name.startswith("fa-")]
    name = next((name.removeprefix("fa-") for name in names if name not in STYLES), "")
    if name not in ICONS:
        getLogger(__name__).warning("tools/sphinx/icons.json has no icon %r", name)
        return found[0]
    classes = " ".join(["icon", *found["classes"].split()])
    icon = ICONS[name]
    return (
        f'<svg class="{classes}"{found["more"]} viewBox="{icon["viewBox"]}" aria-hidden="true" '
        f'focusable="false"><path fill="currentColor" d="{icon["path"]}"/></svg>'
    )


def with_size(found, sizes):
    """An image that says its size, so that nothing moves when it arrives, and loads when it is near."""
    size = sizes.get(found["source"].rpartition("/")[2])
    if size is None or "loading=" in found[0]:
        return found[0]
    sized = "width" in found["rest"] + found["more"]
    own = "" if sized else f' width="{size[0]}" height="{size[1]}"'
    return (
        f'<img{found["rest"]}src="{found["source"]}"{found["more"].rstrip()}'
        f'{own} loading="lazy" decoding="async" />'
    )


def size_of(path):
    """Width and height of a PNG or SVG in CSS pixels, of which an inch has 96; None for other files."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            per_inch = image.info.get("dpi", (96, 96))[0]
            return tuple(round(96 * pixels / per_inch) for pixels in image.size)
    if path.suffix == ".svg":
        box = ElementTree.parse(path).getroot().get("viewBox")
        return tuple(round(float(x) * 4 / 3) for x in box.split()[2:]) if box else None
    return None


def take_palette(path):
    """Store a picture with the 256 colours that fit it best, if that loses nothing to see."""
    with Image.open(path) as image:
        if image.mode == "P":
            return  # done before
        full, resolution = image.convert("RGB"), image.info.get("dpi")
    few = full.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    lost = ImageStat.Stat(ImageChops.difference(full, few.convert("RGB")))
    if max(lost.mean) < LOST:
        few.save(path, optimize=True, **({"dpi": resolution} if resolution else {}))
