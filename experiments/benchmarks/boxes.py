"""YOLOv8-n at 25 % of its MACs, on composites of digits over photographs and on trees from the air.

    python -m dms_jax.data.prepare trees --data-dir=runs/benchmarks/data
    python -m experiments.benchmarks.boxes [--quick | --tables]

mAP (IoU 0.50 to 0.95) of Differentiable Model Scaling (DMS), uniform, one Taylor threshold, and the full network: from
a supernet that was pretrained shortly, and retrained from new weights (there DMS searches from random weights; uniform
and the threshold have the structures of the pretrained supernet). All of one table take equally many steps on equal
batches. Rates are what each method has where nobody says otherwise; nothing is chosen by these scores. The trainings
are short: 400 steps of 16 pictures at 64 px, then 300.
"""

from __future__ import annotations

from functools import partial

from experiments.benchmarks import methods
from experiments.benchmarks.boxes_task import QUICK, BoxesOptions, boxes_task
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.methods import OURS, Methods
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.scratch import unpretrained
from experiments.benchmarks.sections import Comparison, always, run
from experiments.benchmarks.settings import Settings

BUDGET = 0.25
SEEDS = (0, 1, 2)
STEPS, SEARCH_STEPS = 300, 100
TITLE = "YOLOv8-n at 25 % of its MACs: digits over photographs, and trees from the air"


def compared() -> dict[str, Methods]:
    """Methods by where the small network's weights come from."""
    searched = Settings("dms", 1.0, STEPS, SEARCH_STEPS, **methods.own("dms"))
    starts = {"from pretrained weights": (searched, "sliced")}
    starts["from random weights"] = (unpretrained(STEPS, searched), "scratch")
    return {
        what: {
            OURS: partial(methods.at, ours),
            **methods.rules(["uniform", "one Taylor threshold"], STEPS, retrain),
            **methods.unpruned(STEPS, retrain),
        }
        for what, (ours, retrain) in starts.items()
    }


def main(options: Options) -> None:
    comparisons = []
    for size in [QUICK] if options.quick else [BoxesOptions(), BoxesOptions(data="trees")]:
        contest = Contest(boxes_task(size), options)
        for what, rows in list(compared().items())[: 1 if options.quick else None]:
            title = f"{contest.task.data}, {what}"
            if options.quick:  # a search of few steps meets no large objects, and learns nothing of the coarse outputs
                rows = {"uniform": rows["uniform"]}
            ours = next(iter(rows))
            comparisons.append(Comparison(title, contest, partial(dict, rows), (BUDGET,), always(SEEDS), ours))
    opening = "mAP in per cent, means ± standard errors over seeds; a negative difference means that "
    run("boxes", TITLE, f"{opening}{OURS} is better.", comparisons, options)


if __name__ == "__main__":
    start(main, __doc__)
