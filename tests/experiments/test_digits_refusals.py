"""What the main job refuses: impossible flags, directories of other jobs, a loss that is not finite; one line each."""

import io
import json
import re
import sys
from functools import partial

import pytest

from dms_jax import baselines
from dms_jax.errors import UserError
from dms_jax.training import runs
from experiments import bounds, digits_search
from experiments.flags import Budgets
from tests.experiments.digits_runs import SHORT, refused

BLIND = [name for name, strategy in baselines.strategies().items() if not strategy.uses_importance]


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--macs=0"], ["budget 0.0 of MACs is not a positive number", "2,551,424"]),
        (["--macs=-0.5"], ["budget -0.5 of MACs is not a positive number"]),
        (["--macs=nan"], ["budget nan of MACs"]),
        (["--macs=inf"], ["budget inf of MACs"]),
        (["--params=nan"], ["budget nan of parameters"]),
        (["--macs=3e6"], ["budget 3,000,000 MACs is above the full network's 2,551,424"]),
        (["--params=272475"], ["above the full network's 272,474"]),
        (["--macs=1e-6"], ["is below 2,118, the smallest reachable", "2,551,424"]),
        (["--macs=0.5", "--params=1.5"], ["parameters is below"]),
        (["--macs=x"], ["budget x of MACs is not a positive number", "M, G, T, MACs"]),
        (["--macs=2GB"], ["budget 2GB of MACs has the unknown unit 'GB'"]),
        (["--weights=1PB"], ["budget 1PB of weights has the unknown unit 'PB'", "KiB"]),
        (["--memory=1TB"], ["of memory is above the full network's"]),
        (["--memory-batch=0"], ["batch of memory"]),
        (["--latency=3MB"], ["budget 3MB of latency has the unknown unit 'MB'", "ns, us, µs, ms, s"]),
        (["--latency=0ms", "--latency-batch=2"], ["budget 0ms of latency is not a positive number"]),
        (["--latency-batch=0"], ["batch of latency"]),
        (["--latency-batch=2"], ["--latency-batch is of a budget that is not given; give --latency"]),
        (["--macs=0.5", "--memory-batch=2"], ["--memory-batch is of a budget that is not given; give --memory"]),
        (["--latency-seconds=0"], ["seconds of latency 0.0 is not possible"]),
        (["--weights-factor=2"], ["factor of weights 2.0 is not possible"]),
        (["--cache=1MB"], ["budget on ['cache']: give one on macs or params or weights"]),
        (["--cache-length=9"], ["ResNet has nothing that Cache(length=9"]),
        (["--freeze=*"], ["is below 2,551,424, the smallest reachable"]),
        (["--model=resnet21"], ["unknown model 'resnet21'", "resnet20"]),
        (["--freeze=stage9/*"], ["'stage9/*' matches no group", "stem"]),
        (["--min-size", "nothing", "3"], ["'nothing' matches no group"]),
        (["--divisible-by", "*", "0"], ["divisible_by 0 for '*'"]),
        (["--divisible-by", "*", "auto"], ['divisible_by "auto" is what was measured of this device, and nothing was']),
        (["--steps=0"], ["--steps 0 is not possible"]),
        (["--pretrain-steps=-1"], ["--pretrain-steps -1"]),
        (["--finetune-steps=0"], ["--finetune-steps 0"]),
        (["--batch=0"], ["--batch 0"]),
        (["--batch=20"], ["--batch 20 cannot be cut over 8 devices"]),
        (["--learning-rate=0"], ["--learning-rate 0.0"]),
        (["--learning-rate=inf"], ["--learning-rate inf"]),
        (["--resource-weight=nan"], ["--resource-weight nan"]),
        (["--resource-weight=-1"], ["--resource-weight -1.0"]),
        (["--seed=-1"], ["--seed -1"]),
        (["--pipeline=p-", "--retrain=scratch"], ["--retrain scratch", "p-"]),
        (["--ratio-rate=0"], ["rate 0.0 of the structure parameters", "(0, inf)"]),
        (["--ratio-together=1"], ["together 1.0 of the rate is not possible", "[0, 1)"]),
        (["--strategy=iterative", "--ratio-together=0.5"], ["iterative threshold has no ratios"]),
        (["--strategy=iterative", "--ratio-rate=2"], ["iterative threshold has no parameters that a rate could move"]),
        *((["--importance=snip", f"--strategy={name}"], ["--importance snip is of no use", name]) for name in BLIND),
    ],
)  # fmt: skip
def test_one_line_and_nothing_written(flags, says, capsys, tmp_path):
    line, before = refused(capsys, *flags, f"--workdir={tmp_path / 'run'}")
    assert before == []
    for part in says:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--pipeline=q"], r"invalid choice 'q' for argument '--pipeline'. Expected one of \(.*\); --help says .*"),
        (["--strategy=topk"], r"invalid choice 'topk' for argument '--strategy'. .*; --help says .*"),
        (["--retrain=no"], r"invalid choice 'no' .*; --help says .*"),
        (["--steps=many"], r"--steps 'many' is not possible; give a whole number .*"),
        (["--min-size", "stem"], r"--min-size: Failed to parse key-value pairs; --help says .*"),
        (["--nonsense"], r"--nonsense is no flag; --help lists all flags"),
        (["--weight=1"], r"--weight is no flag; did you mean --weights or --resource-weight\?"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_mistyped_flags_are_one_line(flags, line, encoding, tmp_path, monkeypatch):
    """Whatever the terminal can draw boxes of."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(UserError) as error:
        digits_search.main([*flags, f"--workdir={tmp_path / 'run'}"])
    assert re.fullmatch(line, str(error.value)) and not (tmp_path / "run").exists()


def test_workdirs_of_others(capsys, tmp_path):
    flags = ["--macs=0.5", f"--workdir={tmp_path}"]
    ours = digits_search.Config(budgets=Budgets(macs=0.5)).identity
    config = tmp_path / "config.json"
    for content, says in [
        (json.dumps({**ours, "experiment": "text_search"}), "experiment 'text_search' there, 'digits_search' asked"),
        (json.dumps({**ours, "model": "resnet56"}), "model 'resnet56' there, 'resnet20' asked"),
        (json.dumps({**ours, "macs": 0.04}), "macs 0.04 there, 0.5 asked"),
        ("not JSON", "config.json is not JSON"),
    ]:
        config.write_text(content)
        line, before = refused(capsys, *flags)
        assert says in line and "choose another --workdir" in line and before == []
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"] and config.read_text() == content
    line, _ = refused(capsys, "--macs=0.5", f"--workdir={config}")
    assert "cannot write in" in line and "choose another --workdir" in line
    line, _ = refused(capsys, "--macs=0.5", f"--workdir={config / 'below'}")
    assert "cannot write in" in line


def test_a_loss_that_is_not_finite_stops_the_job(quick_digits, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "run_phase", partial(runs.run_phase, checkpoint_every=1))
    monkeypatch.setitem(bounds.BOUNDS, "learning_rate", bounds.Bounds(0, 1e38, above=True))  # no possible rate does it
    flags = [*SHORT, "--learning-rate=1e30", f"--workdir={tmp_path}"]
    for _ in range(2):  # the same command fails the same way
        line, _ = refused(capsys, *flags)
        assert line.startswith("error: pretrain: loss is ") and "lower the learning rate" in line
        step = int(line.split(" at step ")[1].split()[0])
        folder = tmp_path / "checkpoints" / "pretrain"
        saved = sorted(int(p.name) for p in folder.iterdir())
        assert saved[-1] == step - 1 and f"last good checkpoint: {step - 1} in {folder}" in line
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["pretrain"]
