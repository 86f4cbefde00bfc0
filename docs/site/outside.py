"""Pages of the site that lie outside docs/ or are notebooks; links that are right in the repository and on the site.

A file keeps the place that it has in the repository, but for docs/, whose files come to the top, and README.md, which
is the first page. Links are written for the repository, and turned here. A notebook becomes a page of its text, its
code and its outputs.
"""

import json
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
NOTEBOOK = ".ipynb"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The first page is index.md, a page of a notebook a `.md`, whatever they are called in the repository."""
    config.nav = _renamed(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the navigation that docs/ does not have, and those of notebooks in the place of the files."""
    root = _root(config)
    for place in _places(config.nav):
        notebook = files.get_file_from_path(_notebook(place))
        if notebook is not None:
            files.remove(notebook)
            files.append(File.generated(config, place, content=_page_of(Path(str(notebook.abs_src_path)))))
        elif files.get_file_from_path(place) is None:
            source = root / (FIRST if place == "index.md" else place)
            files.append(File.generated(config, place, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page."""
    here = page.file.src_uri
    docs = Path(config.docs_dir).name
    in_docs = any((Path(config.docs_dir) / name).exists() for name in (here, _notebook(here)))
    source = posixpath.join(docs, here) if in_docs else FIRST if here == "index.md" else here

    def turned(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or ":" in target:
            return match[0]
        there = _on_site(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)), docs)
        return match["start"] + posixpath.relpath(there, posixpath.dirname(here) or ".")

    return _LINK.sub(turned, markdown)


def _on_site(path: str, docs: str) -> str:
    return _renamed(path).removeprefix(f"{docs}/")


def _notebook(page: str) -> str:
    return page.removesuffix(".md") + NOTEBOOK


def _page_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = [_code(cell) if cell["cell_type"] == "code" else "".join(cell["source"]) for cell in cells]
    return "\n\n".join([*parts, f"This page is the notebook `docs/notebooks/{notebook.name}`."])


def _code(cell: Any) -> str:
    parts = [f"```python\n{''.join(cell['source'])}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "image/png" in data:
            parts.append(f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})")
        else:
            parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts)


def _renamed(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_renamed(entry) for entry in nav]
    if isinstance(nav, dict):
        return {title: _renamed(entry) for title, entry in nav.items()}
    if nav == FIRST:
        return "index.md"
    return f"{nav.removesuffix(NOTEBOOK)}.md" if nav.endswith(NOTEBOOK) else nav


def _places(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [place for entry in entries for place in _places(entry)]


def _root(config: MkDocsConfig) -> Path:
    return Path(os.path.dirname(os.path.abspath(config.config_file_path)))
