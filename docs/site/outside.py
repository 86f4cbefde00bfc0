"""Pages of the site that lie outside docs/, and links that are right both in the repository and on the site.

A file keeps the place that it has in the repository, but for docs/, whose files come to the top, and README.md, which
is the first page. Links are written for the repository, and turned here.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# ![alt](target#anchor) or [text](target); code is left alone
_LINK = re.compile(r"(`+)(?:.*?)\1|(?P<start>\]\()(?P<target>[^)\s#]+)", re.DOTALL)
FIRST = "README.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The first page is index.md, whatever it is called in the repository."""
    config.nav = _renamed(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the navigation that docs/ does not have."""
    root = _root(config)
    for place in _places(config.nav):
        if files.get_file_from_path(place) is None:
            source = root / (FIRST if place == "index.md" else place)
            files.append(File.generated(config, place, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page."""
    here = page.file.src_uri
    docs = Path(config.docs_dir).name
    in_docs = (Path(config.docs_dir) / here).exists()
    source = posixpath.join(docs, here) if in_docs else FIRST if here == "index.md" else here

    def turned(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or ":" in target:
            return match[0]
        there = _on_site(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)), docs)
        return match["start"] + posixpath.relpath(there, posixpath.dirname(here) or ".")

    return _LINK.sub(turned, markdown)


def _on_site(path: str, docs: str) -> str:
    return "index.md" if path == FIRST else path.removeprefix(f"{docs}/")


def _renamed(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_renamed(entry) for entry in nav]
    if isinstance(nav, dict):
        return {title: _renamed(entry) for title, entry in nav.items()}
    return "index.md" if nav == FIRST else nav


def _places(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [place for entry in entries for place in _places(entry)]


def _root(config: MkDocsConfig) -> Path:
    return Path(os.path.dirname(os.path.abspath(config.config_file_path)))
