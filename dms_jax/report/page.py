"""The page: a run directory becomes one HTML file that needs nothing else."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.figure import Figure

from dms_jax.explanation import exactly
from dms_jax.report import pictures
from dms_jax.report.curve_pictures import budgeted
from dms_jax.report.document import document, scrolling, section, text, write_page
from dms_jax.report.example_pictures import read_examples
from dms_jax.report.family import family_table
from dms_jax.report.layers import layer_tables
from dms_jax.report.network import cost_of_one, importance_at_the_cut, network_list
from dms_jax.report.quantities import (
    count,
    duration,
    exact,
    milliseconds,
    quality,
    share,
)
from dms_jax.report.run_files import Record, Run, read_run
from dms_jax.report.script import SCRIPT
from dms_jax.report.summary import result_row, summary, warnings
from dms_jax.report.svg import inline_svg


def write_report(run_directory: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a run directory and returns its path.

    The page says in words and numbers what was asked and what came out, and shows the structure, the
    resources, the losses and the masks. It is one file: no script, no font, no picture and no style from
    elsewhere; its own script is a slider through the search. The same run gives the same bytes.

    Args:
      run_directory: holds `structure.json`, `metrics.jsonl` and `results.json`, and `masks.jsonl` where the
        search kept its masks. What a run lacks is left out of the page, which says so.

    Raises:
      UserError: a required file is missing or is not what it should be, and one line names it and what makes it; or
        the page cannot be written.
    """
    directory = Path(run_directory)
    run, examples = read_run(directory), read_examples(directory)
    return write_page(directory / "report.html", page(run, examples), "report on a copy of the run that can be written")


def page(run: Run, examples: Record | None = None) -> str:
    """Returns the HTML of a run's report; with images and what networks find in them, where there are some."""
    body = [
        f"<h1>{text(run.results['title'])}</h1>",
        f'<p class="summary">{text(summary(run))}</p>',
        _warnings(run),
        section("Results", _table(run)),
        None if (family := family_table(run)) is None else section("Several sizes", family),
        section("The network", network_list(run)),
        *(section(heading, table) for heading, table in layer_tables(run)),
        None if examples is None else _examples(examples),
        *_picture_sections(run),
        section("Details", _details(run) + _groups(run)),
    ]
    return document(run.results["title"], [part for part in body if part is not None], SCRIPT)


def _warnings(run: Run) -> str | None:
    found = warnings(run)
    if not found:
        return None
    items = "".join(f"<li>{text(warning)}</li>" for warning in found)
    heading = "Warning" if len(found) == 1 else "Warnings"
    return f'<aside class="warnings">\n<p>{heading}</p>\n<ul>{items}</ul>\n</aside>'


