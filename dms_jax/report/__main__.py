"""Write the report of a finished run anew, or one page that shows several runs side by side.

python -m dms_jax.report runs/mine
python -m dms_jax.report runs/half runs/quarter --output=comparison.html
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.report import write_report
from dms_jax.report.comparison import write_comparison

COMMAND = "python -m dms_jax.report"


@dataclass(frozen=True)
class Options:
    """Which runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories; of one its report.html is written anew, several are compared."""
    output: Path = Path("comparison.html")
    """The page that compares several runs."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse(Options, arguments, prog=COMMAND, description=__doc__)
    if not options.runs:
        raise UserError(f"no run is given; {COMMAND} RUN writes its report, {COMMAND} RUN RUN compares two")
    print(write_report(options.runs[0]) if len(options.runs) == 1 else write_comparison(options.runs, options.output))


if __name__ == "__main__":
    exit_on_user_error(main)(sys.argv[1:])
