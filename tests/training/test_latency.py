import signal
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dms_jax.errors import Interrupted
from dms_jax.training import InterruptFlag, latency
from dms_jax.training.latency import latencies, latency_warnings


class Matmuls(nn.Module):
    """`count` products with a matrix; says when it is traced."""

    count: int
    on_trace: Callable[[tuple[int, ...]], object] = lambda shape: None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        assert not train
        self.on_trace(x.shape)
        for i in range(self.count):
            x = nn.Dense(x.shape[-1], name=f"dense{i}")(x)
        return x


EXAMPLE = jax.ShapeDtypeStruct((1, 256), jnp.float32)


def network(count, on_trace=lambda shape: None):
    variables = Matmuls(count).init(jax.random.key(0), jnp.zeros((1, 256)), train=False)
    return lambda v, x: Matmuls(count, on_trace).apply(v, x, train=False), variables


def test_more_work_takes_longer_and_nothing_is_compiled_while_timing():
    traced = []
    networks = {"one": network(1, traced.append), "forty": network(40, traced.append)}
    found = latencies(networks, EXAMPLE, 8, seconds=0.05)
    assert 0 < found["one"] < found["forty"]
    assert traced == [(8, 256)] * 2


def test_slow_networks_get_five_passes_each(monkeypatch):
    class Clock:
        now = 0.0

        def __call__(self):
            self.now += 10.0  # every look at the clock is later than the time to measure
            return self.now

    monkeypatch.setattr(latency.time, "perf_counter", Clock())
    networks = {"one": network(1), "two": network(2)}
    assert latencies(networks, EXAMPLE, 1, seconds=0.01) == {"one": 10_000.0, "two": 10_000.0}


def test_rows_are_what_a_results_table_takes(monkeypatch):
    monkeypatch.setattr(latency, "latencies", lambda networks, _, batch: {name: batch / 2 for name in networks})
    assert latency.rows({"a": network(1), "b": network(1)}, EXAMPLE, (1, 64)) == {
        "a": {"1": 0.5, "64": 32.0},
        "b": {"1": 0.5, "64": 32.0},
    }


@pytest.mark.parametrize(
    "macs, times, warned",
    [
        ((500, 100), 5.0, False),
        ((500, 100), 3.0, False),  # exactly half of the way from 1 to 5
        ((500, 100), 2.9, True),
        ((500, 100), 0.5, True),  # it got slower
        ((200, 100), 1.4, True),
        ((200, 100), 1.5, False),
        ((130, 100), 1.0, True),  # nothing arrived
        ((120, 100), 1.0, False),  # too little was promised to be measured
        ((100, 100), 0.9, False),
        ((5, 0), 5.0, False),
        ((5, 0), 2.0, True),
    ],
)
def test_warns_when_and_only_when_less_than_half_of_the_speed_up_arrives(macs, times, warned):
    lines = latency_warnings({"1": 6.0 * times}, {"1": 6.0}, macs)
    assert bool(lines) is warned


def test_warns_for_each_batch_size_by_itself():
    (line,) = latency_warnings({"1": 2.0, "64": 40.0}, {"1": 1.6, "64": 10.0}, (400, 100))
    assert "4.0 times fewer MACs" in line and "a batch of 1 is only 1.2 times as fast" in line


@pytest.mark.parametrize("passes", [0, 1, 4, 9])
def test_a_signal_stops_a_measurement_between_two_passes(passes, monkeypatch):
    """Which would otherwise take its seconds, and those of every other batch size."""
    seen = 0
    counted = latency.stop_if_requested

    def stop(doing):
        nonlocal seen
        if seen == passes:
            signal.raise_signal(signal.SIGTERM)
        seen += 1
        counted(doing)

    monkeypatch.setattr(latency, "stop_if_requested", stop)
    networks = {"one": (lambda v, x: v * x.sum(), jnp.float32(1.0))}
    with InterruptFlag(), pytest.raises(Interrupted, match="stopped while latency was measured; all that was trained"):
        latency.latencies(networks, jax.ShapeDtypeStruct((1, 4), jnp.float32), 2, seconds=60.0)
    assert seen == passes + 1
