import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dms_jax.report import write_report
from dms_jax.report.run_files import read_run


@pytest.mark.parametrize("name", ["structure.json", "metrics.jsonl", "results.json"])
def test_a_missing_file_is_named_with_its_maker(make_run, small_groups, name):
    directory = make_run(small_groups)
    (directory / name).unlink()
    message = _message(directory)
    assert f"{name} is missing; " in message and "writes it" in message


def _edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        change(content)
        (directory / name).write_text(json.dumps(content))

    return edit


def _append(name: str, text: str) -> Callable[[Path], None]:
    def append(directory: Path) -> None:
        with (directory / name).open("a") as file:
            file.write(text)

    return append


MISTAKES = [
    (_append("structure.json", "}"), "structure.json: not JSON"),
    (_edit("structure.json", lambda s: s.update(format="x")), "the format is not dms_jax.structure"),
    (_edit("structure.json", lambda s: s.update(version=2)), "version 2, this report reads version 1"),
    (_edit("structure.json", lambda s: s["groups"].clear()), "there are no groups"),
    (_edit("structure.json", lambda s: s["groups"]["stem"].update(kept=[16])), "group 'stem' keeps elements"),
    (
        _edit("structure.json", lambda s: s["groups"]["stem"].update(kept=[1, 1])),
        "group 'stem' keeps elements",
    ),
    (_edit("structure.json", lambda s: s["groups"]["stem"].update(kept=[[]])), "group 'stem' keeps elements"),
    (_edit("structure.json", lambda s: s["groups"]["stem"].pop("kind")), "group 'stem' has no `kind`"),
    (_edit("structure.json", lambda s: s["resources"].pop("after")), "resources after the search is not"),
    (_edit("results.json", lambda r: r.pop("seed")), "the result has no `seed`"),
    (_edit("results.json", lambda r: r.update(seed="1")), "`seed` = '1', expected int"),
    (_edit("results.json", lambda r: r.update(budget={"joules": {}})), "budget on 'joules'"),
    (
        _edit("results.json", lambda r: r["rows"][0].update(quality=98.3)),
        "quality 98.3, expected a fraction",
    ),
    (_edit("results.json", lambda r: r["rows"][0].update(latency_ms={"a": 1})), "expected batch size -> ms"),
    (_append("metrics.jsonl", '{"phase": "search", "st'), "metrics.jsonl: line 201: not JSON"),
    (_append("metrics.jsonl", '{"phase": "search"}\n'), "record 201 has no `step`"),
    (_append("masks.jsonl", '{"step": 40, "masks": {"x": "00"}}'), "a group 'x' that the structure lacks"),
    (_append("masks.jsonl", '{"step": 40, "masks": {"stem": "00"}}'), "the mask of 'stem' is not 16 bytes"),
    (_append("masks.jsonl", '{"step": 40, "masks": {"stem": "0g"}}'), "the mask of 'stem' is not 16 bytes"),
]


@pytest.mark.parametrize(("spoil", "expected"), MISTAKES, ids=[expected for _, expected in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_file(make_run, small_groups, spoil, expected):
    directory = make_run(small_groups)
    spoil(directory)
    message = _message(directory)
    assert expected in message
    assert str(directory) in message and "writes it" in message


def test_a_resumed_run_repeats_steps_and_the_later_line_counts(make_run, small_groups):
    directory = make_run(small_groups)
    _append("metrics.jsonl", '{"phase": "search", "step": 3, "loss": 7.0}\n')(directory)
    _append("masks.jsonl", '{"step": 8, "masks": {}}\n')(directory)
    run = read_run(directory)
    assert [line["loss"] for line in run.metrics if (line["phase"], line["step"]) == ("search", 3)] == [7.0]
    assert [line["step"] for line in run.masks] == [0, 8, 16, 24, 32]
    assert run.masks[1]["masks"] == {}


def _message(directory: Path) -> str:
    with pytest.raises(ValueError) as caught:
        write_report(directory)
    message = str(caught.value)
    assert "\n" not in message
    return message
