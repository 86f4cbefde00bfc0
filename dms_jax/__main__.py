"""`python -m dms_jax`: what there is to run, one line a command."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

_PACKAGES = ("dms_jax", "experiments")
_MAIN = 'if __name__ == "__main__":'


def commands(root: Path = Path(__file__).parents[1]) -> dict[str, str]:
    """Module -> the first line of what it says of itself, of every module that can be run.

    Args:
      root: the folder that this package lies in. The other packages are ours in a checkout alone: elsewhere folders of
        these names are somebody else's.
    """
    found = {}
    for package in _PACKAGES if (root / "pyproject.toml").exists() else _PACKAGES[:1]:
        for path in sorted((root / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if _MAIN not in text.splitlines() or path == Path(__file__):
                continue
            inside = path.relative_to(root).with_suffix("").parts
            name = ".".join(part for part in inside if part != "__main__")
            with contextlib.suppress(SyntaxError):  # a file that somebody is writing
                found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def main() -> None:
    """Print the commands."""
    found = commands()
    width = max(map(len, found))
    for name, line in found.items():
        print(f"python -m {name:{width}}  {line}")
    print("\n--help after any of them lists its flags.")


if __name__ == "__main__":
    main()
