"""Files from outside with drawn lies and damage, and drawn command lines."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from dms_jax.errors import UserError
from dms_jax.pretrained.directory import read_json
from dms_jax.pretrained.llama_configuration import from_config
from dms_jax.report.page import page
from dms_jax.report.run_files import read_run
from dms_jax.structure import Structure
from experiments import bounds, coco_search, digits_search, imagenet_search, llama_prune
from tests.faults.tally import Tally, draws, pick
from tests.lies import changed, places
from tests.pretrained.test_outside_directories import CONFIG
from tests.test_outside_structures import WHOLE

SECONDS = 5.0

LIES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, 2.0, -4, 1e-300, 1e300, 10**9, 10**30, "", "2", "../x", "/etc/x", "\x00"),
    *("a" * 5000, "\ud800", [], [0], [1, 0], ["a"], [[]], {}, {"a": 1}, [None], [10**9], [1] * 50, float("nan")),
]


def lied_to(seed: int, cases: int) -> Tally:
    """Configurations, structures and results with drawn lies and damaged bytes: used or refused, within 5 seconds."""
    tally = Tally("file from outside")
    readers = {"config.json": _configuration, "structure.json": Structure.load, "results.json": _report}
    for what, draw in draws(tally.kind, seed, cases):
        name = str(pick(draw, list(readers)))
        with tempfile.TemporaryDirectory() as folder:
            content: Any = {"config.json": CONFIG, "structure.json": WHOLE, "results.json": RESULTS}[name]
            for _ in range(int(draw.integers(1, 4))):
                if found := places(content):
                    how = str(pick(draw, ["replace", "replace", "remove", "rename"]))
                    content = changed(content, pick(draw, found), pick(draw, LIES), how)
            data = bytearray(json.dumps(content).encode())
            if draw.integers(3) == 0:
                data[int(draw.integers(len(data)))] = int(draw.integers(256))
            (Path(folder) / "structure.json").write_text(json.dumps(WHOLE))
            (Path(folder) / "metrics.jsonl").write_text('{"phase": "search", "step": 1, "loss": 2.0}\n')
            (Path(folder) / name).write_bytes(data)
            began = time.monotonic()
            with tally.case(f"{what} ({name})"):
                readers[name](Path(folder) / name)
                assert time.monotonic() - began < SECONDS, "it took too long"
    return tally


def _configuration(path: Path) -> None:
    model = from_config(read_json(path))
    assert model.kv_heads and model.heads % model.kv_heads == 0 and model.layers <= 512


def _report(path: Path) -> None:
    import dms_jax.report.page as module

    sections = module._picture_sections  # seconds a case; tests/report draws them
    module._picture_sections = lambda run: []
    try:
        page(read_run(path.parent)).encode(errors="replace")
    finally:
        module._picture_sections = sections


RESULTS = {
    "title": "t", "data": "d", "command": "c", "machine": "m", "seed": 0, "pipeline": "p",
    "budget": {"macs": {"asked": 0.5, "target": 5, "full": 9}},
    "quality": {"name": "accuracy", "unit": "%", "also": ["error"]},
    "rows": [
        {
            "name": "found", "macs": 3, "params": 2, "quality": 0.9, "stderr": 0.01, "error": 0.1,
            "latency_ms": {"1": 0.5}, "steps": 9, "note": "",
        }
    ],
    "warnings": ["w"], "verify": {"max_abs_difference": 1e-6}, "seconds": {"search": 2.0},
}  # fmt: skip

COMMANDS = {"coco": coco_search, "digits": digits_search, "imagenet": imagenet_search, "llama": llama_prune}


def commanded(seed: int, cases: int) -> Tally:
    """Command lines with one flag out of its range, or none at all: status 2, and no directory."""
    tally = Tally("command line")
    names = sorted(bounds.BOUNDS)
    for what, draw in draws(tally.kind, seed, cases):
        module = COMMANDS[str(pick(draw, list(COMMANDS)))]
        name = str(pick(draw, names))
        limits = bounds.BOUNDS[name]
        wrong = [
            limits.least - 1,
            limits.most * 3 + 1,
            10**22,
            -(10**22),
            "nan",
            "inf",
            "x",
            "",
            "1e",
            "0x10",
            "\u0663",
            "1_000",
            " 7",
            "\uff17",
        ]
        value = pick(draw, wrong)
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        with tempfile.TemporaryDirectory() as folder, tally.case(f"{what} (--{name} {value!r})"):
            where = [f"--workdir={folder}/run"]
            try:
                _silent(module.main, [*where, f"--{name.replace('_', '-')}={value}"])
            except UserError:
                assert not list(Path(folder).iterdir()), "it left a directory"
                raise
            raise AssertionError("it was accepted")
    return tally


def _silent(main: Any, arguments: list[str]) -> None:
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
