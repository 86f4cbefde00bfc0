"""Logits of transformers for the networks of `image_cases`; needs PyTorch and transformers.

    python -m tests.pretrained.image_reference

writes image_reference.json.gz, which the ordinary tests compare with.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.pretrained.image_cases import CLASSES, SMALL, Case, images, write

STORED = Path(__file__).with_name("image_reference.json.gz")


def their_logits(case: Case, directory: Path) -> np.ndarray:
    """Logits `[2, CLASSES]` of transformers; `directory` then holds the weights, as transformers writes them."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    network: Any = getattr(transformers, f"{case.theirs}ForImageClassification{case.suffix}")
    config = getattr(transformers, f"{case.theirs}Config")(num_labels=CLASSES, **case.config)
    network(config).save_pretrained(directory)
    write(directory, json.loads((directory / "config.json").read_text()), stored_shapes(directory))
    with torch.no_grad():
        pixels = torch.from_numpy(images(case.size)).permute(0, 3, 1, 2)
        return network.from_pretrained(directory).eval()(pixels).logits.numpy()


def stored_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a directory."""
    with safe_open(directory / "model.safetensors", "numpy") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}


def main() -> None:
    reference = {}
    for name, case in SMALL.items():
        with tempfile.TemporaryDirectory() as folder:
            logits = their_logits(case, Path(folder))
            config = json.loads((Path(folder) / "config.json").read_text())
            shapes = {key: list(shape) for key, shape in stored_shapes(Path(folder)).items()}
            reference[name] = {"config": config, "shapes": shapes, "logits": logits.tolist()}
    STORED.write_bytes(gzip.compress(json.dumps(reference).encode(), mtime=0))


if __name__ == "__main__":
    main()
