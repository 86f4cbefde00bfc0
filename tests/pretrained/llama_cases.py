"""Small random networks of every architecture of the Llama family, as transformers computes them.

    python -m tests.pretrained.llama_cases

writes them to `llama_reference/`: a Hugging Face directory each, with bfloat16 weights, and `logits.npy`, float32. It
needs transformers and PyTorch; the tests that read the directories do not.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = Path(__file__).parent / "llama_reference"
LENGTH = 20

_SIZES: dict[str, Any] = dict(
    vocab_size=16, hidden_size=16, num_hidden_layers=2, intermediate_size=12, rms_norm_eps=1e-5
)
_HEADS = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=12)
_ROPE = dict(rope_theta=500.0)


def _llama(**different: Any) -> tuple[str, dict[str, Any]]:
    return "llama", different


# The texts are longer than the windows and than `max_position_embeddings`.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": _llama(),
    "llama_tied_one_query": _llama(num_key_value_heads=4, tie_word_embeddings=True),
    "llama_biases": _llama(attention_bias=True, mlp_bias=True),
    "llama_linear": _llama(head_dim=8, rope_parameters=dict(rope_type="linear", factor=2.5, **_ROPE)),
    "llama_dynamic": _llama(head_dim=8, rope_parameters=dict(rope_type="dynamic", factor=2.5, **_ROPE)),
    "llama_llama3": _llama(
        head_dim=8,
        rope_parameters=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **_ROPE)
        | dict(original_max_position_embeddings=6),
    ),
    "llama_yarn": _llama(
        head_dim=8, rope_parameters=dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=6, **_ROPE)
    ),
    "mistral": ("mistral", dict(sliding_window=7)),
    "mistral_tied_no_window": ("mistral", dict(sliding_window=None, head_dim=8, tie_word_embeddings=True)),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "qwen2_tied": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(head_dim=8)),
    "qwen3_tied_biases": ("qwen3", dict(head_dim=8, tie_word_embeddings=True, attention_bias=True)),
}

SHARDED = "qwen3"  # this one is written in several files


def tokens() -> np.ndarray:
    """`[1, LENGTH]` int64."""
    return np.random.default_rng(0).integers(0, _SIZES["vocab_size"], (1, LENGTH))


def _theirs() -> tuple[Any, Any]:
    return import_module("torch"), import_module("transformers")


def network(name: str) -> Any:
    """The network of a case with random weights, float32 numbers that bfloat16 holds exactly."""
    torch, transformers = _theirs()
    architecture, different = CASES[name]
    config = transformers.AutoConfig.for_model(architecture, **{**_SIZES, **_HEADS, **different})
    made = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            drawn = 0.25 * drawn if parameter.ndim > 1 else 1 + 0.1 * drawn
            parameter.copy_(drawn.to(torch.bfloat16).to(torch.float32))
    return made


def logits(made: Any) -> np.ndarray:
    """`[1, LENGTH, vocabulary]` float32, of a network of transformers."""
    torch, _ = _theirs()
    with torch.no_grad():
        return made(torch.tensor(tokens())).logits.numpy()


def main() -> None:
    """Write all directories."""
    torch, _ = _theirs()
    for name in CASES:
        made, directory = network(name), REFERENCE / name
        expected = logits(made)
        shards = {"max_shard_size": "3KB"} if name == SHARDED else {}
        made.to(torch.bfloat16).save_pretrained(directory, **shards)
        (directory / "generation_config.json").unlink(missing_ok=True)
        np.save(directory / "logits.npy", expected)


if __name__ == "__main__":
    main()
