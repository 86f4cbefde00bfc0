"""What CONTRIBUTING.md promises: extensions take as many places as it says, imports go downward, files are short."""

import ast
import graphlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.interpreters import mlir

import dms_jax
from dms_jax import SearchSpace, baselines
from dms_jax.method.dms import DMS
from dms_jax.method.importance import Importance
from dms_jax.program.operations import OPERATIONS, Read
from tests.helpers import FLOAT32_LOGITS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dms_jax"
PAGE = (ROOT / "CONTRIBUTING.md").read_text()

# --- one of each, added to a copy ---

DOORS = "dms_jax/adapters/doors.py"
EDITS = {
    "a primitive, in the engine": [
        (
            "dms_jax/program/operations/elementwise.py",
            r'(    "add": Operation)',
            r'    "softer": Operation(elementwise),\n\1',
        ),
    ],
    "a framework": [
        (DOORS, r"(from dms_jax.adapters import .*)", r"\1, stax"),
        (
            DOORS,
            r"(    @classmethod\n    def from_model)",
            "    @classmethod\n"
            "    def from_stax(cls, network: Any, params: Any, *inputs: Any, **options: Any) -> Self:\n"
            '        """What `stax.serial` gives, and its parameters."""\n'
            "        return _space(cls, stax.source, (network, params, *inputs), inputs, options, network)\n\n"
            r"\1",
        ),
    ],
    "a model family": [
        ("dms_jax/models/__init__.py", r"(from dms_jax.models import .*)", r"\1, perceptron"),
        ("dms_jax/models/__init__.py", r"FAMILIES = \((.*)\)", r"FAMILIES = (\1, perceptron)"),
    ],
}
"""What is added -> (file, what is there, what is there then), each one place."""

FILES = {
    "a resource": "dms_jax/budgets/activations.py",
    "an importance": "dms_jax/baselines/sensitivity.py",
    "a strategy": "dms_jax/baselines/steeper.py",
    "a framework": "dms_jax/adapters/stax.py",
    "a model family": "dms_jax/models/perceptron.py",
}

USE = """
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.example_libraries import stax
from jax.extend import core
from jax.interpreters import ad, mlir

import dms_jax
from dms_jax.training.results import shares
from experiments.flags import Budgets, Searching

flags = tyro.cli(Searching, args=["--strategy=steeper", "--importance=sensitivity"])
asked = tyro.cli(Budgets, args=["--activations=18 numbers"]).amounts

# a family: made by name, searched with the strategy, the importance and the resource, made again from its file
model = dms_jax.models.create("perceptron", hidden=16)
example = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
space = dms_jax.SearchSpace.from_model(model, example)
assert space.resources()["activations"] == 16 + 10
assert "activations each" in space.summary()


def loss(params, batch, key):
    logits = model.apply(params, batch["image"], train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


search = dms_jax.Search(space, loss, optax.sgd(0.1), asked, steps=20, **flags.options)
assert shares(search) == "69.2 % of the numbers of activations"
state = search.init(model.init(jax.random.key(0), jnp.zeros(example.shape)))
draw = np.random.default_rng(0)
step = jax.jit(search.step)
for i in range(20):
    batch = {"image": jnp.asarray(draw.normal(size=(8, 4, 4, 1)), "float32"), "label": jnp.arange(8) % 10}
    state, metrics = step(state, batch, jax.random.key(1))
structure = search.structure(state)
assert structure.resources["after"]["activations"] == 18, structure.resources
structure.save("structure.json")
assert dms_jax.Structure.load("structure.json").resources == structure.resources

# a framework, and a primitive of the engine
softer_p = core.Primitive("softer")
softer_p.def_impl(jnp.tanh)
softer_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(softer_p, mlir.lower_fun(jnp.tanh, multiple_results=False))
softer = (lambda rng, shape: (shape, ()), lambda params, x, **kwargs: softer_p.bind(x))
network = stax.serial(stax.Dense(12), softer, stax.Dense(3))
_, params = network[0](jax.random.key(0), (-1, 5))
x = jnp.ones((2, 5))
space = dms_jax.SearchSpace.from_stax(network, params, x)
(group,) = space.groups.values()
assert group.size == 12 and space.verify(params, {group.name: (0, 3, 7)}, x) < 1e-5
print("all of it works")
"""


