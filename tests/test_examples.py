"""The programs of docs/: they run, keep their budget, and stand on their pages as they are."""

import importlib.util
import inspect
from pathlib import Path

import jax
import numpy as np
import pytest

import dms_jax
from tests.helpers import FLOAT32_LOGITS

DOCS = Path(__file__).parents[1] / "docs"
PROGRAMS = {name: DOCS / "examples" / f"digits_{name}.py" for name in ("nnx", "linen", "equinox", "keras", "haiku")}


@pytest.fixture(autouse=True)
def allowed():
    """Frameworks add a bias to a batch as they like."""
    with jax.numpy_rank_promotion("allow"):
        yield


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name, program", [*PROGRAMS.items(), ("jax", DOCS / "examples" / "plain.py")])
def test_a_page_shows_the_program_that_is_run(name, program):
    assert f"```python\n{program.read_text()}```\n" in (DOCS / f"your_network_{name}.md").read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_fitting_takes_under_twenty_lines(name):
    source = inspect.getsource(load(PROGRAMS[name]).main)
    assert len([line for line in source.splitlines() if line.strip()]) < 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_half_the_macs(name, tmp_path, monkeypatch):
    program = load(PROGRAMS[name])
    own = dms_jax.fit
    quick = {"devices": jax.devices()[:1], "latency_batches": (1,), "compare": False}
    monkeypatch.setattr(dms_jax, "fit", lambda *args, **options: own(*args, **options, **quick))
    fitted = program.main(tmp_path, steps=6)
    full, found = fitted.results["rows"]
    assert 0.45 * full["macs"] <= found["macs"] <= 0.5 * full["macs"] and 0 <= found["quality"] <= 1
    fn, params = dms_jax.load(tmp_path)
    np.testing.assert_allclose(
        fn(params, program.images[:3]), fitted.fn(fitted.params, program.images[:3]), atol=FLOAT32_LOGITS
    )
    for size in (64, 10):
        batch = {"image": program.images[:size], "label": program.labels[:size]}
        value, changes = fn.loss(params, batch, jax.random.key(0))
        assert np.isfinite(value)
    assert set(changes["state"]) <= {path for path, train in fn.trained.items() if not train}
