import io

import pytest
from rich.console import Console

from dms_jax.training import Progress, progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_without_a_terminal_lines_come_now_and_then(clock):
    out = io.StringIO()
    with Progress("search", 120, console=Console(file=out, width=40)) as bar:
        for step in range(1, 81):
            clock.now += 1.0
            bar.update(step, f"loss {1 / step:.3f}  [macs] 23.1 % > 20.0 %" if step % 5 == 0 else None)
    lines = out.getvalue().splitlines()
    assert lines[0] == "search 1/120  0:01 so far, -:-- left"
    assert lines[1] == "search 11/120  loss 0.100  [macs] 23.1 % > 20.0 %  0:11 so far, 1:49 left"
    assert lines[-1] == "search 80/120  loss 0.013  [macs] 23.1 % > 20.0 %  1:20 so far, 0:40 left"
    assert len(lines) == 9


def test_compilation_is_not_in_the_estimate(clock):
    out = io.StringIO()
    with Progress("a", 1000, start=500, console=Console(file=out)) as bar:
        clock.now += 300.0
        bar.update(501)
        clock.now += 20.0
        bar.update(511)
    assert out.getvalue().splitlines()[-1] == "a 511/1000  5:20 so far, 16:18 left"


def test_long_times_and_the_end(clock):
    out = io.StringIO()
    with Progress("a", 10, console=Console(file=out)) as bar:
        bar.update(1)
        clock.now += 3600.0
        bar.update(2)
        clock.now += 10.0
        bar.update(10, "done")
    assert out.getvalue().splitlines()[1:] == [
        "a 2/10  1:00:00 so far, 8:00:00 left",
        "a 10/10  done  1:00:10 so far, 0:00 left",
        "a 10/10  done  1:00:10 so far, 0:00 left",
    ]


def test_terminal_shows_a_bar():
    out = io.StringIO()
    with Progress("search", 4, console=Console(file=out, force_terminal=True, width=120)) as bar:
        for step in range(1, 5):
            bar.update(step, f"loss [{step}]")
    assert "search" in out.getvalue() and "4/4" in out.getvalue() and "loss [4]" in out.getvalue()
    assert "0:00 left" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back