def promised():
    """What is added -> (new files, places to edit)."""
    rows = re.findall(r"^\| (an? [\w, ]+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    return {what: (int(files), int(places)) for what, files, places in rows}


def printed():
    """path -> the file that CONTRIBUTING.md shows."""
    return {path: code for path, code in re.findall(r"^```python\n# (dms_jax/\S+)\n(.*?)^```$", PAGE, re.M | re.S)}


def test_everything_takes_as_many_places_as_the_page_says():
    counts = {what: (what in FILES, len(EDITS.get(what, ()))) for what in {**FILES, **EDITS}}
    assert promised() == {**counts, "a primitive, from outside": (0, 0)}
    assert set(printed()) == set(FILES.values())


def test_one_of_each_added_to_a_copy_works(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "dms_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in printed().items():
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(code)
    for edits in EDITS.values():
        for path, old, new in edits:
            text, count = re.subn(old, new, (tmp_path / path).read_text(), count=1)
            assert count == 1, f"{path} has no {old}"
            (tmp_path / path).write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.stdout.endswith("all of it works\n"), run.stderr[-2000:]


# --- registered from outside ---


@pytest.fixture
def made_up():
    """A product of which JAX shows nothing but its name."""
    primitive = core.Primitive("made_up_product")
    primitive.def_impl(jnp.matmul)
    primitive.def_abstract_eval(lambda a, b: a.update(shape=(a.shape[0], b.shape[1])))
    mlir.register_lowering(primitive, mlir.lower_fun(jnp.matmul, multiple_results=False))
    yield primitive
    OPERATIONS.pop("made_up_product", None)


def test_one_call_tells_of_a_primitive_and_what_it_says_of_costs_is_believed(made_up):
    def network(params, x):
        return made_up.bind(jax.nn.relu(made_up.bind(x, params["up"])), params["down"])

    def axes(t, eqn, ins):
        (rows, inner), (same, columns) = ins
        t.tie(inner, same)
        t.multiply_adds((rows, inner, columns))
        return [(rows, columns)]

    draw = np.random.default_rng(0)
    params = {"up": jnp.asarray(draw.normal(size=(5, 6))), "down": jnp.asarray(draw.normal(size=(6, 3)))}
    x = jnp.asarray(draw.normal(size=(2, 5)))
    with pytest.raises(dms_jax.UserError, match="because of made_up_product at tests/test_contributing.py"):
        SearchSpace.from_function(network, params, x)

    dms_jax.register_operation(made_up, axes, reads=lambda node: [Read(((0, 1), (1, 0)))])
    space = SearchSpace.from_function(network, params, x)
    found = space.resources({"up": (0, 4)})
    assert (found["macs"], found["params"]) == (2 * 2 * (5 + 3), 2 * (5 + 3))
    assert space.verify(params, {"up": (0, 4)}, x) < FLOAT32_LOGITS


# --- found by themselves ---

MINE = """
from dataclasses import dataclass

from dms_jax.method.dms import DMS
from dms_jax.method.importance import Evidence, Importance, taylor


@dataclass(frozen=True)
class Mine(DMS):
    rate: float = 3.0


def curvature(e: Evidence):
    return e.gradient**2 * e.mask


slow = Importance(taylor, 0.999)


def helper(x):
    return x
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    for found in (baselines.strategies, baselines.importances):
        found.cache_clear()
    yield
    sys.modules.pop("dms_jax.baselines.mine", None)
    for found in (baselines.strategies, baselines.importances):
        found.cache_clear()


def test_a_new_file_is_found(mine):
    assert baselines.strategies()["mine"].__name__ == "Mine" and baselines.create("mine").rate == 3.0
    assert baselines.importances()["curvature"].decay == 0.99 and baselines.importances()["slow"].decay == 0.999
    assert "helper" not in baselines.importances() and baselines.importances()["taylor"] == Importance()
    assert next(iter(baselines.strategies())) == "dms" and baselines.strategies()["dms"] is DMS


# --- the house ---

ROOMS = {"topk": 0, "program": 1, "budgets": 2, "adapters": 2, "space": 3, "method": 4, "baselines": 5, "training": 6,
         "report": 7, "fit": 8}  # fmt: skip
"""How high a room stands: it imports lower ones alone. Rooms that are not listed only take part in no circle."""

DOORS_OF_THE_PACKAGE = "dms_jax"  # loads its names when they are first used


def modules():
    """name -> file."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imported(path, known):
    """Modules of this package that a file imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dms_jax":
            names = [f"{node.module}.{name.name}" for name in node.names]
            found |= {name if name in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("dms_jax")}
    return found - {DOORS_OF_THE_PACKAGE}


def room(module):
    return (module.split(".") + [""])[1]


def test_nothing_imports_upward_and_there_are_no_circles():
    known = modules()
    graph = {name: imported(path, known) for name, path in known.items() if name != DOORS_OF_THE_PACKAGE}
    assert ROOMS.keys() <= {room(name) for name in graph}
    rooms = {}
    for name, others in graph.items():
        for other in others - {name}:
            here, there = room(name), room(other)
            if here == there:
                continue
            rooms.setdefault(here, set()).add(there)
            if here in ROOMS:
                assert ROOMS.get(there, -1) < ROOMS[here], f"{name} imports {other}"
    for edges in (graph, rooms):
        tuple(graphlib.TopologicalSorter(edges).static_order())  # which raises CycleError and says of what


MOST_LINES = 300


def test_files_are_short():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name for name, number in lines.items() if number > MOST_LINES}, "split it"


def frameworks():
    """Adapters with a door of their own; `source` is what they share, `marked` belongs to Linen."""
    return [path.stem for path in PACKAGE.glob("adapters/*.py") if "\ndef source(" in path.read_text()]


def test_adapters_are_short_and_their_doors_are_one_statement():
    assert {"equinox", "haiku", "keras", "linen", "nnx"} <= set(frameworks())
    for name in frameworks():
        assert len((PACKAGE / f"adapters/{name}.py").read_text().splitlines()) < 60
        door = ast.parse(inspect.cleandoc(inspect.getsource(getattr(SearchSpace, f"from_{name}")))).body[0]
        assert isinstance(door, ast.FunctionDef) and len(door.body) == 2  # of which one is the docstring


def test_only_frameworks_that_are_used_are_imported():
    code = "import sys, dms_jax.space; print(*{'equinox', 'haiku', 'keras', 'optax', 'grain'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert run.stdout.split() in ([], ["optax"]), run.stdout + run.stderr


def test_the_operator_needs_jax_alone():
    assert imported(PACKAGE / "topk.py", modules()) == set() and dms_jax.topk.soft_mask
