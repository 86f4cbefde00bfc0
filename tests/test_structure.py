"""`Structure`: what it accepts, equality, JSON, and how files that are not one are refused."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import copy
import itertools
import json
import pickle

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace, Structure, UserError, models
from dms_jax.groups import KINDS

INDICES = st.sets(st.integers(0, 40)).map(lambda found: tuple(sorted(found)))
KEPT = st.dictionaries(st.text(min_size=1, max_size=12), INDICES, max_size=5)


@hypothesis.given(KEPT, st.booleans())
def test_json_round_trip(kept, complete):
    extra = dict(
        sizes=dict.fromkeys(kept, 41),
        kinds=dict(zip(kept, itertools.cycle(KINDS), strict=False)),
        model={"name": "resnet20", "arguments": {"num_classes": 10}},
        resources={"before": {"macs": 2**60, "params": 3}, "after": {"macs": 2, "params": 1}},
        removed=frozenset(list(kept)[:1]),
    )
    structure = Structure(kept, **extra) if complete else Structure(kept)
    again = Structure.from_json(json.loads(json.dumps(structure.to_json())))
    assert again == structure and hash(again) == hash(structure)
    for name in ("sizes", "kinds", "model", "resources", "removed"):
        assert getattr(again, name) == getattr(structure, name)


def test_save_and_load(tmp_path):
    structure = Structure({"a/b": (0, 3)}, sizes={"a/b": 4})
    path = structure.save(tmp_path / "structure.json")
    assert Structure.load(path) == structure
    assert [p.name for p in tmp_path.iterdir()] == ["structure.json"]  # no partial file is left


def test_it_is_immutable_and_can_be_an_attribute():
    kept = {"a": [0, 1]}
    structure = Structure(kept)
    kept["a"].append(5)
    assert structure.kept["a"] == (0, 1)
    with pytest.raises(TypeError):
        structure.kept["a"] = (0,)
    with pytest.raises(AttributeError):
        structure.kept = {}
    assert copy.deepcopy(structure) is structure
    assert pickle.loads(pickle.dumps(structure)) == structure
    assert len({structure, Structure({"a": np.array([0, 1])})}) == 1
    assert structure != Structure({"a": (0,)}) and structure != {"a": (0, 1)}


@pytest.mark.parametrize("indices", [[1, 0], [0, 0], [-1, 2], [0.5], ["1"], "01", None, [None], [1.0], 3])
def test_indices_must_be_ascending_whole_numbers(indices):
    with pytest.raises(UserError, match="group 'a'"):
        Structure({"a": indices})


def test_indices_within_known_sizes():
    with pytest.raises(UserError, match="group 'a' has 4 elements, there is no element 4"):
        Structure({"a": (0, 4)}, sizes={"a": 4})


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=2)
    | st.complex_numbers() | st.just(np.float32(1)) | st.just(np.arange(2)) | st.just(jnp.ones(2)) | st.just(object()),
    lambda inside: st.lists(inside, max_size=2)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inside, max_size=2)
    | st.dictionaries(st.sampled_from(["a", "name", "arguments", "before", "macs"]), inside, max_size=2),
    max_leaves=6,
)  # fmt: skip


@hypothesis.settings(max_examples=400, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.sampled_from(["kept", "sizes", "kinds", "model", "resources", "removed"]), _ODD)
def test_what_a_structure_takes_can_be_written_and_read_again(tmp_path, name, value):
    try:
        structure = Structure(**{"kept": {"a": (0, 1)}, "sizes": {"a": 2}} | {name: value})
    except UserError as error:
        assert str(error).startswith("structure: ") and "\n" not in str(error) and len(str(error)) < 300
        return
    again = Structure.load(structure.save(tmp_path / "structure.json"))
    assert again == structure and again.to_json() == json.loads(json.dumps(structure.to_json()))


NOT_ONE = {
    "list": [],
    "other": {"format": "something"},
    "number": 3,
    "newer": {"format": "dms_jax.structure", "version": 2},
    "no_groups": {"format": "dms_jax.structure", "version": 1},
    "groups": {"format": "dms_jax.structure", "version": 1, "groups": {"a": [0, 1]}},
    "kept": {"format": "dms_jax.structure", "version": 1, "groups": {"a": {"kept": "all"}}},
    "digits": {"format": "dms_jax.structure", "version": 1, "groups": {"a": {"kept": "12"}}},
    "size": {"format": "dms_jax.structure", "version": 1, "groups": {"a": {"kept": [0], "size": "4"}}},
    "model": {"format": "dms_jax.structure", "version": 1, "groups": {}, "model": "resnet20"},
    "resources": {"format": "dms_jax.structure", "version": 1, "groups": {}, "resources": [1]},
}


@pytest.mark.parametrize("name", NOT_ONE)
def test_files_that_are_not_structures(name, tmp_path):
    path = tmp_path / "structure.json"
    path.write_text(json.dumps(NOT_ONE[name]))
    with pytest.raises(UserError) as caught:
        Structure.load(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read .*structure.json of a search"):
        Structure.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        Structure.load(tmp_path)
    (tmp_path / "text.json").write_text("{'a': 1}")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name in ("text.json", "bytes.json"):
        with pytest.raises(UserError, match="is not JSON"):
            Structure.load(tmp_path / name)


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(models.create("resnet20"), jnp.ones((1, 8, 8, 3)))


def test_structures_that_do_not_fit_the_space(space):
    with pytest.raises(UserError, match="has group 'stage9/mid', which ResNet does not have"):
        space.kept(Structure({"stage9/mid": (0,)}))
    with pytest.raises(UserError, match="group 'stem' has 17 elements, the model's 16"):
        space.kept({"stem": (0, 16)})
    with pytest.raises(UserError, match="group 'stem' has 32 elements, the model's 16"):
        space.kept(Structure({"stem": (0,)}, sizes={"stem": 32}))
    with pytest.raises(UserError, match="keeps 0 of group 'stem'; at least 1 must stay"):
        space.resources({"stem": ()})


@pytest.mark.parametrize("structure", [Structure({"stem": (0, 16)}), Structure({"stem": (0,)}, sizes={"stem": 32})])
def test_structures_that_do_not_fit_the_model(space, structure):
    with pytest.raises(UserError, match="of group 'stem', the model 16: another model's?"):
        SearchSpace.from_model(space.model.clone(structure=structure), jnp.ones((1, 8, 8, 3)))


def test_a_complete_structure_knows_what_was_and_what_is(space):
    structure = space.structure({"stage2/depth": (1,)}, model={"name": "resnet20", "arguments": {}})
    assert set(structure.kept) == set(structure.sizes) == set(structure.kinds) == set(space.groups)
    assert structure.resources == {"before": space.resources(), "after": space.resources(structure)}
    assert structure.removed == {"stage2/block1/mid"}
    assert structure.kinds["stage2/depth"] == "depth" and structure.sizes["stage2/depth"] == 2
