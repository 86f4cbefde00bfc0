"""`python -m tests.networks`: what a search space finds in every network of the catalogue, as a table.

python -m tests.networks --write docs/networks.md       # all of them, some minutes on one core
python -m tests.networks --only 'keras_*'               # prints those alone
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dms_jax.command_line import parse
from dms_jax.errors import exit_on_user_error
from dms_jax.shrink import difference
from dms_jax.training.machine import machine
from tests.counting import equations, random_structure
from tests.laws.checking import Case, case_of
from tests.models import small
from tests.models import test_llama as llama
from tests.networks.catalogue import NETWORKS
from tests.networks.network import fill, tokens

COLUMNS = ("network", "framework", "equations", "groups (heads)", "elements", "blocks", "can go", "masks in parameters",
           "not searched", "seconds", "masked - small", "outputs")  # fmt: skip
MARKERS = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Options:
    """Describe the search spaces of the catalogue's networks.

    Args:
      write: document whose table is replaced; without it the table is printed.
      only: glob pattern on names of networks.
    """

    write: Path | None = None
    only: str = "*"


def cases() -> dict[str, Callable[[], tuple[Case, float]]]:
    """Name -> maker of (case, seconds for its space): the catalogue, then the zoo's small networks with their names."""
    images = {f"zoo_{name}": partial(_zoo, small.space_of, name, small.images()) for name in small.NETWORKS}
    llamas = {
        f"zoo_llama ({name})": partial(_zoo, llama.small.__wrapped__, name, tokens(2, llama.EXAMPLE.shape[1], 32))
        for name in llama.VARIANTS
    }
    return {name: partial(_stock, make) for name, make in NETWORKS.items()} | images | llamas


def _stock(make: Callable[[], Any]) -> tuple[Case, float]:
    network = make()
    return timed(lambda: case_of(network))


def _zoo(make: Callable[[str], Any], name: str, x: Any) -> tuple[Case, float]:
    space, seconds = timed(lambda: make(name))
    return Case(space.fn, space, fill(space.source.params, paths=space.parameters.paths), (x,)), seconds


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return make(), time.process_time() - start


def row(name: str, make: Callable[[], tuple[Case, float]]) -> dict[str, str]:
    """One line of the table: every column in words."""
    case, seconds = make()
    framework, network = titles(name)
    about = {"network": network, "framework": framework, "seconds": f"{seconds:.2f}", **found(case), **compared(case)}
    return {column: about[column] for column in COLUMNS}


def titles(name: str) -> tuple[str, str]:
    """`plain_rezero` -> ("plain JAX", "rezero")."""
    word, _, network = name.partition("_")
    return {"plain": "plain JAX", "nnx": "NNX", "zoo": "Linen, named"}.get(word, word.capitalize()), network


def found(case: Case) -> dict[str, str]:
    """What a space says without computing a number of the network."""
    space = case.space
    groups = space.groups.values()
    heads = sum(group.kind == "heads" for group in groups)
    full, least = (numbers["params"] for numbers in (space.resources(), space.smallest))
    plan = space._readings.plan_of(case.fn, space.example)
    program = jax.make_jaxpr(lambda arrays, *x: case.fn(space.parameters.tree(arrays), *x))(case.arrays, *case.inputs)
    return {
        "equations": f"{sum(1 for _ in equations(program.jaxpr)):,}",
        "groups (heads)": f"{len(groups)} ({heads})",
        "elements": f"{sum(group.size for group in groups):,}",
        "blocks": str(sum(group.size for group in groups if group.kind == "depth")),
        "can go": f"{100 * (1 - least / full):.1f} %",
        "masks in parameters": f"{sum(plan.folds(group.name) for group in groups)} of {len(groups)}",
        "not searched": reasons({**space.left, **space.uncounted}),
    }


def compared(case: Case) -> dict[str, str]:
    """The masked against the small network: about half of the elements of every group, drawn by chance."""
    kept = random_structure(case.space.groups, 0, keep=0.5)
    masked = case.masked()(case.arrays, case.space.masks(kept), *case.inputs)
    small = case.jitted(case.space.shrunk(case.fn, kept))(case.small(kept), *case.inputs)
    largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(masked))
    return {"masked - small": f"{difference(masked, small):.1e}", "outputs": f"{largest:.2g}"}


def reasons(left: dict[str, str]) -> str:
    """Why axes are not searched, in a few words each, with how many there are: `2 x sort; 12 x option: features`."""
    short = Counter(reason(why) for why in left.values())
    return "; ".join(f"{count} x {why}" if count > 1 else why for why, count in short.items())


def reason(why: str) -> str:
    """`nothing can be taken out of it because of sort at models/moe.py:3 (Router)` -> `sort`."""
    if option := re.fullmatch(r"(\w+); searched with include=.*", why):
        return f"option: {option[1].replace('bundle', 'outer part of a split axis')}"
    short = re.sub(r" at \S+:\d+ \(.*\)| in \S+$", "", why.split("because of ")[-1])
    return "unused in inference and training" if short.startswith("no program") else short


def table(rows: list[dict[str, str]]) -> str:
    rule = ["---" if column in ("network", "framework", "not searched") else "---:" for column in COLUMNS]
    return "\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, rule, *(list(row.values()) for row in rows)])


def main(options: Options) -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # compiling takes most of the time
    rows = []
    for name, make in cases().items():
        if fnmatchcase(name, options.only):
            rows.append(row(name, make))
            print(" | ".join(rows[-1].values()), flush=True)
    made = f"{machine()}, {date.today()}; {len(rows)} networks.\n\n{table(rows)}"
    if options.write is not None:
        (before, rest), (start, end) = options.write.read_text().split(MARKERS[0]), MARKERS
        options.write.write_text(f"{before}{start}\n{made}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    exit_on_user_error(lambda: main(parse(Options)))()
