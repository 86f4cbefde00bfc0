"""YOLOv8-n at 25 % of its MACs, on composites of digits over photographs and on trees from the air.

    python -m dms_jax.data.prepare trees --data-dir=runs/benchmarks/data
    python -m experiments.benchmarks.boxes [--quick | --tables]

mAP (IoU 0.50 to 0.95) of DMS, uniform, one Taylor threshold, and the full network: from a supernet that was pretrained
shortly, and retrained from new weights (there DMS searches from random weights; uniform and the threshold have the
structures of the pretrained supernet). All of one table take equally many steps on equal batches. Rates are what each
method has where nobody says otherwise; nothing is chosen by these scores. The trainings are short: 400 steps of 16
pictures at 64 px, then 300.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from experiments.benchmarks import methods
from experiments.benchmarks.boxes_task import QUICK, BoxesOptions, boxes_task
from experiments.benchmarks.chapter import Comparison
from experiments.benchmarks.command import Contest, Options, start
from experiments.benchmarks.comparison import always, percent
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.scratch import unpretrained
from experiments.benchmarks.tables import write_section

BUDGET = 0.25
SEEDS = (0, 1, 2)
STEPS, SEARCH_STEPS = 300, 100
TITLE = "YOLOv8-n at 25 % of its MACs: digits over photographs, and trees from the air"


def compared(steps: int, search_steps: int) -> dict[str, Methods]:
    """Methods by where the small network's weights come from."""
    searched = Settings("dms", 1.0, steps, search_steps, **methods.own("dms"))
    rules = ["uniform", "one Taylor threshold"]
    return {
        "from pretrained weights": {
            OURS: partial(methods.at, searched),
            **methods.rules(rules, steps),
            **methods.unpruned(steps),
        },
        "from random weights": {
            OURS: partial(methods.at, unpretrained(steps, searched)),
            **methods.rules(rules, steps, retrain="scratch"),
            **methods.unpruned(steps, retrain="scratch"),
        },
    }


def main(options: Options) -> None:
    """Compute what is missing, and write the section."""
    sizes = [QUICK] if options.quick else [BoxesOptions(), BoxesOptions(data="trees")]
    seeds, budget = ((0,), 0.5) if options.quick else (SEEDS, BUDGET)
    steps = (8, 4) if options.quick else (STEPS, SEARCH_STEPS)
    tables = list(compared(*steps).items())
    ours = OURS
    if options.quick:  # a search of few steps meets no large objects: nothing is learned of the coarse predictions
        ours = "uniform"
        tables = [(what, {ours: those[ours]}) for what, those in tables[:1]]
    comparisons = []
    for size in sizes:
        contest = Contest(boxes_task(size), dataclasses.asdict(size), options.cells, not options.tables)
        comparisons += [
            Comparison(f"{contest.task.data}, {what}", contest, those, (budget,), always(seeds), ours)
            for what, those in tables
        ]
    try:
        for n in range(len(tables)):  # those from pretrained weights first, and all of one seed before the next
            for seed in seeds:
                for comparison in comparisons[n :: len(tables)]:
                    cells = [cell for cell in comparison.asked(budget) if cell[1] == seed]
                    comparison.contest.fill(f"boxes, {comparison.title}, {percent(budget)}", cells)
    finally:
        opening = (
            "`python -m experiments.benchmarks.boxes`: mAP in per cent, mean ± standard error over "
            "seeds; a negative difference, "
            f"paired by seed, means that {ours} is better."
        )
        parts = [opening]
        for comparison in comparisons:
            parts += [f"**{comparison.title}**", *comparison.tables()]
        write_section("boxes", TITLE, "\n\n".join(filter(None, parts)), quick=options.quick)


if __name__ == "__main__":
    start(main, __doc__)
