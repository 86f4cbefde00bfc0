"""NNX modules as their authors write them, through `from_nnx`."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import jax
import pytest
from flax import nnx

from dms_jax import SearchSpace
from tests.networks.network import fill, images, relaxed, tokens, vectors
from tests.outsiders.outsider import hold

ROWS, WORDS, IMAGES = vectors(4, 6), vectors(3, 5, 6), images(4, 8)


class Block(nnx.Module):
    def __init__(self, width, hidden, rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up, self.down = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class Layers(nnx.Module):
    """A scan over layers that are made again on the way back."""

    def __init__(self, rngs):
        made = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: Block(8, 10, rngs), in_axes=(0,), out_axes=0))
        self.stem, self.layers, self.head = nnx.Linear(6, 8, rngs=rngs), made(rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        run = nnx.remat(lambda x, layer: layer(x))
        return self.head(nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(self.stem(x), self.layers))


class Ensemble(nnx.Module):
    def __init__(self, rngs):
        made = nnx.split_rngs(splits=4)(nnx.vmap(lambda rngs: nnx.Linear(6, 7, rngs=rngs), in_axes=(0,), out_axes=0))
        self.several, self.head = made(rngs), nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x):
        h = nnx.vmap(lambda one, x: nnx.relu(one(x)), in_axes=(0, None), out_axes=0)(self.several, x)
        return self.head(h.mean(0))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        forward = nnx.RNN(nnx.OptimizedLSTMCell(6, 5, rngs=rngs), rngs=rngs)
        self.both = nnx.Bidirectional(forward, nnx.RNN(nnx.GRUCell(6, 4, rngs=rngs), rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(9, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.both(x).mean(1))


class Attention(nnx.Module):
    """The mask is made of the shape of a slice: nobody reads the slice."""

    def __init__(self, rngs):
        self.stem, self.norm = nnx.Linear(6, 8, rngs=rngs), nnx.RMSNorm(8, rngs=rngs)
        self.a = nnx.MultiHeadAttention(2, 8, qkv_features=12, decode=False, rngs=rngs)
        self.b = nnx.MultiHeadAttention(2, 8, normalize_qk=True, use_bias=False, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        x = x + self.a(self.norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return self.head((x + self.b(x)).mean(1))


class Convolutions(nnx.Module):
    def __init__(self, rngs):
        self.a, self.norm = nnx.Conv(3, 8, (3, 3), padding="CIRCULAR", rngs=rngs), nnx.GroupNorm(8, 4, rngs=rngs)
        self.b = nnx.Conv(8, 12, (3, 3), strides=2, feature_group_count=4, rngs=rngs)
        self.c = nnx.ConvTranspose(12, 6, (2, 2), strides=2, rngs=rngs)
        self.d = nnx.WeightNorm(nnx.Conv(6, 5, (3, 3), rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.a(x)))
        for layer in (self.b, self.c, self.d):
            x = nnx.relu(layer(x))
        return self.head(nnx.max_pool(x, (2, 2), strides=(2, 2)).mean((1, 2)))


class Tied(nnx.Module):
    """An embedding that is read both ways, one block in two places, and a small correction beside a layer."""

    def __init__(self, rngs):
        self.embedding, self.block = nnx.Embed(11, 8, rngs=rngs), Block(8, 9, rngs)
        self.again, self.lora = self.block, nnx.LoRALinear(8, 8, lora_rank=4, rngs=rngs)

    def __call__(self, x):
        return self.embedding.attend(nnx.relu(self.lora(self.again(nnx.relu(self.block(self.embedding(x)))))))


class General(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.LinearGeneral(6, (3, 4), rngs=rngs)
        self.b = nnx.LinearGeneral((3, 4), (2, 5), axis=(-2, -1), rngs=rngs)
        self.c, self.act = nnx.Einsum("btij,ijk->btk", (2, 5, 7), (7,), rngs=rngs), nnx.PReLU()
        self.d, self.e = nnx.Linear(7, 6, rngs=rngs), nnx.Linear(7, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.c(self.act(self.b(nnx.relu(self.a(x)))))
        x = nnx.cond(x.sum() > 0, lambda m, x: m.d(x), lambda m, x: m.e(x), self, x)
        return self.head(nnx.relu(x))


PROGRAMS = {
    "layers": (Layers, ROWS, {"stem": 8, "layers/up": 10, "layers/depth": 3}),
    "ensemble": (Ensemble, ROWS, {"several": 7, "several#2": 4}),
    "recurrent": (
        Recurrent,
        WORDS,
        {"both/forward_rnn/cell/dense_i/part0": 5, "both/backward_rnn/cell/dense_i/part0": 4},
    ),
    "attention": (Attention, WORDS, {"stem": 8, "a/heads": 2, "b/heads": 2, "depth": 2}),
    "convolutions": (Convolutions, IMAGES, {"a/part1": 2, "b/part1": 3, "c": 6, "d/layer_instance": 5}),
    "tied": (Tied, tokens(2, 5, 11), {"again/down": 8, "again/up": 9, "lora/lora": 4, "depth": 2}),
    "general": (General, WORDS, {"a": 3, "a#2": 4, "b": 2, "b#2": 5, "c": 7, "e": 6}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    make, x, groups = PROGRAMS[name]
    model = relaxed(make)(nnx.Rngs(0))
    nnx.update(model, fill(nnx.state(model)))
    space = relaxed(SearchSpace.from_nnx)(model, x)
    hold(space, space.source.params, (x,), groups)


class Training(nnx.Module):
    """Batch statistics, dropout, a vector that power iterations alone read, and a head for training alone."""

    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.drop, self.up = nnx.Dropout(0.3, rngs=rngs), nnx.SpectralNorm(nnx.Linear(6, 7, rngs=rngs), rngs=rngs)
        self.head, self.auxiliary = nnx.Linear(7, 3, rngs=rngs), nnx.Linear(7, 2, rngs=rngs)

    def __call__(self, x, train=False):
        x = self.up(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))
        return (self.head(x), self.auxiliary(x)) if train else self.head(x)


def test_training_that_the_space_was_not_told_of():
    model = Training(nnx.Rngs(0))
    nnx.update(model, fill(nnx.state(model)))
    graphdef = nnx.graphdef(model)

    def train(params, x, key):
        network = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, params))
        return network(x, train=True), nnx.state(network, nnx.BatchStat)

    space = relaxed(SearchSpace.from_nnx)(model, IMAGES)
    assert space.owners(space.leaves["auxiliary/kernel"].axes[0]) == ["up/layer_instance"]
    hold(space, space.source.params, (IMAGES,), {"conv": 6, "up/layer_instance": 7}, train)
