"""The Llama family side by side with transformers, both ways. Skipped where transformers or PyTorch is missing."""

import json
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace, export
from dms_jax.pretrained import llama
from tests.helpers import FLOAT32_LOGITS
from tests.pretrained import llama_cases
from tests.pretrained.llama_cases import CASES

with warnings.catch_warnings(action="ignore"):  # theirs
    torch = pytest.importorskip("torch", exc_type=ImportError)
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")

EXAMPLE = jax.ShapeDtypeStruct((1, llama_cases.LENGTH), jnp.int32)

STRUCTURES = {
    "whole": {},
    "uniform": {"heads": 1, "hidden": 7},
    "one query": {"queries": 1, "hidden": 9},
    "heterogeneous": {"layer0/attention/heads": 1, "layer1/attention/queries": 1, "layer1/feed_forward/hidden": 5},
    "one layer": {"depth": (1,), "hidden": 11},
    "one layer and fewer heads": {"depth": (0,), "heads": 1, "queries": 1},
}


def kept(space, name):
    """The last elements of every group whose name ends so; a tuple is taken as it is."""
    found = {}
    for end, count in STRUCTURES[name].items():
        for group in (group for key, group in space.groups.items() if key.endswith(end)):
            last = tuple(range(group.size - count, group.size)) if isinstance(count, int) else count
            found[group.name] = last
    return found


def loaded(directory) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()


@pytest.mark.parametrize("name", CASES)
def test_the_stored_reference_is_theirs(name):
    made = llama_cases.network(name)
    stored = np.load(llama_cases.REFERENCE / name / "logits.npy")
    np.testing.assert_allclose(llama_cases.logits(made), stored, rtol=0, atol=FLOAT32_LOGITS)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", CASES)
def test_out_of_jax_into_transformers(name, structure, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, variables = llama.load(llama_cases.REFERENCE / name)
    space = SearchSpace.from_model(model, EXAMPLE)
    found = space.structure(kept(space, structure))
    small, sliced = model.clone(structure=found), dms_jax.shrink(space, variables, found)
    ours: Any = small.apply(sliced, jnp.asarray(llama_cases.tokens()))
    theirs = loaded(export.huggingface(tmp_path / "out", small, sliced))
    np.testing.assert_allclose(llama_cases.logits(theirs), ours, rtol=0, atol=FLOAT32_LOGITS)
    assert sum(p.numel() for p in theirs.parameters()) == space.resources(found)["params"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert ("per_layer_config" in config) == (structure == "heterogeneous")


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_heterogeneous_networks_generate(name, tmp_path, monkeypatch):
    """Their generation keeps keys and values, layer by layer; ours computes everything anew at every token."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, variables = llama.load(llama_cases.REFERENCE / name)
    space = SearchSpace.from_model(model, EXAMPLE)
    found = space.structure(kept(space, "heterogeneous"))
    small, sliced = model.clone(structure=found), dms_jax.shrink(space, variables, found)
    theirs = loaded(export.huggingface(tmp_path / "out", small, sliced))
    text = np.zeros((1, 11), np.int64)
    text[:, :5] = llama_cases.tokens()[:, :5]
    written = theirs.generate(torch.tensor(text[:, :5]), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    apply = jax.jit(small.apply)
    for t in range(5, 11):  # what stands behind a token does not matter to it
        text[:, t] = np.argmax(apply(sliced, jnp.asarray(text))[:, t - 1], axis=-1)
    np.testing.assert_array_equal(written.numpy(), text)
