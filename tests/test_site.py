"""The site: it builds without a warning, and what its first pages and its reference must hold is there."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

import dms_jax

ROOT = Path(__file__).parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings")


class _Page(HTMLParser):
    """The ids of a page and where its links and pictures lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found.get("id") or ""}
        self.links |= {found.get(name) or "#" for name in ("href", "src")} - {"#"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """{path: page} of a site that was built with warnings as errors."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is missing: pip install '.[docs]'")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(directory.rglob("*.html"))
    return {str(path.relative_to(directory)): _Page(path.read_text()) for path in pages}, directory


def test_every_link_leads_somewhere(site):
    pages, directory = site
    for name, page in pages.items():
        for link in page.links:
            path, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", link) or name == "404.html":
                continue
            target = (directory / name).parent.joinpath(path.split("?")[0]) if path else directory / name
            assert target.exists(), f"{name}: {link}"
            there = pages.get(str(target.resolve().relative_to(directory.resolve())))
            assert not anchor or there is None or anchor in there.ids, f"{name}: {link}"


def test_every_page_of_results_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = sorted((ROOT / "experiments/benchmarks/results").glob("*.md"))
    assert (
        pages
        and [page.name for page in pages if f" experiments/benchmarks/results/{page.name}\n" not in navigation] == []
    )


def asked():
    """What the reference is of: public name -> where it is defined."""
    paths = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    parts = [path.split(".") for path in paths]
    return {name[-1] if name[1] in ("fit", "shrink") else name[1]: ".".join(name) for name in parts}


def test_every_public_name_is_asked_for():
    assert set(dms_jax.__all__) - set(asked()) == set()


def test_the_reference_has_what_is_asked_for(site):
    ids = site[0]["api.html"].ids
    assert set(asked().values()) - ids == set() and "dms_jax.SearchSpace.from_nnx" in ids


def test_the_first_page_is_the_readme_and_pages_outside_are_there(site):
    pages, directory = site
    assert "Fit a JAX network to a budget" in (directory / "index.html").read_text()
    assert {"CONTRIBUTING.html", "CHANGELOG.html"} <= set(pages)
