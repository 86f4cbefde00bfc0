"""Structure files from outside: whatever is changed in one, it loads a structure or says in one line why not."""

import copy
import json
import time

import hypothesis
import hypothesis.strategies as st
import pytest

import dms_jax
from dms_jax import Structure, UserError, reading
from dms_jax.models import MODELS, create
from dms_jax.models.arguments import ARGUMENTS, check_arguments
from dms_jax.structure import MOST_ELEMENTS
from tests.lies import lies

WHOLE = {
    "format": "dms_jax.structure",
    "version": 1,
    "model": {
        "name": "resnet20",
        "arguments": {"num_classes": 10},
        "example": [{"shape": [1, 8, 8, 3], "dtype": "float32"}],
    },
    "groups": {
        "stem": {"size": 16, "kept": [0, 3, 5], "kind": "width", "removed": False},
        "stage2/depth": {"size": 2, "kept": [1], "kind": "depth", "removed": False},
        "stage2/block1/mid": {"size": 32, "kept": [1, 2], "kind": "width", "removed": True},
    },
    "resources": {"before": {"macs": 9, "params": 7}, "after": {"macs": 3, "params": 2}},
}


@hypothesis.given(lies(WHOLE))
def test_any_lie_is_a_structure_or_one_line(lie):
    content = json.dumps(lie)
    try:
        structure = Structure.from_json(json.loads(content), "it")
    except UserError as error:
        assert str(error).startswith(("it ", "structure: ")) and "\n" not in str(error) and len(str(error)) < 600
        return
    again = Structure.from_json(json.loads(json.dumps(structure.to_json())))
    assert again == structure and again.sizes == structure.sizes
    for name, kept in structure.kept.items():
        assert all(type(i) is int and 0 <= i < structure.sizes.get(name, MOST_ELEMENTS) for i in kept)


@hypothesis.given(st.data())
def test_types_are_those_of_python(data):
    wrong = data.draw(st.sampled_from([True, 1.0, "1", None, [1], -1, 10**9]))
    field = data.draw(st.sampled_from(["kept", "sizes", "kinds"]))
    value = {"kept": {"a": [wrong]}, "sizes": {"a": wrong}, "kinds": {"a": wrong}}[field]
    with pytest.raises(UserError, match="structure: .*'a'"):
        Structure(**({"kept": {"a": [0]}} | {field: value}))  # pyright: ignore[reportArgumentType]


def written(tmp_path, content):
    (tmp_path / "checkpoints" / "final").mkdir(parents=True)
    (tmp_path / "structure.json").write_text(json.dumps(content))
    return tmp_path


LARGE = {
    "image_size": [10**6, 2**31], "depth": [10**5], "layers": [10**5], "blocks": [[10**5], [500, 500]],
    "width_multiplier": [1e9], "num_classes": [10**12], "embed": [10**9], "window": [10**9], "block": ["BasicBlock"],
    "stages": [[[1, 1, 10**4, 1, 3]]], "vocabulary": [10**12], "patch_size": [0],
}  # fmt: skip


@pytest.mark.parametrize("argument", LARGE)
@pytest.mark.parametrize("name", ["resnet50", "vit_tiny_patch16_224", "swin_tiny", "efficientnet_b0", "llama"])
def test_large_numbers_in_arguments_are_an_error_and_soon(argument, name, tmp_path):
    for number, value in enumerate(LARGE[argument]):
        content = copy.deepcopy(WHOLE)
        content["model"] |= {"name": name, "arguments": {argument: value}}
        began = time.monotonic()
        with pytest.raises(UserError, match=f"model '{name}'.*({argument}|blocks)"):
            dms_jax.load(written(tmp_path / str(number), content))
        assert time.monotonic() - began < 5


def test_every_argument_that_a_network_writes_has_a_check():
    fields = {f for name in MODELS if name != "llama" for f in vars(create(name))}
    fields -= {"structure", "parent", "name", "block", "_state", "_id", "scope"}
    assert {f for f in fields if not f.startswith("_")} <= set(ARGUMENTS)
    for name in MODELS:
        check_arguments(name, {"dtype": "bfloat16"}, "it")


@pytest.mark.parametrize("shape", [[1, 10**6, 10**6, 3], [1, -8, 8, 3], [10**9], [1, 8.0, 8, 3], [], [True, 8, 8, 3]])
def test_an_example_of_a_million_pixels(shape, tmp_path):
    content = copy.deepcopy(WHOLE)
    content["model"]["example"][0]["shape"] = shape
    with pytest.raises(UserError, match="does not say which model"):
        dms_jax.load(written(tmp_path, content))


def test_large_files_and_many_groups_are_an_error_and_soon(tmp_path):
    for name, groups in {"many": 10_000, "more": 20_000}.items():
        content = copy.deepcopy(WHOLE)
        content["groups"] |= {f"g{i}": {"size": 4, "kept": [0, 1], "kind": "width"} for i in range(groups)}
        began = time.monotonic()
        with pytest.raises(UserError, match="which model 'resnet20' does not have|at most 16,384 entries"):
            dms_jax.load(written(tmp_path / name, content))
        assert time.monotonic() - began < 5
    (tmp_path / "large.json").write_bytes(b"[" + b" " * 200_000_000 + b"]")
    began = time.monotonic()
    with pytest.raises(UserError, match="has 200,000,002 bytes"):
        Structure.load(tmp_path / "large.json")
    assert time.monotonic() - began < 5 and reading.MOST_BYTES < 200_000_000
