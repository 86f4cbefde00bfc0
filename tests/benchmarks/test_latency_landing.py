"""The benchmark of latency, on a machine of which all times are known."""

from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import latency
from tests.fake_device import Device, installed


def test_a_row_a_budget_and_what_is_refused_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    installed(Device(together=1.2, call=0.05), monkeypatch)
    monkeypatch.setattr(latency, "ROUNDS", 2)
    (network,) = latency.QUICK_NETWORKS
    said: list[str] = []
    found = latency.land(network, (0.6, 0.001), InterruptFlag(), said.append)
    (asked, target, predicted, measured, spread, again, _, _), refused = found["rows"]
    assert asked == 0.6 and target == 0.6 * found["full"] and 0.9 * target <= measured <= target
    assert predicted > 0 and spread == 0 and again > 0 and said == [f"60 %: {measured / target:.3f}"]
    assert refused[3] is None and "has at most" in refused[-1]
    first, second = latency.lines(network, found)
    assert len(first) == len(second) == len(latency.HEADER) and first[1:3] == ["60", f"{target:.3g}"]
