"""A made-up run directory, from groups that a test chooses."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

BEFORE = {"macs": 40_812_345, "params": 272_474}
AFTER = {"macs": 1_630_112, "params": 11_203}
STEPS = 40

Groups = Mapping[str, tuple[int, str]]


@pytest.fixture(scope="session")
def small_groups() -> Groups:
    stages = {f"stage{stage}": 8 * 2**stage for stage in (1, 2, 3)}
    groups: dict[str, tuple[int, str]] = {"stem": (16, "width")}
    for stage, size in stages.items():
        groups |= {f"{stage}/block{block}/mid": (size, "width") for block in range(3)}
        groups |= {f"{stage}/out": (size, "width"), f"{stage}/depth": (2, "depth")}
    return groups


@pytest.fixture(scope="session")
def many_groups() -> Groups:
    groups: dict[str, tuple[int, str]] = {"embed": (384, "width")}
    for stage in range(6):
        for block in range(17):
            inner = {"heads": (8, "heads"), "value": (64, "width"), "hidden": (2048, "width")}
            groups |= {f"stage{stage}/block{block}/{name}": group for name, group in inner.items()}
        groups[f"stage{stage}/depth"] = (16, "depth")
    return groups


@pytest.fixture(scope="session")
def hostile_groups() -> Groups:
    return {
        "a$b_{$/x<script>alert(1)</script>": (16, "width"),
        "a$b_{$/\"quoted' & \x07\n\u202e": (9, "heads<b>"),
        ' id="x" url(#y) href="#z" : #22272e': (1, "width"),
        "\u65e5\u672c \ud800": (4, "width"),
        "s" * 90 + "/depth": (36, "depth"),
        "<!-- -->/]]>": (300, "width"),
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a run to a directory of the test's own."""
    return partial(_write_run, tmp_path)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Returns a function that writes a run to a directory that is given."""
    return _write_run


def _write_run(directory: Path, groups: Groups, **results: Any) -> Path:
    """Write a run directory; keyword arguments replace fields of `results.json`."""
    kept = {name: {"size": n, "kept": list(range(0, n, 3)), "kind": k} for name, (n, k) in groups.items()}
    model = {"name": "resnet20", "arguments": {"num_classes": 10}}
    structure = {"format": "dms_jax.structure", "version": 1, "model": model, "groups": kept}
    structure["resources"] = {"before": BEFORE, "after": AFTER}
    _write_json(directory / "structure.json", structure)
    _write_json(directory / "results.json", _results() | results)
    _write_lines(directory / "metrics.jsonl", _metrics())
    _write_lines(directory / "masks.jsonl", [_masks(step, kept) for step in range(0, STEPS, 8)])
    return directory


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _metrics() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for phase in ("pretrain", "search", "finetune", "uniform", "full"):
        for step in range(STEPS):
            line = {"phase": phase, "step": step, "loss": 2.3 * math.exp(-step / 9) + 0.02}
            if phase == "search":
                target = 0.04 ** min(1, step / 32)
                line |= {"task_loss": 0.9 * line["loss"], "macs": target, "macs_target": target}
                line |= {"weight_macs": 1 + step / 10}
            if step % 10 == 9:
                line["accuracy"] = 1 - 0.9 * math.exp(-step / 9)
            lines.append(line)
    return lines


def _masks(step: int, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    masks = {}
    for name, group in groups.items():
        kept = set(group["kept"])
        masks[name] = bytes(255 if element in kept else 255 - 6 * step for element in range(group["size"])).hex()
    return {"step": step, "masks": masks}


def _row(name: str, resources: Mapping[str, int], quality: float | None, note: str = "") -> dict[str, Any]:
    latency = {"64": 31.4, "1": 1.823} if quality else None
    stderr = 0.0067 if quality else None
    row = {"name": name, **resources, "quality": quality, "stderr": stderr, "latency_ms": latency}
    return row | {"steps": 1300, "note": note}


def _results() -> dict[str, Any]:
    return {
        "title": "resnet20 on digits",
        "data": "handwritten digits",
        "command": "python -m experiments.digits_search --macs=0.04",
        "machine": "2 CPU cores",
        "seed": 0,
        "resources": {"macs": "MACs", "params": "parameters"},
        "budget": {"macs": {"asked": 0.04, "target": 1_632_493, "full": BEFORE["macs"]}},
        "quality": {"name": "accuracy", "unit": "%"},
        "pipeline": "p",
        "verify": {"max_abs_difference": 3.1e-6},
        "rows": [
            _row("full network, pretrained", BEFORE, 0.9833),
            _row("searched, finetuned", AFTER, 0.9694),
            _row("uniform", {"macs": 1_601_112, "params": 10_988}, 0.9417, note="control <i>"),
            _row("full network, trained on", BEFORE, None),
        ],
        "warnings": ["MACs fell by 96 % and the latency of <one> image did not."],
        "seconds": {"pretrain": 92.4, "search": 71.2},
    }
