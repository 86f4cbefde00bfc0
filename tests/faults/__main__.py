"""Run the campaign and print its table: `python -m tests.faults --cases 1000 --seed 0`.

`--cases` is the number of damaged directories, files from outside and command lines each; 0.3 times as many races, 0.2
times as many kills and full disks, which take longer. `--kinds` runs some of them: `--kinds raced killed`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator

from tests.faults.directories import damaged
from tests.faults.moments import full_disk, killed, raced
from tests.faults.outside import commanded, lied_to
from tests.faults.tally import Campaign, Tally, table

SHARES: dict[Campaign, float] = {
    damaged: 1.0, lied_to: 1.0, commanded: 1.0, raced: 0.3, full_disk: 0.2, killed: 0.2
}  # fmt: skip
KINDS = {kind.__name__: kind for kind in SHARES}


def campaign(cases: int, seed: int, kinds: Iterable[str]) -> Iterator[Tally]:
    """Faults of these kinds; the same cases for the same numbers, whichever kinds run beside them."""
    for name in kinds:
        began = time.monotonic()
        tally = KINDS[name](seed, max(round(SHARES[KINDS[name]] * cases), 1))
        print(f"{tally.kind}: {tally.tried} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        yield tally


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    given = parser.parse_args()
    began = time.monotonic()
    tallies = list(campaign(given.cases, given.seed, given.kinds))
    print(table(tallies))
    print(f"\nseed {given.seed}, {time.monotonic() - began:.0f} s")
    wrong = [line for tally in tallies for line in tally.wrong]
    print("\n".join(wrong), file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
