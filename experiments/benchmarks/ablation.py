"""One thing changed at a time: what the parts and settings of DMS are worth, on text at 20 % of the MACs.

    python -m experiments.benchmarks.ablation [--quick | --tables]

One table each for the length of the search, the decay of the target, the sharpness of the masks, where the ratios
start, the balance against the paper's plain loss, how elements are judged, and the size of the supernet (the same MACs
are left of all of them); three seeds a row, paired with the setting that `llama` chose. About three hours of
one core. With three seeds a difference of two of its standard errors comes by chance once in five rows, of four
standard errors once in twenty; so changes that look as good on the test files are scored on validation files, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.benchmarks import choice, methods, pictures
from experiments.benchmarks.command import Contest, Options, start
from experiments.benchmarks.comparison import percent
from experiments.benchmarks.contest import Settings
from experiments.benchmarks.llama import STEPS, text_contest, usual
from experiments.benchmarks.tables import Spread, paired, table, write_section
from experiments.benchmarks.text_task import TextOptions, text_task

SEEDS = (0, 1, 2)
HIDDEN = (128, 512)
"""Of the other supernets; the usual one has 256."""

Variants = dict[str, dict[str, Settings]]


def moved_alike(contest: Contest) -> list[Settings]:
    """Gradient-estimated top-k, the other strategy of one ratio a group, moved as DMS moves, at several rates."""
    own = choice.best(contest, choice.grid("gradient_estimated", STEPS))
    movement = {name: value for name, value in methods.own("dms").items() if name != "rate"}
    return choice.at_rates(dataclasses.replace(own, **movement))


def variants(base: Settings, alike: Settings) -> Variants:
    """Table -> label -> settings; the base itself is not among them.

    Args:
      base: the usual settings.
      alike: how gradient-estimated top-k searches where it moves as DMS does.
    """

    def change(**changes) -> Settings:
        return dataclasses.replace(base, **changes)

    lengths = {f"{n} of {STEPS} steps": change(search_steps=n) for n in (50, 100, 200, 400)}
    judged = {name: change(importance=name) for name in ("fisher", "snip", "magnitude", "index")}
    tables = {
        "rate of the ratios (usual: falling by a cosine)": {"constant": change(ratio_schedule="constant")},
        "share of that rate at which ratios move together (usual: 0.8)": {
            "0, each by itself": change(ratio_together=0.0),
            **{f"{x:g}": change(ratio_together=x) for x in (0.5, 0.95)},
            "0, and constant: as in the paper": change(ratio_together=0.0, ratio_schedule="constant"),
        },
        "what holds the target (usual: a weight that follows the miss)": {
            "a common shift": change(on_target=True),
            "a common shift; blocks judged by finite effects": change(on_target=True, effects=True),
        },
        "another strategy, moved as DMS is (usual: DMS)": {
            "gradient-estimated top-k, of its own length": alike,
        },
        "length of the search": lengths,
        "share of the search in which the target shrinks (usual: 0.8)": {
            f"{x}": change(decay=x) for x in (0.4, 0.6, 1.0)
        },
        "last share in which depth and heads are frozen (usual: 0.2)": {f"{x}": change(refine=x) for x in (0.0, 0.4)},
        "sharpness of the masks (usual: 1)": {f"{x:g} times": change(sharpness=x) for x in (0.25, 0.5, 2.0, 4.0)},
        "where the ratios start (usual: a_open)": {"0": change(start_open=False)},
        "weight of the resource loss (usual: balanced)": {
            f"plain, {w:g}": change(weight=w) for w in (0.1, 1.0, 10.0)
        },
        "learning rate of the weights (usual: one schedule over search and finetuning)": {
            "constant in the search, then a new schedule": change(schedule="restart")
        },
        "how elements are judged (usual: Taylor)": {
            "Taylor of the last step alone": change(importance_decay=0.0), **judged,
        },
    }  # fmt: skip
    return {name: {k: s for k, s in rows.items() if s != base} for name, rows in tables.items()}


def hints(base: Settings) -> dict[str, Settings]:
    """The usual settings, and changes that look as good on the test files; validation says whether to adopt one."""
    changes = {
        "0.5 of the rate together": {"ratio_together": 0.5},
        "the paper's movement": {"ratio_together": 0.0, "ratio_schedule": "constant"},
        "target shrinks to the end": {"decay": 1.0},
        "elements judged by magnitude": {"importance": "magnitude"},
    }
    return {"usual": base} | {name: dataclasses.replace(base, **change) for name, change in changes.items()}


def main(options: Options) -> None:
    contest = text_contest(options)
    base = usual(contest, options)
    if options.quick:
        rows = {"sharpness of the masks (usual: 1)": {"2 times": dataclasses.replace(base, sharpness=2.0)}}
        seeds, others = (choice.SEED,), {}
    else:
        alike = choice.settle(contest, "gradient-estimated top-k, moved as DMS", moved_alike(contest))
        rows, seeds, others = variants(base, choice.chosen(contest, alike)), SEEDS, _supernets(contest, base)
    try:
        contest.fill("ablation", [(base, seed) for seed in seeds])
        for name, settings in rows.items():
            contest.fill(f"ablation: {name}", [(s, seed) for s in settings.values() for seed in seeds])
        if not options.quick:
            tried = [(settings, seed) for settings in hints(base).values() for seed in choice.SEEDS]
            contest.fill("ablation: validation", tried)
        for other, settings in others.values():
            other.fill("ablation: supernets", [(settings, seed) for seed in seeds])
    finally:
        _report(contest, options, base, rows, others, seeds)


def _supernets(contest: Contest, base: Settings) -> Mapping[str, tuple[Contest, Settings]]:
    """Supernets with another hidden size, pruned to as many MACs as the usual one."""
    found, macs = {}, base.budget * contest.task.space.resources()["macs"]
    for hidden in HIDDEN:
        task = text_task(dataclasses.replace(TextOptions(), hidden=hidden))
        other = Contest(task, contest.defaults, contest.cells, contest.compute)
        share = round(macs / task.space.resources()["macs"], 4)
        found[f"hidden size {hidden}"] = (other, methods.at(base, share))
    return found


def _report(
    contest: Contest,
    options: Options,
    base: Settings,
    rows: Variants,
    others: Mapping[str, tuple[Contest, Settings]],
    seeds: Sequence[int],
) -> None:
    usual = contest.values(base, seeds)
    parts = [
        f"`python -m experiments.benchmarks.ablation`: bits per byte at {percent(base.budget)} of "
        f"the MACs, lower is better; a "
        f"positive difference, paired by seed, means that the usual setting is better. Usual: {base.search_steps} of "
        f"{base.steps} steps of search, rate {base.rate:g}; {Spread.of(usual.values()).text()}."
    ]
    named = {
        name: {label: contest.values(s, seeds) for label, s in settings.items()} for name, settings in rows.items()
    }
    if others:
        named["size of the supernet (usual: hidden size 256)"] = {
            label: other.values(settings, seeds) for label, (other, settings) in others.items()
        }
    begun = {name: values for name, values in named.items() if any(values.values())}
    apart = {name: {label: paired(usual, v) for label, v in values.items()} for name, values in begun.items()}
    figure = pictures.differences(apart, contest.task.unit.name)
    picture = pictures.save(figure, options.pictures / "ablation.svg")
    parts.append(f"![What every change is worth](../../{picture})")
    for name, values in begun.items():
        lines = [
            [label, Spread.of(v.values()).text(), apart[name][label].text(sign=True), str(len(v))]
            for label, v in values.items()
        ]
        parts.append(table([name, "bits per byte", "minus usual", "seeds"], lines))
    if missing := [name for name in named if name not in begun]:
        parts.append(f"Not computed yet: {'; '.join(missing)}.")
    if not options.quick:
        (_, unit), tried = contest.choice, hints(base)
        scores = choice.scores_of(contest, list(tried.values()))
        lines = [[name, f"{scores[s]:.{unit.digits}f}" if s in scores else "-"] for name, s in tried.items()]
        parts.append("Changes that look as good on the test files, on validation files with two seeds of their own:")
        parts.append(table(["setting", f"validation: {unit.name}"], lines))
    asked = [(contest, s) for s in (base, *(s for row in rows.values() for s in row.values()))]
    cells = (c.cell(settings, seed) for c, settings in (*asked, *others.values()) for seed in seeds)
    parts.append(contest.cells.machines(cells))
    write_section("ablation", "One thing changed at a time", "\n\n".join(parts), quick=options.quick)


if __name__ == "__main__":
    start(main, __doc__)
