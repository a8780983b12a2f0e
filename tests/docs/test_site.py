"""The site builds without a warning and fetches nothing; links of pages outside of it lead somewhere, too."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, PAGES, ROOT, name_of

OF_USERS = {"config.yaml", "data.yaml"}
"""Files that a run writes or a user has."""

FETCHING = {"audio", "embed", "iframe", "img", "input", "link", "object", "script", "source", "track", "video"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built site; a missing page, file or heading that a link names is a warning, and so an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """Addresses that a browser fetches by itself, unlike those of links to click on."""

    def __init__(self, page):
        super().__init__()
        self.addresses = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in FETCHING:
            self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data") and value]


def test_the_site_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    fetched = {address for page in pages for address in Fetched(page.read_text(encoding="utf-8")).addresses}
    assert len(pages) > 25
    assert {
        address for address in fetched if re.match(r"\w+:|//", address) and not address.startswith("data:")
    } == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(['\"]?|@import\s+['\"])(?:\w+:)?//[^)]*", styles) == []


def test_every_file_that_a_page_fetches_is_there(site):
    for page in site.rglob("*.html"):
        for address in Fetched(page.read_text(encoding="utf-8")).addresses:
            if page.name != "404.html" and not address.startswith("data:"):
                assert (page.parent / address.partition("?")[0].partition("#")[0]).exists(), f"{page}: {address}"


def slug(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(slug, headings), link


def test_pages_of_the_site_link_to_pages_of_the_site_alone():
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"\]\(([^)#\s:]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).resolve().is_relative_to(Path(DOCS)), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_project_that_the_prose_names_exist(page):
    named = re.findall(r"`([\w/.-]+\.(?:py|yaml|yml|toml))`", page.read_text(encoding="utf-8"))
    folders = ("schemas", "pipeline", "trainer", "tests", "benchmarks", "docs", "docker")
    files = [path.as_posix() for folder in folders for path in (ROOT / folder).rglob("*.*")] + [
        *map(str, ROOT.iterdir())
    ]
    missing = [name for name in named if not any(file.endswith(f"/{name}") for file in files)]
    assert set(missing) <= OF_USERS
