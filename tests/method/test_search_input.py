"""What a search takes: arguments, losses, states; what it refuses, each in one line."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Limits, Schedule, Search, SearchSpace, UserError, shrink
from dms_jax.baselines.iterative import Iterative
from dms_jax.baselines.multiple import MultipleElement
from dms_jax.method.dms import DMS
from dms_jax.training import supervised
from tests import tiny
from tests.method.small import KEY, Counted, Toy, X, Y, loss, run, searcher

# --- bad input -----------------------------------------------------------------------------------------------------


def test_bad_budgets(space):
    full = space.resources()["macs"]
    with pytest.raises(UserError, match=f"budget {full + 1:,} MACs is above the full network's {full:,}"):
        searcher(space, budget={"macs": full + 1.0})
    with pytest.raises(
        UserError, match=rf"below {space.smallest['macs']:,}, the smallest reachable \(Toy, .*; full: {full:,}"
    ):
        searcher(space, budget={"macs": 0.01})
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="is not a positive number"):
            searcher(space, budget={"macs": wrong})
    for wrong, what in (({"flops": 0.5}, r"\['flops'\]"), ({}, "nothing")):
        with pytest.raises(UserError, match=f"budget on {what}: give one on .*macs or params"):
            searcher(space, budget=wrong)


def test_limits_count_for_the_smallest_budget(space):
    with pytest.raises(UserError, match="the smallest reachable"):
        searcher(space, budget={"macs": 0.3}, limits=Limits(freeze=("*",)))
    with pytest.raises(UserError, match="matches no group"):
        searcher(space, limits=Limits(freeze=("conv*",)))


@pytest.mark.parametrize("given", [(0, 0), (10, 10), (10, -1)])
def test_bad_schedules(given):
    with pytest.raises(UserError, match="at least one step must follow|whole number of at least"):
        Schedule(given[0], warmup=given[1])
    with pytest.raises(UserError, match="give a number in"):
        Schedule(10, decay=0.0)
    with pytest.raises(UserError, match="give a number in"):
        Schedule(10, refine=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(budget=0.5), r'budget 0.5 does not say of what; give \{"macs": 0.5\}, say'),
        (dict(steps=4.5), "steps 4.5 is not possible; give a whole number of at least 1"),
        (dict(steps=True), "steps True is not possible"),
        (dict(resource_weight=float("nan")), r"resource_weight nan is not possible; give a number in \[0, inf\)"),
        (dict(resource_weight=-1.0), "resource_weight -1.0 is not possible"),
        (dict(resource_weight="1"), "resource_weight '1' is not possible"),
        (dict(resource_weight=1.0, strategy=Iterative()), "has no parameters that a resource loss moves; leave"),
        (dict(accumulate=0), "accumulate 0 is not possible"),
        (dict(accumulate=1.5), "accumulate 1.5 is not possible"),
        (dict(optimizer="sgd"), "optimizer 'sgd' is not possible; give one of optax, or None"),
        (dict(strategy="dms"), "strategy 'dms' is not possible; give a `Strategy`"),
        (dict(strategy=DMS), "strategy <class .*> is not possible; give a `Strategy`"),
        (dict(importance=0.99), "importance 0.99 is not possible; give a `Importance`"),
        (dict(limits={"keep": "wide"}), "limits {'keep': 'wide'} is not possible; give a `Limits`"),
        (dict(loss=lambda params, batch: 0.0), r"the loss takes \(params, batch\); it is called as loss\("),
        (dict(loss=None), "loss None is not a function"),
    ],
)
def test_arguments_of_another_kind_are_one_line(space, options, message):
    with pytest.raises(UserError, match=message) as error:
        searcher(space, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [dict(rate=0.0), dict(rate=float("nan")), dict(rate="5"), dict(together=-0.1)])
def test_a_strategy_with_knobs_it_cannot_have(wrong):
    with pytest.raises(UserError, match="is not possible; give a number in"):
        DMS(**wrong)


def test_a_schedule_counts_whole_steps(space):
    assert searcher(space, steps=12).schedule == Schedule(12)
    for wrong in (dict(steps=4.5), dict(steps=10, warmup=0.5), dict(steps="10")):
        with pytest.raises(UserError, match="give a whole number"):
            Schedule(**wrong)
    for wrong in (dict(decay=float("nan")), dict(refine="0.2")):
        with pytest.raises(UserError, match="give a number in"):
            Schedule(10, **wrong)


# --- what a loss may return ------------------------------------------------------------------------------------------


def step_with(counted, returned):
    """One step of a search whose loss gives this besides its value."""
    space, variables = counted
    search = searcher(space, loss=lambda p, b, k: (jnp.mean(Counted().apply(p, b[0])), returned(p)))
    return jax.eval_shape(search.step, search.init(variables), (X, Y), KEY)


def test_a_loss_is_a_scalar_and_more_if_it_likes(space, variables, counted):
    for returned in ({}, {"state": {}}, {"state": {"stats": {"n": jnp.ones(3)}}}, {"metrics": {"a": jnp.ones(())}}):
        state, metrics = step_with(counted, lambda p, returned=returned: returned)
        assert jax.tree.structure(state.params) == jax.tree.structure(counted[1])
        assert ("a" in metrics) == ("metrics" in returned)
    plain = searcher(space, loss=lambda p, b, k: loss(p, b, k)[0])
    assert "seen" not in jax.eval_shape(plain.step, plain.init(variables), (X, Y), KEY)[1]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"metric": {}}, r"keys \['metric'\]; give a scalar, or"),
        (({}, {}), "returns a scalar and a tuple; give a scalar, or"),
        ({"metrics": 1.0}, 'returns "metrics" as a float'),
        ({"state": {"stats": {"o": 1.0}}}, 'the loss gives "state" for stats/o, which is not among the variables'),
        ({"state": {"stats": {"n": jnp.ones(2)}}}, r"for stats/n of shape \(2,\); the variable has \(3,\)"),
        ({"state": {"params": {"in": {"bias": jnp.ones(12)}}}}, "for params/in/bias, which is trained"),
        ({"state": {"stats": [1.0]}}, "for stats, which is a dict, as a list"),
    ],
)
def test_what_a_loss_must_not_return_is_one_line(counted, returned, message):
    with pytest.raises(UserError, match=message):
        step_with(counted, lambda p: returned)


@pytest.mark.parametrize(
    ("value", "message"),
    [(jnp.ones(3), r"float32\[3\]"), (jnp.int32(1), r"int32\[\]"), (None, "a NoneType"), ((0.0, {}, {}), "a tuple")],
)
def test_a_loss_that_is_no_scalar(space, variables, value, message):
    search = searcher(space, loss=lambda p, b, k: value)
    with pytest.raises(UserError, match=f"the loss returns {message}; give a scalar, or"):
        jax.eval_shape(search.step, search.init(variables), (X, Y), KEY)


OTHERS = {
    "budgets": (dict(budget={"params": 0.5}), r"weights: params there, macs here"),
    "strategy": (dict(strategy=MultipleElement()), r"ratios: \[26, 2\] there, \[4\] here"),
    "movement": (dict(strategy=DMS(together=0.0)), r"ratio_opt_state: .* there, .* here"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_state_of_another_search_is_one_line(space, variables, what):
    options, message = OTHERS[what]
    state = searcher(space, **options).init(variables)
    with pytest.raises(UserError, match=f"the state is of another search .*{message}.; give what") as error:
        jax.eval_shape(searcher(space).step, state, (X, Y), KEY)
    assert "\n" not in str(error.value)


def test_a_state_of_another_space_is_one_line(space, counted):
    state = searcher(counted[0], loss=lambda p, b, k: jnp.mean(Counted().apply(p, b[0]))).init(counted[1])
    with pytest.raises(UserError, match="another search .importance: wide 12 there, .*depth 2.* here"):
        jax.eval_shape(searcher(space).step, state, (X, Y), KEY)


def test_states_of_several_searches_side_by_side_are_one_line(space, variables):
    """As `jax.vmap(search.step)` takes them: masks and structures are of one."""
    search = searcher(space)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), search.init(variables))
    assert {name: mask.shape for name, mask in jax.vmap(search.masks)(several).items()}["wide"] == (2, 12)
    for ask in (search.masks, search.structure, search.reached, lambda s: search.structures(s, [{"macs": 0.5}])):
        with pytest.raises(UserError, match="another search .importance: .*wide 2x12.* there, .*wide 12.* here"):
            ask(several)


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_a_state_goes_on_in_a_search_of_another_length_or_amount(space, variables, steps):
    state = searcher(space).init(variables)
    other = searcher(space, steps=Schedule(steps), budget={"macs": 0.7}, optimizer=optax.sgd(0.2))
    new, _ = jax.eval_shape(other.step, state, (X, Y), KEY)
    chex.assert_trees_all_equal_shapes(new, state)


def test_an_optimizer_of_one_collection_alone_is_one_line(counted):
    """What it is given is the whole tree, in which labels have to find their places."""
    space, variables = counted
    labels = {"params": jax.tree.map(lambda x: "all", variables["params"])}
    optimizer = optax.multi_transform({"all": optax.sgd(0.1)}, labels)
    search = searcher(space, loss=lambda p, b, k: jnp.mean(Counted().apply(p, b[0])), optimizer=optimizer)
    for begin in (search.init, lambda v: supervised.init(v, optimizer)):
        with pytest.raises(UserError, match="optimizer cannot begin with what is trained .*the whole tree") as error:
            begin(variables)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs devices; tests/conftest.py makes them of the CPU")
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_a_batch_on_a_mesh_of_either_kind(kind):
    """A ReLU has a derivative of its own, whose types name the explicit axes that its operand is cut along."""

    def net(params, x):
        return jax.nn.relu(x @ params["up"]) @ params["down"]

    params = {"up": jnp.ones((5, 12)), "down": jnp.ones((12, 1))}
    space = SearchSpace.from_function(net, params, X[:1])
    search = Search(space, lambda p, b, k: jnp.mean(net(p, b)), optax.sgd(0.1), {"macs": 0.5}, 5)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    batch = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    if kind == jax.sharding.AxisType.Auto:
        jax.eval_shape(search.step, search.init(params), batch, KEY)
        return
    with pytest.raises(UserError, match="on a mesh of explicit axes, data .*axis_types=.*AxisType.Auto"):
        jax.eval_shape(search.step, search.init(params), batch, KEY)


# --- what a user has stays; what a search did not learn is said ---------------------------------------------------


KEEPING = optax.GradientTransformation(lambda params: params, lambda updates, state, params=None: (updates, state))
"""An optimizer whose state is the very weights that it got, as that of a lookahead may be."""


@pytest.mark.parametrize("optimizer", [optax.adam(0.01), KEEPING, None])
def test_init_copies_and_a_donated_step_takes_nothing_from_the_user(space, variables, optimizer):
    search = searcher(space, optimizer=optimizer)
    kept, step = jax.tree.map(np.array, variables), jax.jit(search.step, donate_argnums=0)
    state = search.init(variables)
    step(state, (X, Y), KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    chex.assert_trees_all_equal(jax.tree.map(np.array, variables), kept)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.MultiSteps(optax.adam(0.01), 3),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(),
    ],
)
def test_optimizers_that_are_more_than_a_transformation(space, variables, optimizer):
    search = searcher(space, optimizer=optimizer)
    state = search.init(variables)
    new, _ = jax.eval_shape(search.step, state, (X, Y), KEY)
    chex.assert_trees_all_equal_shapes(new, state)


def test_an_optimizer_that_evaluates_the_loss_elsewhere_is_one_line(space, variables):
    search = searcher(space, optimizer=optax.lbfgs())
    with pytest.raises(UserError, match="asks for more than gradient, weights and loss"):
        jax.eval_shape(search.step, search.init(variables), (X, Y), KEY)


def test_the_weights_optimizer_goes_on_in_the_small_network():
    """Its state holds nothing for running averages, and is shrunk all the same."""
    model, optimizer = tiny.make(), optax.sgd(0.1, momentum=0.9)
    space = SearchSpace.from_model(model, tiny.EXAMPLE)
    search = Search(space, supervised.classification_loss(model), optimizer, {"macs": 0.5}, 5)
    state = jax.eval_shape(search.init, tiny.variables(model))
    kept = {name: tuple(range(group.least)) for name, group in space.groups.items()}
    small = jax.eval_shape(lambda state: supervised.init(shrink(space, state.params, kept), optimizer), state)
    chex.assert_trees_all_equal_shapes(shrink(space, state.opt_state, kept), small.opt_state)


@pytest.mark.parametrize("what", ["params", "ratios", "importance"])
def test_a_state_that_is_not_finite_makes_no_structure(usual, what):
    search, states, _ = usual
    broken = states[-1].replace(**{what: jax.tree.map(lambda x: x * jnp.nan, getattr(states[-1], what))})
    with pytest.raises(UserError, match="are not finite after step 20: the search diverged"):
        search.structure(broken)


def test_a_group_of_which_nothing_was_learned_is_not_thinned(space, variables):
    """`wide` does not reach this loss: after the search that is an error, unless it is left alone or not judged."""

    def blind(params, batch, key):
        sown = Toy().apply(params, batch[0], mutable=["intermediates"])[1]
        return jnp.mean(jnp.square(sown["intermediates"]["stream"][0]))

    search = searcher(space, loss=blind, steps=4)
    states, _ = run(search, variables, 4)
    search.structure(states[3])  # on the way there it is not known yet
    with pytest.raises(UserError, match="nothing was learned of which elements of group 'wide' matter") as error:
        search.structure(states[4])
    assert "Limits(freeze=('wide',))" in str(error.value)
    judged = searcher(space, loss=blind, steps=4, strategy=MultipleElement())
    assert judged.structure(run(judged, variables, 4)[0][-1]).kept["wide"]
    alone = searcher(space, loss=blind, steps=4, limits=Limits(freeze="wide"), budget={"macs": 0.9})
    assert len(alone.structure(run(alone, variables, 4)[0][-1]).kept["wide"]) == 12