def _table(run: Run) -> str:
    rows = run.results["rows"]
    batches = sorted({key for row in rows for key in row.get("latency_ms") or ()}, key=int)
    first, *others = run.words.values()
    heads = [first, "of full", *others, run.results["quality"]["name"], *_parts(run), *_also(run)]
    heads += [f"ms at batch {batch}" for batch in batches] + ["steps"]
    numbers = "".join(f'<th scope="col" class="number">{text(head)}</th>' for head in heads)
    result = result_row(run)
    body = "\n".join(_row(row, batches, run, row is result) for row in rows)
    table = (
        f'<table>\n<thead><tr><th scope="col">network</th>{numbers}<th scope="col">note</th></tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )
    return (
        f"{scrolling(table, 'Results')}\n"
        '<p class="muted">MACs: multiply-adds of one forward pass, batch 1. '
        f"±: one standard error. Point at a count for its exact value.{_written_out(rows)}</p>"
    )


def _written_out(rows: Iterable[Record]) -> str:
    """The name of the method, where a network was found by it."""
    named = any("DMS" in row["name"].split() for row in rows)
    return " DMS: Differentiable Model Scaling." if named else ""


def _row(row: Record, batches: Iterable[str], run: Run, is_result: bool) -> str:
    latency = row.get("latency_ms") or {}
    before = run.structure["resources"]["before"]
    counts = [_count_cell(row[name], word) for name, word in run.words.items()]
    first = next(iter(run.words))
    cells = [
        counts[0],
        _number_cell(share(row[first] / before[first]) if before[first] else "–"),
        *counts[1:],
        _number_cell(quality(row.get("quality"), row.get("stderr"), run.results["quality"]["unit"])),
        *(_number_cell(quality(row.get(name), None, run.results["quality"]["unit"])) for name in _parts(run)),
        *(_number_cell(quality(row.get(name), None, "")) for name in _also(run)),
        *(_number_cell(milliseconds(latency.get(batch))) for batch in batches),
        _number_cell("–" if row.get("steps") is None else f"{row['steps']:,}"),
        f"<td>{text(row.get('note') or '')}</td>",
    ]
    start = '<tr class="result">' if is_result else "<tr>"
    return f'{start}<th scope="row">{text(row["name"])}</th>{"".join(cells)}</tr>'


def _also(run: Run) -> list[str]:
    """Other names of the quality, such as the perplexity beside bits per byte."""
    return run.results["quality"].get("also") or []


def _parts(run: Run) -> list[str]:
    """Qualities of the same unit beside the one that counts, such as that of small objects alone."""
    return run.results["quality"].get("parts") or []


def _count_cell(value: float, of: str) -> str:
    return f'<td class="number" title="{text(exact(value, of))}">{text(count(value))}</td>'


def _number_cell(value: str) -> str:
    return f'<td class="number">{text(value)}</td>'


def _picture_sections(run: Run) -> Iterable[str]:
    """Every picture under its heading, or a sentence that says why it is not there."""
    has_loss = any(isinstance(record.get("loss"), int | float) for record in run.metrics)
    ranked = pictures.ranked(run.structure, run.results)
    yield _picture(
        "Importance at the cut",
        lambda: pictures.cut(run.structure, run.results),
        "cut",
        None if ranked else "the run wrote no importances down",
        "When the search ended, on a logarithmic scale. Where a curve is flat at the cut, both sides matter alike.",
    )
    yield _picture(
        "Resources over the search",
        lambda: pictures.resources(run.metrics, run.words),
        "resources",
        None if budgeted(run.metrics) else "metrics.jsonl holds no line of a search with a resource and its target",
        "The target shrinks to the budget; the resource loss is zero where the network is under it.",
    )
    yield _picture(
        "Loss over all phases",
        lambda: pictures.losses(run.metrics),
        "losses",
        None if has_loss else "metrics.jsonl holds no loss",
        "All panels share one scale.",
    )
    yield _picture(
        "Masks over the search",
        lambda: pictures.masks(run.masks, run.structure),
        "masks",
        None if any(record["masks"] for record in run.masks) else "the run kept no masks (masks.jsonl)",
        "Full color: the element is kept. No color: it is gone. In between, the search is undecided.",
    )


def _examples(content: Record) -> str:
    caption = "The first test images, as the networks see them; detections with a score of at least 0.25."
    return _picture("Detections", lambda: pictures.examples(content), "examples", None, caption)


def _picture(heading: str, draw: Callable[[], Figure], name: str, missing: str | None, caption: str) -> str:
    if missing is not None:
        return section(heading, f'<p class="left-out">Left out: {text(missing)}.</p>')
    svg = inline_svg(draw(), name, label=heading)
    return section(
        heading,
        f"<figure>\n{scrolling(svg, heading)}\n<figcaption>{text(caption)}</figcaption>\n</figure>",
    )


def _details(run: Run) -> str:
    results, model = run.results, run.structure["model"]
    entries: list[tuple[str, str]] = [("command", f"<code>{text(results['command'])}</code>")]
    arguments = ", ".join(f"{key}={value!r}" for key, value in (model.get("arguments") or {}).items())
    entries.append(("model", text(f"{model['name']}({arguments})")))
    entries += [(name, text(results[name])) for name in ("data", "pipeline", "seed", "machine")]
    for name, budget in results["budget"].items():
        asked = budget["asked"] if isinstance(budget["asked"], str) else f"{budget['asked']:g}"
        said = f"asked {asked}: at most {exactly(budget['target'])} of {exactly(budget['full'])}"
        if "measured" in budget and "predicted" in budget:
            said += f"; predicted {exactly(budget['predicted'])}, measured {exactly(budget['measured'])}"
            said += f", spread {exactly(budget['spread'])}" if "spread" in budget else ""
        entries.append((text(f"budget, {run.words[name]}"), text(said)))
    difference = (results.get("verify") or {}).get("max_abs_difference")
    if difference is not None:
        said = f"largest absolute difference of an output {difference:.2g}"
        entries.append(("masked against shrunk", said))
    seconds = results.get("seconds") or {}
    if seconds:
        parts = ", ".join(f"{phase} {duration(value)}" for phase, value in seconds.items())
        entries.append(("time", text(f"{parts}; together {duration(sum(seconds.values()))}")))
    return "<dl>\n" + "\n".join(f"<dt>{text(term)}</dt><dd>{value}</dd>" for term, value in entries) + "\n</dl>"


def _groups(run: Run) -> str:
    """Every group in numbers, folded away: what it costs, what is kept, and how important elements were at the cut."""
    costs = [name for name in run.words if any(cost_of_one(run, group, name) for group in run.structure["groups"])]
    cut = importance_at_the_cut(run)
    rows = []
    for name, group in run.structure["groups"].items():
        numbers = [f"{group['size']:,}", f"{len(group['kept']):,}", *(cost_of_one(run, name, c) or "–" for c in costs)]
        numbers += cut.get(name, ("–", "–")) if cut else ()
        cells = "".join(_number_cell(number) for number in numbers)
        rows.append(f'<tr><th scope="row">{text(name)}</th><td>{text(group["kind"])}</td>{cells}</tr>')
    heads = ["elements", "kept", *(f"{run.words[c]} each" for c in costs)]
    heads += ["least important kept", "most important dropped"] if cut else []
    numbers = "".join(f'<th scope="col" class="number">{text(head)}</th>' for head in heads)
    table = (
        f'<table>\n<thead><tr><th scope="col">group</th><th scope="col">kind</th>{numbers}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table>"
    )
    return (
        f"\n<details>\n<summary>Every group in numbers ({len(rows)})</summary>\n{scrolling(table, 'Every group')}\n"
        + ('<p class="muted">Importance in shares of the largest of the group.</p>\n' if cut else "")
        + "</details>"
    )
