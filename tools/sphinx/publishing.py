"""Where a copy of the book is published: all of it follows from the repository in ``_config.yml``.

The footer links to the licence there. A build in a checkout whose remote is another repository says so,
since its launch buttons would open the notebooks of that other one.
"""

import re
import subprocess

from sphinx.util.logging import getLogger

LICENCE = '<p>Text and code are under the <a href="{}/blob/main/LICENSE">MIT licence</a>.</p>'


def follow(app, config):
    repository = config.html_theme_options.get("repository_url")
    if not repository:
        return
    config.html_theme_options["extra_footer"] = LICENCE.format(repository)
    here = remote(app.srcdir)
    if here and here != repository:
        getLogger(__name__).info(
            "Built in a checkout of %s, but _config.yml names %s: see “A copy” in CONTRIBUTING.md",
            here,
            repository,
        )


def remote(folder):
    """The address of the repository from which a folder was cloned, as a browser takes it, or None."""
    command = ["git", "-C", str(folder), "remote", "get-url", "origin"]
    try:
        run = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError):
        return None
    return browsable(run.stdout.strip())


def browsable(address):
    """https://host/owner/name of an address that git uses, such as git@host:owner/name.git."""
    place = re.fullmatch(
        r"(?:[a-z+]+://)?(?:[^@/]*@)?([^/:]+)[/:](?:\d+/)?(.+?)(?:\.git)?/?", address
    )
    return (
        f"https://{place[1]}/{place[2]}"
        if place and not address.startswith(("/", ".", "file:"))
        else None
    )


def setup(app):
    app.connect("config-inited", follow)
    return {"parallel_read_safe": True}
