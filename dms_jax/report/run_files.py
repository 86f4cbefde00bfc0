"""The files of a run directory that a report is made of, read and checked."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dms_jax import reading
from dms_jax.budgets.amounts import words
from dms_jax.errors import UserError, shortened
from dms_jax.reading import Mismatch, listing, mapping, optional, record, whole
from dms_jax.report import network_file
from dms_jax.report.network_file import expect
from dms_jax.structure import MOST_ELEMENTS, MOST_GROUPS
from dms_jax.training.histories import MOST_BYTES

Record = Mapping[str, Any]

MAKERS = {
    "structure.json": "a search writes it when it ends",
    "metrics.jsonl": "the training loop writes it from its first step on",
    "results.json": "an experiment writes it when it ends",
    "masks.jsonl": "a search writes it as it goes",
}
_RESULT_TYPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "data": (str,),
    "command": (str,),
    "machine": (str,),
    "seed": (int,),
    "budget": (dict,),
    "pipeline": (str,),
    "quality": (dict,),
    "rows": (list,),
}


MOST_STEPS = 10**12

_COUNT = whole(0, 2**80)
_BATCH = re.compile("[0-9]{1,9}")
_MODEL = record({"name": reading.text()}, {"arguments": optional(mapping(reading.anything, 64))})
_AMOUNT = reading.number(0, 2**80)
_RESOURCES = mapping(_AMOUNT, 64)


def _asked(value: Any, where: str) -> None:
    """A number, or a text with a unit."""
    (reading.text(64) if isinstance(value, str) else reading.number(0, 1e30))(value, where)


_ROW = record(
    {"name": reading.text()},
    {
        "stderr": optional(reading.number(0, 1e300)),
        "latency_ms": optional(mapping(reading.number(0, 1e12))),
        "steps": optional(_COUNT),
        "note": optional(reading.text()),
    },
)
_QUALITY = record(
    {"name": reading.text(), "unit": reading.text()},
    {name: optional(listing(reading.text(), most=16)) for name in ("also", "parts")},
)
_RESULTS = record(
    {
        "seed": whole(0, 2**80),
        "budget": mapping(
            record(
                {"asked": _asked, "target": _AMOUNT, "full": _AMOUNT},
                {"predicted": _AMOUNT, "measured": _AMOUNT, "spread": _AMOUNT, "layers": network_file.LAYERS},
            )
        ),
        "quality": _QUALITY,
        "rows": listing(_ROW),
    },
    {
        "resources": mapping(reading.text(32), 64),
        "network": network_file.NETWORK,
        "sizes": optional(listing(reading.text(), most=64)),
        "warnings": optional(listing(reading.text(), most=1000)),
        "verify": optional(record({"max_abs_difference": optional(reading.number(0, 1e300))})),
        "seconds": optional(mapping(reading.number(0, 1e12))),
    },
)


@dataclass(frozen=True)
class Run:
    """What a run directory says.

    Attributes:
      structure: the content of `structure.json`.
      results: the content of `results.json`.
      metrics: the lines of `metrics.jsonl`, one for each phase and step, in order of first appearance.
      masks: the lines of `masks.jsonl` in order of steps; empty where the run kept none.
    """

    structure: Record
    results: Record
    metrics: list[Record]
    masks: list[Record]

    @property
    def words(self) -> dict[str, str]:
        """name -> what stands behind its numbers, of every resource of the structure: `MACs`, `bytes of weights`."""
        return resource_words(self.structure, self.results)


def resource_words(structure: Record, results: Record) -> dict[str, str]:
    """Of every resource that both files know; its name, where a run of an earlier version says no unit.

    Those of the budget come first: shares of the full network are said of the first one.
    """
    units, before = results.get("resources") or {}, structure["resources"]["before"]
    asked = [name for name in results.get("budget") or {} if name in before]
    return {name: words(name, units.get(name, name)) for name in dict.fromkeys([*asked, *before])}


def read_run(directory: str | os.PathLike[str]) -> Run:
    """Reads and checks the files of a run directory.

    Raises:
      ValueError: a required file is missing or is not what it should be; the message is one line that names
        the file, what is wrong, and what makes the file.
    """
    directory = Path(directory)
    structure = _read_json(directory / "structure.json")
    _check(directory / "structure.json", _check_structure, structure)
    for group in structure["groups"].values():
        if group.get("removed"):  # it went with its block, whatever the search kept of it
            group["kept"] = []
    results = _read_json(directory / "results.json")
    _check(directory / "results.json", lambda content: _check_results(content, structure), results)
    metrics = _read_lines(directory / "metrics.jsonl")
    _check(directory / "metrics.jsonl", _check_metrics, metrics)
    masks_path = directory / "masks.jsonl"
    masks = _read_lines(masks_path) if masks_path.exists() else []
    _check(masks_path, lambda lines: _check_masks(lines, structure), masks)
    # An interrupted run repeats the steps after its last checkpoint: the later line is the one that counts.
    latest_metrics = {(line["phase"], line["step"]): line for line in metrics}
    latest_masks = {line["step"]: line for line in masks}
    return Run(structure, results, list(latest_metrics.values()), [latest_masks[s] for s in sorted(latest_masks)])


def _read_json(path: Path) -> Any:
    return _parse(path, _read_bytes(path), where="")


def _read_lines(path: Path) -> list[Any]:
    lines = enumerate(_read_bytes(path, MOST_BYTES).split(b"\n"), start=1)
    return [_parse(path, line, where=f"line {number}: ") for number, line in lines if line.strip()]


def _read_bytes(path: Path, most: int = reading.MOST_BYTES) -> bytes:
    if not path.exists():
        raise UserError(f"{path} is missing; {MAKERS[path.name]}")
    return reading.read_bytes(path, most=most, hint=MAKERS[path.name])


def _parse(path: Path, content: bytes, where: str) -> Any:
    try:
        return reading.loads(content, halves=True)  # the page replaces them
    except ValueError as error:
        raise UserError(f"{path}: {where}not JSON ({error}); {MAKERS[path.name]}") from None


def _check(path: Path, check: Callable[[Any], None], content: Any) -> None:
    try:
        check(content)
    except Mismatch as error:
        raise UserError(f"{path}: {shortened(error.fault, 300)}; {MAKERS[path.name]}") from None


def _check_fields(content: Any, types: Mapping[str, tuple[type, ...]], where: str) -> None:
    expect(isinstance(content, dict), f"{where} is not an object")
    for name, allowed in types.items():
        expect(name in content, f"{where} has no `{name}`")
        right = isinstance(content[name], allowed) and not isinstance(content[name], bool)
        expect(right, f"{where} has `{name}` = {reading.shown(content[name])}, expected {allowed[0].__name__}")


def _check_structure(content: Any) -> None:
    fields: dict[str, tuple[type, ...]] = {"model": (dict,), "groups": (dict,), "resources": (dict,)}
    is_structure = isinstance(content, dict) and content.get("format") == "dms_jax.structure"
    expect(is_structure, "the format is not dms_jax.structure")
    expect(content.get("version") == 1, f"version {reading.shown(content.get('version'))}, this report reads version 1")
    _check_fields(content, fields, "the structure")
    _MODEL(content["model"], "the model")
    expect(len(content["groups"]) <= MOST_GROUPS, f"there are {len(content['groups']):,} groups")
    expect(len(content["groups"]) > 0, "there are no groups")
    for name, group in content["groups"].items():
        _check_fields(group, {"size": (int,), "kept": (list,), "kind": (str,)}, f"group {name!r}")
        size, kept = group["size"], group["kept"]
        expect(1 <= size <= MOST_ELEMENTS, f"group {name!r} has {size:,} elements, expected 1 to {MOST_ELEMENTS:,}")
        expect(isinstance(group.get("removed", False), bool), f"group {name!r} is removed or not: true or false")
        whole = all(type(element) is int and 0 <= element < size for element in kept)
        fits = whole and len(set(kept)) == len(kept)
        expect(fits, f"group {name!r} keeps elements other than 0 to {size - 1}, once each")
    for when in ("before", "after"):
        resources = content["resources"].get(when)
        expect(isinstance(resources, dict), f"resources {when} the search is not an object")
        expect(bool(resources), f"there are no resources {when} the search")
        _RESOURCES(resources, f"resources {when} the search")
    before, after = (content["resources"][when] for when in ("before", "after"))
    expect(before.keys() == after.keys(), "the resources before and after the search are not the same ones")


def _check_results(content: Any, structure: Record) -> None:
    _check_fields(content, _RESULT_TYPES, "the result")
    expect(len(content["rows"]) <= 1000, f"there are {len(content['rows']):,} rows")
    known = structure["resources"]["before"]
    for name, budget in content["budget"].items():
        fields: dict[str, tuple[type, ...]] = {
            "asked": (int, float, str),
            "target": (int, float),
            "full": (int, float),
        }
        _check_fields(budget, fields, f"the budget on {name!r}")
        expect(name in known, f"there is a budget on {name!r}, expected one of {', '.join(known)}")
        expect(budget["full"] > 0, f"the full network has {budget['full']} {name}")
    _check_fields(content["quality"], {"name": (str,), "unit": (str,)}, "the quality")
    _QUALITY(content["quality"], "the quality")
    for row in content["rows"]:
        _check_fields(row, {"name": (str,), **dict.fromkeys(known, (int, float))}, "a row")
        for name in known:
            _AMOUNT(row[name], f"row {reading.shown(row['name'])}.{name}")
        for name in ("quality", "stderr", *(content["quality"].get("parts") or ())):
            value, shares = row.get(name), content["quality"]["unit"] == "%"
            fits = value is None or (_is_number(value) and (0 <= value <= 1 or not shares))
            expected = "a fraction between 0 and 1" if shares else "a number"
            expect(fits, f"row {row['name']!r} has {name} {reading.shown(value)}, expected {expected}")
        latency = row.get("latency_ms")
        fits = latency is None or (isinstance(latency, dict) and all(map(_BATCH.fullmatch, latency)))
        expect(fits, f"row {row['name']!r} has latency_ms {reading.shown(latency)}, expected batch size -> ms")
    _RESULTS(content, "the result")
    network_file.check(content.get("network") or {}, structure["groups"])
    for row in content["rows"]:
        for name in content["quality"].get("also") or ():
            fits = row.get(name) is None or _is_number(row[name])
            expect(fits, f"row {row['name']!r} has {reading.shown(name)} {reading.shown(row.get(name))}, no number")


def _check_metrics(lines: list[Any]) -> None:
    for number, line in enumerate(lines, start=1):
        _check_fields(line, {"phase": (str,), "step": (int,)}, f"record {number}")
        expect(0 <= line["step"] <= MOST_STEPS, f"record {number} is of step {reading.shown(line['step'])}")
        for name, value in line.items():
            fits = name == "phase" or value is None or _is_number(value)
            expect(fits, f"record {number} has {reading.shown(name)} {reading.shown(value)}, no number")


def _check_masks(lines: list[Any], structure: Record) -> None:
    for number, line in enumerate(lines, start=1):
        _check_fields(line, {"step": (int,), "masks": (dict,)}, f"record {number}")
        expect(0 <= line["step"] <= MOST_STEPS, f"record {number} is of step {reading.shown(line['step'])}")
        for name, text in line["masks"].items():
            group = structure["groups"].get(name)
            expect(group is not None, f"record {number} has a group {name!r} that the structure lacks")
            fits = isinstance(text, str) and _is_hex(text) and len(text) == 2 * group["size"]
            expect(fits, f"record {number}: the mask of {name!r} is not {group['size']} bytes in hexadecimal")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_hex(text: str) -> bool:
    return set(text) <= set("0123456789abcdefABCDEF")
