"""Several runs side by side: one HTML file with a column a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from dms_jax.errors import UserError
from dms_jax.report.document import document, scrolling, section, text, write_page
from dms_jax.report.network import bar
from dms_jax.report.quantities import count, duration, milliseconds, quality, share
from dms_jax.report.run_files import Record, Run, read_run
from dms_jax.report.summary import full_row, result_row, warnings

MOST_RUNS = 12


def write_comparison(directories: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> Path:
    """Write a page that shows runs side by side: what was asked, what came out, and every group's width.

    Args:
      directories: of finished runs, two or more.
      path: of the file.

    Returns:
      The path.

    Raises:
      UserError: fewer runs than two, more than `MOST_RUNS`, the same one twice, one that is not finished, a path that
        cannot be written.
    """
    places = [Path(directory) for directory in directories]
    if not 2 <= len(places) <= MOST_RUNS:
        raise UserError(f"{len(places)} runs cannot be compared; give 2 to {MOST_RUNS} run directories")
    if len({place.resolve() for place in places}) < len(places):
        raise UserError("the same run directory is given twice; give each of them once")
    runs = [read_run(place) for place in places]
    heads = [_head(place, name, Path(path)) for place, name in zip(places, _names(places), strict=True)]
    return write_page(path, comparison(runs, heads), "give another path")


def comparison(runs: Sequence[Run], heads: Sequence[str]) -> str:
    """The page, of runs and what stands above their columns (HTML)."""
    body = [
        "<h1>Runs side by side</h1>",
        section("Results", _table("Results", heads, _results(runs))),
        section("Widths", _table("Widths", heads, _widths(runs)) + _caption()),
        _warned(runs, heads),
    ]
    return document("Runs side by side", [part for part in body if part])


def _names(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    parts = [place.resolve().parts for place in places]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(map(str, places))


def _head(place: Path, name: str, path: Path) -> str:
    """The name of a run, a link to its report where there is one."""
    report = place / "report.html"
    if not report.exists():
        return text(name)
    there = os.path.relpath(report.resolve(), path.resolve().parent)
    return f'<a href="{text(quote(there, errors="surrogateescape"))}">{text(name)}</a>'


def _table(heading: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Rows of a label and one cell (HTML) a run; a row that no run has anything for is left out."""
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    lines = []
    for label, cells in rows:
        numbers = "".join(f"<td>{cell or '–'}</td>" for cell in cells)
        lines += [f'<tr><th scope="row">{text(label)}</th>{numbers}</tr>'] if any(cells) else []
    table = (
        '<table class="side">\n'
        f'<thead><tr><th scope="col">run</th>{columns}</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>'
    )
    return f"{scrolling(table, heading)}\n"


def _results(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    def row(label: str, of: Callable[[Run], str]) -> tuple[str, list[str]]:
        return label, [text(of(run)) for run in runs]

    known = {name: word for run in reversed(runs) for name, word in run.words.items() if word != name}
    resources = dict.fromkeys(_counted(run, name, known) for run in runs for name in run.words)
    qualities = dict.fromkeys(run.results["quality"]["name"] for run in runs)
    batches = sorted({batch for run in runs for batch in (result_row(run) or {}).get("latency_ms") or {}}, key=int)
    rows = [row("network", lambda run: run.structure["model"]["name"]), row("asked", _asked)]
    rows += [row(each[1], lambda run, each=each: _resource(run, each, known)) for each in resources]
    for name in qualities:
        rows.append(row(name, lambda run, name=name: _quality(run, result_row(run), name)))
        rows.append(row(f"{name}, full network", lambda run, name=name: _quality(run, full_row(run), name)))
        for other in dict.fromkeys(label for run in runs for label in _others(run)):
            rows.append(row(f"{name}, {other}", lambda run, n=name, o=other: _quality(run, _others(run).get(o), n)))
    rows += [row(f"ms at batch {batch}", lambda run, batch=batch: _latency(run, batch)) for batch in batches]
    rows += [
        row("steps", _steps),
        row("time", lambda run: duration(sum((run.results.get("seconds") or {}).values()))),
        row("seed", lambda run: str(run.results["seed"])),
        row("data", lambda run: run.results["data"]),
        row("machine", lambda run: run.results["machine"]),
    ]
    return rows


def _asked(run: Run) -> str:
    shares = [f"{share(b['target'] / b['full'])} of the {run.words[n]}" for n, b in run.results["budget"].items()]
    return " and ".join(shares)


def _counted(run: Run, name: str, known: Mapping[str, str]) -> tuple[str, str]:
    """A resource's name and what is counted: two runs may mean two things by one name, ms and s.

    Runs of earlier versions do not say what they count: they are taken for the first that does.
    """
    word = run.words[name]
    return name, known.get(name, word) if word == name else word


def _resource(run: Run, counted: tuple[str, str], known: Mapping[str, str]) -> str:
    name = counted[0]
    if name not in run.words or _counted(run, name, known) != counted:
        return ""
    before, after = (run.structure["resources"][when][name] for when in ("before", "after"))
    return f"{count(after)} ({share(after / before)})" if before else count(after)


def _others(run: Run) -> dict[str, Record]:
    """Rows beside the result and the full network: the controls."""
    known = (result_row(run), full_row(run))
    return {row["name"]: row for row in run.results["rows"] if all(row is not one for one in known)}


def _quality(run: Run, row: Record | None, name: str) -> str:
    if row is None or row.get("quality") is None or run.results["quality"]["name"] != name:
        return ""
    return quality(row["quality"], row.get("stderr"), run.results["quality"]["unit"])


def _steps(run: Run) -> str:
    steps = (result_row(run) or {}).get("steps")
    return "" if steps is None else f"{steps:,}"


def _latency(run: Run, batch: str) -> str:
    found = (result_row(run) or {}).get("latency_ms") or {}
    return milliseconds(found[batch]) if batch in found else ""


def _widths(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Every group that a run has, in the order of the first run that has it."""
    names = dict.fromkeys(name for run in runs for name in run.structure["groups"])
    return [(name, [_width(run.structure["groups"].get(name)) for run in runs]) for name in names]


def _width(group: Record | None) -> str:
    if group is None:
        return ""
    kept, size = len(group["kept"]), group["size"]
    return f"{bar(100, kept / size)}{kept:,} of {size:,}"


def _caption() -> str:
    return '<p class="muted">Filled: the share of the group that is kept. A dash: the run has no such group.</p>'


def _warned(runs: Sequence[Run], heads: Sequence[str]) -> str:
    items = [f"<li>{head}: {text(line)}</li>" for run, head in zip(runs, heads, strict=True) for line in warnings(run)]
    return section("Warnings", f"<ul>{''.join(items)}</ul>") if items else ""
