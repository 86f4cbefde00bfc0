"""`python -m dms_jax`: what there is to run, one line a command."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

_PACKAGES = ("dms_jax", "experiments", "benchmarks")
_MAIN = 'if __name__ == "__main__":'


def commands() -> dict[str, str]:
    """Module -> the first line of what it says of itself, of every module here that can be run."""
    found = {}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)  # experiments and benchmarks are there in a checkout alone
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                text = path.read_text(encoding="utf-8")
                if _MAIN not in text.splitlines() or path == Path(__file__):
                    continue
                inside = path.relative_to(folder).with_suffix("").parts
                name = ".".join((package, *(part for part in inside if part != "__main__")))
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
