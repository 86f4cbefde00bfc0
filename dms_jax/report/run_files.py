"""The files of a run directory that a report is made of, read and checked."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dms_jax.report.quantities import RESOURCES

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
_ROW_TYPES: dict[str, tuple[type, ...]] = {"name": (str,), "macs": (int,), "params": (int,)}


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
    _check(directory / "results.json", _check_results, results)
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
    return _parse(path, _read_text(path), where="")


def _read_lines(path: Path) -> list[Any]:
    lines = enumerate(_read_text(path).split("\n"), start=1)
    return [_parse(path, line, where=f"line {number}: ") for number, line in lines if line.strip()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {MAKERS[path.name]}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {MAKERS[path.name]}") from None


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {where}not JSON ({error}); {MAKERS[path.name]}") from None


def _check(path: Path, check: Callable[[Any], None], content: Any) -> None:
    try:
        check(content)
    except _Mismatch as error:
        raise ValueError(f"{path}: {error}; {MAKERS[path.name]}") from None


class _Mismatch(Exception):
    """What a file says differs from what it should say."""


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise _Mismatch(message)


def _check_fields(content: Any, types: Mapping[str, tuple[type, ...]], where: str) -> None:
    _expect(isinstance(content, dict), f"{where} is not an object")
    for name, allowed in types.items():
        _expect(name in content, f"{where} has no `{name}`")
        right = isinstance(content[name], allowed) and not isinstance(content[name], bool)
        _expect(right, f"{where} has `{name}` = {content[name]!r:.40}, expected {allowed[0].__name__}")


def _check_structure(content: Any) -> None:
    fields: dict[str, tuple[type, ...]] = {"model": (dict,), "groups": (dict,), "resources": (dict,)}
    is_structure = isinstance(content, dict) and content.get("format") == "dms_jax.structure"
    _expect(is_structure, "the format is not dms_jax.structure")
    _expect(content.get("version") == 1, f"version {content.get('version')!r}, this report reads version 1")
    _check_fields(content, fields, "the structure")
    _check_fields(content["model"], {"name": (str,)}, "the model")
    _expect(len(content["groups"]) > 0, "there are no groups")
    for name, group in content["groups"].items():
        _check_fields(group, {"size": (int,), "kept": (list,), "kind": (str,)}, f"group {name!r}")
        size, kept = group["size"], group["kept"]
        whole = all(isinstance(element, int) for element in kept)
        fits = whole and len(set(kept)) == len(kept) and set(range(size)).issuperset(kept)
        _expect(fits, f"group {name!r} keeps elements other than 0 to {size - 1}, once each")
    for when in ("before", "after"):
        resources = content["resources"].get(when)
        _check_fields(resources, {"macs": (int,), "params": (int,)}, f"resources {when} the search")


def _check_results(content: Any) -> None:
    _check_fields(content, _RESULT_TYPES, "the result")
    number = (int, float)
    for name, budget in content["budget"].items():
        fields: dict[str, tuple[type, ...]] = {"asked": number, "target": (int,), "full": (int,)}
        _check_fields(budget, fields, f"the budget on {name!r}")
        _expect(name in RESOURCES, f"there is a budget on {name!r}, expected one of {', '.join(RESOURCES)}")
        _expect(budget["full"] > 0, f"the full network has {budget['full']} {name}")
    _check_fields(content["quality"], {"name": (str,), "unit": (str,)}, "the quality")
    for row in content["rows"]:
        _check_fields(row, _ROW_TYPES, "a row")
        for name in ("quality", "stderr"):
            value, shares = row.get(name), content["quality"]["unit"] == "%"
            fits = value is None or (isinstance(value, number) and (0 <= value <= 1 or not shares))
            expected = "a fraction between 0 and 1" if shares else "a number"
            _expect(fits, f"row {row['name']!r} has {name} {value!r}, expected {expected}")
        latency = row.get("latency_ms")
        fits = latency is None or (isinstance(latency, dict) and all(key.isdigit() for key in latency))
        _expect(fits, f"row {row['name']!r} has latency_ms {latency!r:.40}, expected batch size -> ms")


def _check_metrics(lines: list[Any]) -> None:
    for number, line in enumerate(lines, start=1):
        _check_fields(line, {"phase": (str,), "step": (int,)}, f"record {number}")


def _check_masks(lines: list[Any], structure: Record) -> None:
    for number, line in enumerate(lines, start=1):
        _check_fields(line, {"step": (int,), "masks": (dict,)}, f"record {number}")
        for name, text in line["masks"].items():
            group = structure["groups"].get(name)
            _expect(group is not None, f"record {number} has a group {name!r} that the structure lacks")
            fits = isinstance(text, str) and _is_hex(text) and len(text) == 2 * group["size"]
            _expect(fits, f"record {number}: the mask of {name!r} is not {group['size']} bytes in hexadecimal")


def _is_hex(text: str) -> bool:
    return set(text) <= set("0123456789abcdefABCDEF")
