"""Run the campaign and print its table: `python -m tests.faults --cases 1000 --seed 0`.

`--cases` is the number of damaged directories, files from outside and command lines each; a third of it races, a fifth
of it kills and full disks, which take longer.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.faults.tally import Tally, table


def campaign(cases: int, seed: int) -> list[Tally]:
    """All kinds of faults; the same cases for the same numbers."""
    from tests.faults.directories import damaged
    from tests.faults.moments import full_disk, killed, raced
    from tests.faults.outside import commanded, lied_to

    kinds = {damaged: 1.0, lied_to: 1.0, commanded: 1.0, raced: 0.3, full_disk: 0.2, killed: 0.2}
    return [kind(seed, max(round(share * cases), 1)) for kind, share in kinds.items()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    tallies = campaign(given.cases, given.seed)
    print(table(tallies))
    print(f"\nseed {given.seed}, {time.monotonic() - began:.0f} s")
    wrong = [line for tally in tallies for line in tally.wrong]
    print("\n".join(wrong), file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
