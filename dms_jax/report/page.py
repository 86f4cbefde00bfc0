"""The page: a run directory becomes one HTML file that needs nothing else."""

import html
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.figure import Figure

from dms_jax import files
from dms_jax.explanation import exactly
from dms_jax.report import pictures
from dms_jax.report.curve_pictures import budgeted
from dms_jax.report.example_pictures import read_examples
from dms_jax.report.quantities import (
    count,
    duration,
    exact,
    milliseconds,
    quality,
    share,
    without_controls,
)
from dms_jax.report.run_files import Record, Run, read_run
from dms_jax.report.stylesheet import stylesheet
from dms_jax.report.summary import result_row, summary, warnings
from dms_jax.report.svg import inline_svg


def write_report(run_directory: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a run directory and returns its path.

    The page says in words and numbers what was asked and what came out, and shows the structure, the
    resources, the losses and the masks. It is one file: no script, no font, no picture and no style from
    elsewhere. The same run gives the same bytes.

    Args:
      run_directory: holds `structure.json`, `metrics.jsonl` and `results.json`, and `masks.jsonl` where the
        search kept its masks. What a run lacks is left out of the page, which says so.

    Raises:
      ValueError: a required file is missing or is not what it should be; one line names it and what makes it.
    """
    run, examples = read_run(run_directory), read_examples(Path(run_directory))
    path = Path(run_directory) / "report.html"
    files.write(path, page(run, examples).encode("utf-8", errors="replace"))
    return path


def page(run: Run, examples: Record | None = None) -> str:
    """Returns the HTML of a run's report; with images and what networks find in them, where there are some."""
    title = _text(run.results["title"])
    body = [
        f"<h1>{title}</h1>",
        f'<p class="summary">{_text(summary(run))}</p>',
        _warnings(run),
        _section("Results", _table(run)),
        None if examples is None else _examples(examples),
        *_picture_sections(run),
        _section("Details", _details(run) + _groups(run.structure)),
    ]
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>\n{stylesheet()}\n</style>",
    ]
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        *head,
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(line for line in lines if line is not None)


def _text(value: object) -> str:
    """Escapes a value for HTML; control characters, which HTML does not allow, are replaced."""
    return html.escape(without_controls(str(value)))


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{_text(heading)}</h2>\n{content}\n</section>"


def _warnings(run: Run) -> str | None:
    found = warnings(run)
    if not found:
        return None
    items = "".join(f"<li>{_text(warning)}</li>" for warning in found)
    heading = "Warning" if len(found) == 1 else "Warnings"
    return f'<aside class="warnings">\n<p>{heading}</p>\n<ul>{items}</ul>\n</aside>'


def _table(run: Run) -> str:
    rows = run.results["rows"]
    batches = sorted({key for row in rows for key in row.get("latency_ms") or ()}, key=int)
    first, *others = run.words.values()
    heads = [first, "of full", *others, run.results["quality"]["name"], *_parts(run), *_also(run)]
    heads += [f"ms at batch {batch}" for batch in batches] + ["steps"]
    numbers = "".join(f'<th scope="col" class="number">{_text(head)}</th>' for head in heads)
    result = result_row(run)
    body = "\n".join(_row(row, batches, run, row is result) for row in rows)
    return (
        '<div class="wide"><table>\n'
        f'<thead><tr><th scope="col">network</th>{numbers}<th scope="col">note</th></tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
        '<p class="muted">MACs: multiply-adds of one forward pass, batch 1. '
        "±: one standard error. Point at a count for its exact value.</p>"
    )


def _row(row: Record, batches: Iterable[str], run: Run, is_result: bool) -> str:
    latency = row.get("latency_ms") or {}
    before = run.structure["resources"]["before"]
    counts = [_count_cell(row[name], word) for name, word in run.words.items()]
    first = next(iter(before))
    cells = [
        counts[0],
        _number_cell(share(row[first] / before[first]) if before[first] else "–"),
        *counts[1:],
        _number_cell(quality(row.get("quality"), row.get("stderr"), run.results["quality"]["unit"])),
        *(_number_cell(quality(row.get(name), None, run.results["quality"]["unit"])) for name in _parts(run)),
        *(_number_cell(quality(row.get(name), None, "")) for name in _also(run)),
        *(_number_cell(milliseconds(latency.get(batch))) for batch in batches),
        _number_cell("–" if row.get("steps") is None else f"{row['steps']:,}"),
        f"<td>{_text(row.get('note') or '')}</td>",
    ]
    start = '<tr class="result">' if is_result else "<tr>"
    return f'{start}<th scope="row">{_text(row["name"])}</th>{"".join(cells)}</tr>'


