"""What the adapters share: paths, keywords of inference, the message for a missing framework."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.adapters import equinox, haiku, keras, linen, nnx
from dms_jax.adapters.source import differentiable, distinct, framework, inference_keywords, leaf_paths
from dms_jax.errors import UserError

ADAPTERS = {
    "equinox": (equinox, "equinox"),
    "flax.linen": (linen, "flax"),
    "flax.nnx": (nnx, "flax"),
    "haiku": (haiku, "dm-haiku"),
    "keras": (keras, "keras"),
}


@pytest.mark.parametrize("module", ADAPTERS)
def test_a_missing_framework_is_named_with_its_package_in_one_line(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    adapter, package = ADAPTERS[module]
    with pytest.raises(UserError, match=f"pip install {package}$") as caught:
        adapter.source(object(), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ADAPTERS)
def test_an_object_of_another_kind_is_refused_in_one_line(module):
    adapter, package = ADAPTERS[module]
    with pytest.raises(UserError, match="expected a .*, not Other; pass") as caught:
        adapter.source(type("Other", (), {})(), {})
    assert "\n" not in str(caught.value)


def test_adapters_import_no_optional_framework_before_they_are_called():
    program = (
        "import sys; from dms_jax.adapters import equinox, haiku, keras, linen, nnx; "
        "print(*{'equinox', 'haiku', 'keras'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_framework_imports_modules():
    assert framework("flax.linen", "flax").__name__ == "flax.linen"


@pytest.mark.parametrize(
    "leaf, expected",
    [
        (jnp.zeros(2), True),
        (np.zeros(2), True),
        (jnp.zeros(2, jnp.bfloat16), True),
        (jax.ShapeDtypeStruct((2,), jnp.float32), True),
        (jnp.zeros(2, jnp.int32), False),
        (jax.random.key(0), False),
        (2.0, False),
        ("name", False),
        (jax.nn.relu, False),
    ],
)
def test_differentiable(leaf, expected):
    assert differentiable(leaf) is expected


def test_paths_are_in_flatten_order_and_distinct():
    tree = {"b": [1, (2, 3)], "a/c": 4, "a": {"c": 5}}
    assert jax.tree.leaves(tree) == [5, 4, 1, 2, 3]
    assert leaf_paths(tree) == ("a/c", "a/c#2", "b/0", "b/1/0", "b/1/1")


def test_distinct_numbers_repeats():
    assert distinct(["a", "b", "a", "a"]) == ("a", "b", "a#2", "a#3")


def test_inference_keywords_are_added_where_taken_and_not_given():
    def call(x, train, *, deterministic=None, flip=False): ...

    def free(x, **kwargs): ...

    x = object()
    assert inference_keywords(call, [x], {}, "call") == {"train": False, "deterministic": True}
    assert inference_keywords(call, [x, True], {"flip": True}, "call") == {"flip": True, "deterministic": True}
    assert inference_keywords(call, [x], {"train": True, "deterministic": False}, "call") == {
        "train": True,
        "deterministic": False,
    }
    assert inference_keywords(free, [x], {}, "free") == {}
    with pytest.raises(UserError, match="^Net does not take these arguments: .*'size'"):
        inference_keywords(call, [x], {"size": 3}, "Net")
