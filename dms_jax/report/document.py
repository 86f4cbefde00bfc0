"""What every page is made of: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Sequence
from pathlib import Path

from dms_jax import files
from dms_jax.errors import UserError
from dms_jax.report.quantities import without_controls
from dms_jax.report.stylesheet import stylesheet


def document(title: str, body: Sequence[str], script: str = "") -> str:
    """Returns a page with nothing from elsewhere: no font, no picture, no style, and no script but this one.

    Args:
      title: what it is called.
      body: its parts as HTML.
      script: JavaScript that runs when all of it is there.
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy(script))}">',
        f"<title>{text(title)}</title>",
        f"<style>\n{stylesheet()}\n</style>",
        "</head>",
        "<body>",
        *body,
        *([f"<script>{script}</script>"] if script else []),
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(lines)


def policy(script: str) -> str:
    """The page's content security policy: nothing from elsewhere, this script and no other."""
    own = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {own}"


def section(heading: str, content: str) -> str:
    """Returns a part of a page under its heading."""
    return f"<section>\n<h2>{text(heading)}</h2>\n{content}\n</section>"


def scrolling(content: str, label: str) -> str:
    """Returns what may be wider than the page in a frame of its own, which the keyboard reaches and scrolls.

    Args:
      content: as HTML.
      label: what it is, for screen readers.
    """
    return f'<div class="wide" role="region" tabindex="0" aria-label="{text(label)}">{content}</div>'


def write_page(path: str | os.PathLike[str], page: str, advice: str) -> Path:
    """Write a page and return its path.

    Args:
      path: of the file.
      page: as HTML.
      advice: what to do where it cannot be written.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); {advice}") from error
    return path


def text(value: object) -> str:
    """Escapes a value for HTML; control characters, which HTML does not allow, are replaced."""
    return html.escape(without_controls(str(value)))