def _also(run: Run) -> list[str]:
    """Other names of the quality, such as the perplexity beside bits per byte."""
    return run.results["quality"].get("also") or []


def _parts(run: Run) -> list[str]:
    """Qualities of the same unit beside the one that counts, such as that of small objects alone."""
    return run.results["quality"].get("parts") or []


def _count_cell(value: float, of: str) -> str:
    return f'<td class="number" title="{_text(exact(value, of))}">{_text(count(value))}</td>'


def _number_cell(text: str) -> str:
    return f'<td class="number">{_text(text)}</td>'


def _picture_sections(run: Run) -> Iterable[str]:
    """Every picture under its heading, or a sentence that says why it is not there."""
    kinds = {group["kind"] for group in run.structure["groups"].values()}
    has_loss = any(isinstance(record.get("loss"), int | float) for record in run.metrics)
    yield _picture(
        "Width of every layer",
        lambda: pictures.widths(run.structure),
        "widths",
        None if kinds - {"depth"} else "the search had no width groups, so there are no widths to show",
        "In the order of the network, first layer at the top.",
    )
    yield _picture(
        "Depth of every stage",
        lambda: pictures.depth(run.structure),
        "depth",
        None if "depth" in kinds else "the search had no depth groups: every block of the full network is still there",
        "Blocks that cannot be removed (those that change the shape) are not counted.",
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
        "Full colour: the element is kept. No colour: it is gone. In between, the search is undecided.",
    )


def _examples(content: Record) -> str:
    caption = "The first test images, as the networks see them; detections with a score of at least 0.25."
    return _picture("Detections", lambda: pictures.examples(content), "examples", None, caption)


def _picture(heading: str, draw: Callable[[], Figure], name: str, missing: str | None, caption: str) -> str:
    if missing is not None:
        return _section(heading, f'<p class="left-out">Left out: {_text(missing)}.</p>')
    svg = inline_svg(draw(), name, label=heading)
    return _section(
        heading,
        f'<figure>\n<div class="wide">{svg}</div>\n<figcaption>{_text(caption)}</figcaption>\n</figure>',
    )


def _details(run: Run) -> str:
    results, model = run.results, run.structure["model"]
    entries: list[tuple[str, str]] = [("command", f"<code>{_text(results['command'])}</code>")]
    arguments = ", ".join(f"{key}={value!r}" for key, value in (model.get("arguments") or {}).items())
    entries.append(("model", _text(f"{model['name']}({arguments})")))
    entries += [(name, _text(results[name])) for name in ("data", "pipeline", "seed", "machine")]
    for name, budget in results["budget"].items():
        asked = budget["asked"] if isinstance(budget["asked"], str) else f"{budget['asked']:g}"
        text = f"asked {asked}: at most {exactly(budget['target'])} of {exactly(budget['full'])}"
        if "measured" in budget and "predicted" in budget:
            text += f"; predicted {exactly(budget['predicted'])}, measured {exactly(budget['measured'])}"
            text += f", spread {exactly(budget['spread'])}" if "spread" in budget else ""
        entries.append((_text(f"budget, {run.words[name]}"), _text(text)))
    difference = (results.get("verify") or {}).get("max_abs_difference")
    if difference is not None:
        text = f"largest absolute difference of an output {difference:.2g}"
        entries.append(("masked against shrunk", text))
    seconds = results.get("seconds") or {}
    if seconds:
        parts = ", ".join(f"{phase} {duration(value)}" for phase, value in seconds.items())
        entries.append(("time", _text(f"{parts}; together {duration(sum(seconds.values()))}")))
    return "<dl>\n" + "\n".join(f"<dt>{_text(term)}</dt><dd>{value}</dd>" for term, value in entries) + "\n</dl>"


def _groups(structure: Record) -> str:
    """Every group in numbers, folded away: the pictures of the structure for those who cannot see them."""
    rows = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(group["kind"])}</td>'
        f'<td class="number">{group["size"]:,}</td><td class="number">{len(group["kept"]):,}</td></tr>'
        for name, group in structure["groups"].items()
    )
    heads = '<th scope="col">group</th><th scope="col">kind</th>'
    heads += '<th scope="col" class="number">elements</th><th scope="col" class="number">kept</th>'
    return (
        f"\n<details>\n<summary>Every group in numbers ({len(structure['groups'])})</summary>\n"
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n</details>"
    )
