"""Networks on sequences, of Linen modules."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.networks.linen_building import build
from tests.networks.network import Network, tokens, vectors

VOCABULARY = 11


class MLP(nn.Module):
    hidden: int
    deterministic: bool

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dropout(0.1, deterministic=self.deterministic)(nn.Dense(x.shape[-1])(y))


class Layer(nn.Module):
    """Attention to itself, to `memory` if there is one, and an MLP; norms come first."""

    heads: int
    hidden: int
    deterministic: bool
    causal: bool = True

    @nn.compact
    def __call__(self, x, memory=None):
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        y = nn.LayerNorm()(x)
        x = x + self.attention("attention")(y, y, mask=mask)
        if memory is not None:
            x = x + self.attention("cross")(nn.LayerNorm()(x), memory)
        return x + MLP(self.hidden, self.deterministic)(nn.LayerNorm()(x))

    def attention(self, name):
        return nn.MultiHeadDotProductAttention(
            self.heads, dropout_rate=0.1, deterministic=self.deterministic, name=name
        )


class TiedLanguageModel(nn.Module):
    width: int = 16

    @nn.compact
    def __call__(self, ids, deterministic: bool = True):
        embed = nn.Embed(VOCABULARY, self.width, name="embed")
        positions = self.param("positions", nn.initializers.normal(), (1, ids.shape[1], self.width))
        x = nn.Dropout(0.1, deterministic=deterministic)(embed(ids) + positions)
        for index in range(2):
            x = Layer(4, 24, deterministic, name=f"layer{index}")(x)
        return embed.attend(nn.LayerNorm()(x))


class EncoderDecoder(nn.Module):
    width: int = 12

    @nn.compact
    def __call__(self, source, target, deterministic: bool = True):
        embed = nn.Embed(VOCABULARY, self.width, name="embed")
        memory = embed(source) + _sinusoids(source.shape[1], self.width)
        memory = nn.LayerNorm()(Layer(3, 20, deterministic, causal=False, name="encoder")(memory))
        x = embed(target) + _sinusoids(target.shape[1], self.width)
        x = Layer(3, 20, deterministic, name="decoder")(x, memory)
        return nn.Dense(VOCABULARY, use_bias=False)(nn.LayerNorm()(x))


class ScannedLayer(nn.Module):
    deterministic: bool

    @nn.compact
    def __call__(self, x, _):
        return Layer(2, 20, self.deterministic)(x), None


class ScannedTransformer(nn.Module):
    depth: int = 3

    @nn.compact
    def __call__(self, ids, deterministic: bool = True):
        x = nn.Embed(VOCABULARY, 8)(ids)
        layers: Any = nn.scan(
            nn.remat(ScannedLayer, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
        )
        x, _ = layers(deterministic, name="layers")(x, None)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        for width in (10, 8):
            x = nn.RNN(nn.OptimizedLSTMCell(width))(x)
            x = nn.Dropout(0.1, deterministic=deterministic)(x)
        return nn.Dense(5)(x)


class StateSpace(nn.Module):
    """Diagonal linear recurrences, by a parallel prefix sum, between gated projections."""

    states: int = 12

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        for index in range(2):
            x = x + nn.Dropout(0.1, deterministic=deterministic)(self.mix(nn.LayerNorm()(x), index))
        return nn.Dense(5)(x)

    def mix(self, x, index):
        u, gate = jnp.split(nn.Dense(2 * self.states)(x), 2, axis=-1)
        decay = nn.sigmoid(self.param(f"decay{index}", nn.initializers.normal(), (self.states,)))
        step = nn.softplus(nn.Dense(self.states)(x))
        rates = jnp.exp(-step * decay)

        def compose(left, right):
            return left[0] * right[0], left[1] * right[0] + right[1]

        _, h = jax.lax.associative_scan(compose, (rates, step * u), axis=1)
        return nn.Dense(x.shape[-1])(h * nn.silu(gate))


def _sinusoids(length: int, width: int) -> jax.Array:
    angles = jnp.arange(length)[:, None] / 50.0 ** (jnp.arange(width // 2) / (width // 2))[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[None]


TRAIN = {"deterministic": False}


def tied_lm() -> Network:
    return build("tied_lm", TiedLanguageModel(), tokens(2, 7, VOCABULARY), train=TRAIN)


def encoder_decoder() -> Network:
    ids = tokens(2, 13, VOCABULARY)
    return build("encoder_decoder", EncoderDecoder(), ids[:, :7], ids[:, 7:], train=TRAIN)


def scan_remat() -> Network:
    return build("scan_remat", ScannedTransformer(), tokens(2, 7, VOCABULARY), train=TRAIN)


def lstm() -> Network:
    return build("lstm", LSTM(), vectors(3, 6, 7), train=TRAIN)


def state_space() -> Network:
    return build("state_space", StateSpace(), vectors(2, 8, 10), train=TRAIN)
