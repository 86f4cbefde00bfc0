"""What a run came to, in sentences."""

from dms_jax.explanation import exactly
from dms_jax.report.quantities import NARROW_SPACE, count, exact, milliseconds, quality, share
from dms_jax.report.run_files import Record, Run
from dms_jax.training.pipeline import FULL


def summary(run: Run) -> str:
    """Returns one paragraph: what was asked, what came out, quality and latency beside the full network."""
    sentences = [_asked(run), _reached(run), *_compared(run), *_smaller(run)]
    return " ".join(sentence for sentence in sentences if sentence)


def warnings(run: Run) -> list[str]:
    """Returns the run's own warnings, and one for every budget that the structure exceeds."""
    after = run.structure["resources"]["after"]
    exceeded = [
        f"The structure has {exact(after[name], run.words[name])}, over the {exactly(budget['target'])} of its budget."
        for name, budget in run.results["budget"].items()
        if name in after and after[name] > budget["target"]
    ]
    return [*(run.results.get("warnings") or ()), *exceeded]


def result_row(run: Run) -> Record | None:
    """Returns the row of the search's result, if any: the first one with exactly the structure's resources.

    A control may have the same ones, and stands behind it; the full network stands before it.
    """
    rows = _rows_with(run, run.structure["resources"]["after"])
    return next((row for row in rows if not row["name"].startswith(FULL)), None)


def full_row(run: Run) -> Record | None:
    """Returns the row of the full network: the first one with exactly its resources, but not the result, if any."""
    result = result_row(run)
    rows = _rows_with(run, run.structure["resources"]["before"])
    return next((row for row in rows if row is not result), None)


def _rows_with(run: Run, resources: Record) -> list[Record]:
    rows = run.results["rows"]
    return [row for row in rows if all(row[name] == value for name, value in resources.items())]


def _asked(run: Run) -> str:
    model, budget = run.structure["model"]["name"], run.results["budget"]
    asked = [
        f"{count(b['target'])} {run.words[name]} ({share(b['target'] / b['full'])} of the full network)"
        for name, b in budget.items()
    ]
    wish = f"The budget of {model} was {' and '.join(asked)}." if asked else f"{model} had no budget."
    return f"{wish} Data: {run.results['data'].rstrip('.')}."


def _reached(run: Run) -> str:
    before, after = run.structure["resources"]["before"], run.structure["resources"]["after"]
    parts = [
        f"from {count(before[name])} to {count(after[name])} {word} ({share(after[name] / before[name])})"
        for name, word in run.words.items()
        if before[name]
    ]
    return f"The search took it {' and '.join(parts)}."


def _opening(name: str) -> str:
    """A name at the beginning of a sentence: `Accuracy`, but `mAP` as it is."""
    return name if any(c.isupper() for c in name.split(" ", 1)[0]) else f"{name[:1].upper()}{name[1:]}"


def _compared(run: Run) -> list[str]:
    """The result's quality and latency, beside the full network's where there is one to compare."""
    result, full = result_row(run), full_row(run) or {}
    if result is None:
        return []
    sentences = []
    if result.get("quality") is not None:
        name = run.results["quality"]["name"]
        beside = "" if full.get("quality") is None else f" against {_quality(run, full)}"
        sentences.append(f"{_opening(name)}: {_quality(run, result)}{beside}.")
        for also in run.results["quality"].get("also") or []:
            against = f" against {quality(full[also], None, '')}" if full.get(also) is not None else ""
            sentences.append(f"{_opening(also)}: {quality(result.get(also), None, '')}{against}.")
    latency, before = result.get("latency_ms") or {}, full.get("latency_ms") or {}
    times = [
        f"{milliseconds(latency[batch])}{NARROW_SPACE}ms at batch {batch}"
        + (f" (full network {milliseconds(before[batch])}{NARROW_SPACE}ms)" if batch in before else "")
        for batch in sorted(latency, key=int)
    ]
    if times:
        sentences.append(f"Latency is {' and '.join(times)}.")
    return sentences


def _smaller(run: Run) -> list[str]:
    """The smaller ones of several sizes."""
    named, before = (run.results.get("sizes") or [])[1:], run.structure["resources"]["before"]
    first = next(iter(run.words))
    parts = [
        f"{share(row[first] / before[first])} of the {run.words[first]}, {_quality(run, row)}"
        for row in run.results["rows"]
        if row["name"] in named and before[first] and row.get("quality") is not None
    ]
    return [f"Smaller sizes of the same search: {'; '.join(parts)}."] if parts else []


def _quality(run: Run, row: Record) -> str:
    return f"{quality(row['quality'], row.get('stderr'), run.results['quality']['unit'])} (“{row['name']}”)"
