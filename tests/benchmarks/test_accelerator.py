"""The benchmark for accelerators, on the CPU and on a tiny network; its cases are as large as they say."""

import jax
import pytest

from dms_jax.errors import UserError
from experiments.benchmarks import accelerator
from experiments.benchmarks.accelerated import CASES, QUICK_CASES, Bench
from experiments.benchmarks.accelerator import Options


def test_quick_prints_its_tables(capsys):
    accelerator.main(Options(quick=True, networks=("llama_1b",)))
    printed = capsys.readouterr().out
    for row in ("training", "search", "training, half the MACs"):
        assert f"| a tiny llama, batch 2 | {row} |" in printed
    assert "| a tiny llama, batch 1 | half the MACs |" in printed


def test_the_shape_of_the_large_network_and_half_of_it():
    bench = Bench.of(CASES["llama_1b"])
    assert sum(x.size for x in jax.tree.leaves(bench.shapes(bench.full)["params"])) == 1_235_814_400
    assert 0.49 <= bench.macs(bench.small) / bench.macs(bench.full) <= 0.5
    kept = bench.space.kept(bench.small.structure)
    assert {len(names) % 128 for name, names in kept.items() if name.endswith("hidden")} == {0}
    assert {len(names) for name, names in kept.items() if name.endswith("queries")} == {4}


def test_half_is_at_most_half():
    bench = Bench.of(QUICK_CASES["resnet50"])
    assert bench.macs(bench.small) <= bench.macs(bench.full) / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(networks=("resnet9",)), "resnet9"),
        (Options(rounds=0), "--rounds 0"),
        (Options(), "no accelerator"),
    ],
)
def test_bad_input_is_told(options, said):
    with pytest.raises(UserError, match=said):
        accelerator.main(options)
