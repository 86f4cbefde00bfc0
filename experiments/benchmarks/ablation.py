"""One thing changed at a time: what the parts and settings of Differentiable Model Scaling (DMS) are worth.

    python -m experiments.benchmarks.ablation [--quick | --tables]

On text at 20 % of the MACs, one table each for the length of the search, the decay of the target, the sharpness of the
masks, where the ratios start, the balance against the paper's plain loss, how elements are judged, and the size of the
supernet (the same MACs are left of all of them); three seeds a row, compared with the setting that `frontier` chose,
which has no slack.
About three hours of one core. With three seeds a difference of two of its standard errors comes by chance once in five
rows, of four standard errors once in twenty; so changes that look as good on the test files are scored on validation
files, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from dms_jax.method.dms import DMS
from experiments.benchmarks import methods, pictures, tuning
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.frontier import GRIDS, STEPS, text_contest, usual
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, table
from experiments.benchmarks.text_task import TextOptions, text_task

SEEDS = (0, 1, 2)
HIDDEN = (128, 512)
"""Of the other supernets; the usual one has 256."""
HORIZON = 150
ALIKE = "gradient-estimated top-k, moved as DMS"
HINTS = {
    "0.5 of the rate together": {"ratio_together": 0.5},
    "the paper's movement": {"ratio_together": 0.0, "ratio_schedule": "constant"},
    "target shrinks to the end": {"decay": 1.0},
    "elements judged by magnitude": {"importance": "magnitude"},
}
"""Changes that look as good on the test files; validation says whether to adopt one."""

Row = tuple[Contest, Settings]


def changes(base: Settings) -> dict[str, dict[str, dict[str, object]]]:
    """Table -> label -> what is changed of the usual settings."""
    judged = {name: {"importance": name} for name in ("fisher", "snip", "magnitude", "index")}
    tables = {
        "rate of the ratios (usual: falling by a cosine)": {"constant": {"ratio_schedule": "constant"}},
        "share of that rate at which ratios move together (usual: 0.8)": {
            "0, each by itself": {"ratio_together": 0.0},
            **{f"{x:g}": {"ratio_together": x} for x in (0.5, 0.95)},
            "0, and constant: as in the paper": HINTS["the paper's movement"],
        },
        "what holds the target (here: a weight that follows the miss)": {
            "that, and a shift back into the slack: the default now": {"slack": DMS.slack},
            "a common shift": {"on_target": True},
            "a common shift; blocks judged by finite effects": {"on_target": True, "effects": True},
        },
        "how depth is settled (usual: by the one search)": {
            "the mean of three searches": {"searches": 3},
            f"the better one, after {HORIZON} steps, of that and a search with all layers": {"horizon": HORIZON},
        },
        "another strategy, moved as DMS is (usual: DMS)": {},
        "length of the search": {f"{n} of {STEPS} steps": {"search_steps": n} for n in (50, 100, 200, 400)},
        "share of the search in which the target shrinks (usual: 0.8)": {
            f"{x}": {"decay": x} for x in (0.4, 0.6, 1.0)
        },
        "last share in which depth and heads are frozen (usual: 0.2)": {f"{x}": {"refine": x} for x in (0.0, 0.4)},
        "sharpness of the masks (usual: 1)": {f"{x:g} times": {"sharpness": x} for x in (0.25, 0.5, 2.0, 4.0)},
        "where the ratios start (usual: a_open)": {"0": {"start_open": False}},
        "weight of the resource loss (usual: balanced)": {f"plain, {w:g}": {"weight": w} for w in (0.1, 1.0, 10.0)},
        "learning rate of the weights (usual: one schedule over search and finetuning)": {
            "constant in the search, then a new schedule": {"schedule": "restart"}
        },
        "how elements are judged (usual: Taylor)": {
            "Taylor of the last step alone": {"importance_decay": 0.0}, **judged,
        },
    }  # fmt: skip
    return {name: {k: c for k, c in rows.items() if dataclasses.replace(base, **c) != base}  # pyright: ignore
            for name, rows in tables.items()}  # fmt: skip


def moved_alike(contest: Contest) -> list[Settings]:
    """Gradient-estimated top-k, the other strategy of one ratio a group, moved as DMS moves, at several rates."""
    own = tuning.best(contest, tuning.grid("gradient_estimated", STEPS))
    movement = {name: value for name, value in methods.own("dms").items() if name != "rate"}
    return tuning.at_rates(dataclasses.replace(own, **movement))


def rows(contest: Contest, base: Settings, others: Sequence[Contest]) -> dict[str, dict[str, Row]]:
    """Table -> label -> where its cells are, and settings."""
    found = {
        name: {label: (contest, dataclasses.replace(base, **change)) for label, change in rows.items()}  # pyright: ignore
        for name, rows in changes(base).items()
    }
    alike = tuning.best(contest, moved_alike(contest))
    found["another strategy, moved as DMS is (usual: DMS)"] = {
        "gradient-estimated top-k, of its own length": (contest, alike)
    }
    macs = base.budget * contest.task.space.resources()["macs"]
    shares = {o: round(macs / o.task.space.resources()["macs"], 4) for o in others}
    found["size of the supernet (usual: hidden size 256)"] = {
        f"hidden size {o.task.changed['hidden']}": (o, methods.at(base, share)) for o, share in shares.items()
    }
    return found


def main(options: Options) -> None:
    contest = text_contest(options)
    others = [
        dataclasses.replace(contest, task=text_task(dataclasses.replace(TextOptions(), hidden=hidden)))
        for hidden in (() if options.quick else HIDDEN)
    ]
    seeds = contest.tried[:1] if options.quick else SEEDS

    def asked() -> dict[str, dict[str, Row]]:
        found = rows(contest, usual(contest), others)
        return {name: found[name] for name in found if not options.quick or name.startswith("sharpness")}

    try:
        if not options.quick:
            tuning.settle(contest, OURS, GRIDS[OURS])
            tuning.settle(contest, ALIKE, moved_alike(contest))
        base = usual(contest)
        contest.fill("ablation", [(base, seed) for seed in seeds])
        for name, table_rows in asked().items():
            for where, settings in table_rows.values():
                where.fill(f"ablation: {name}", [(settings, seed) for seed in seeds])
        if not options.quick:
            contest.fill("ablation: validation", [(s, seed) for s in hints(base).values() for seed in contest.tried])
    finally:
        options.publish("ablation", "One thing changed at a time", _report(contest, options, asked(), seeds))


def hints(base: Settings) -> dict[str, Settings]:
    """The usual settings, and those with the changes to be validated."""
    return {"usual": base} | {name: dataclasses.replace(base, **change) for name, change in HINTS.items()}


def _report(
    contest: Contest, options: Options, asked: dict[str, dict[str, Row]], seeds: Sequence[int]
) -> Iterator[str]:
    base = usual(contest)
    expected = contest.values(base, seeds).values()
    yield (
        f"`python -m experiments.benchmarks.ablation`: bits per byte at {percent(base.budget)} of the MACs, lower is "
        "better; a positive difference means that the usual setting is better. Usual: "
        f"{base.search_steps} of {base.steps} steps of search, rate {base.rate:g}; {Spread.of(expected).text()}. "
        f"{INTERVALS}"
    )
    flat = {(name, label): row for name, lines in asked.items() for label, row in lines.items()}
    named = {key: where.values(settings, seeds).values() for key, (where, settings) in flat.items()}
    found = {key: values for key, values in named.items() if values}
    between, texts = differences(found, lambda _: expected, 3)
    drawn: dict[str, dict[str, Spread]] = {}
    tables: dict[str, list[list[str]]] = {}
    for (name, label), values in found.items():
        difference = between[name, label]
        drawn.setdefault(name, {})[label] = difference.spread if difference else Spread.of(())
        line = [label, Spread.of(values).text(), texts[name, label], str(len(values))]
        tables.setdefault(name, []).append(line)
    yield options.drawn("ablation", "What every change is worth", pictures.differences(drawn, contest.task.unit.name))
    for name, lines in tables.items():
        yield table([name, "bits per byte", "minus usual", "seeds"], lines)
    if missing := [label for name, label in named if (name, label) not in found]:
        yield f"Not computed yet: {'; '.join(missing)}."
    if not options.quick:
        scores = tuning.score_texts(contest, list(hints(base).values()))
        yield "Changes that look as good on the test files, on validation files with two seeds of their own:"
        lines = [[name, scores[settings]] for name, settings in hints(base).items()]
        yield table(["setting", f"validation: {contest.choice[1].name}"], lines)
    everything = [(contest, base), *flat.values()]
    yield contest.cells.machines(where.cell(settings, seed) for where, settings in everything for seed in seeds)


if __name__ == "__main__":
    start(main, __doc__)
