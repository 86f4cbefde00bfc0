"""The sizes that one search gave, from the full network down: what each costs and how well it does."""

from __future__ import annotations

from dms_jax.report.document import scrolling, text
from dms_jax.report.network import bar
from dms_jax.report.quantities import count, quality, share
from dms_jax.report.run_files import Run
from dms_jax.report.summary import full_row


def family_table(run: Run) -> str | None:
    """The table as HTML; None for a run of one size."""
    named = run.results.get("sizes") or []
    rows = [row for row in run.results["rows"] if row["name"] in named]
    first, word = next(iter(run.words.items()))
    whole = run.structure["resources"]["before"][first]
    if len(rows) < 2 or not whole:
        return None
    full = full_row(run)
    lines = [
        f'<tr><th scope="row">{text(row["name"])}</th>'
        f'<td class="bars">{bar(100, min(row[first] / whole, 1.0))}</td>'
        f'<td class="number">{count(row[first])}</td><td class="number">{share(row[first] / whole)}</td>'
        f'<td class="number">{quality(row.get("quality"), row.get("stderr"), run.results["quality"]["unit"])}</td></tr>'
        for row in ([] if full is None else [full]) + rows
    ]
    heads = "".join(
        f'<th scope="col" class="number">{text(head)}</th>'
        for head in (word, "of full", run.results["quality"]["name"])
    )
    table = (
        f'<table>\n<thead><tr><th scope="col">network</th><th scope="col">{text(word)}</th>{heads}'
        f"</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>"
    )
    return (
        f"{scrolling(table, 'Several sizes')}\n"
        '<p class="muted">Every size is made of elements of the one above it. '
        "The network below is the largest of them.</p>"
    )
