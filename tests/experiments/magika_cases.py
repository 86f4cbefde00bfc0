"""A small network in Magika's ONNX names, its wheel, and folders of files of four types."""

import dataclasses
import hashlib
import json
import zipfile

import numpy as np
import pytest

from experiments import magika_network

ONNX = pytest.importorskip("onnx", reason="of the extra magika")

TYPES = ("c", "html", "json", "python", "txt")
EXTENSIONS = {"c": ["c"], "html": ["html", "htm"], "json": ["json"], "python": ["py"], "txt": ["txt"]}
CONFIG = {"beg_size": 16, "mid_size": 0, "end_size": 16, "use_inputs_at_offsets": False, "block_size": 64,
          "padding_token": 256, "min_file_size_for_dl": 8, "target_labels_space": list(TYPES)}  # fmt: skip
WIDTH, FEATURES, TAPS, POSITIONS = 6, 12, 5, 8
SHAPES = {
    ("embed", "kernel"): (257, WIDTH),
    ("embed", "bias"): (1, 1, WIDTH),
    ("norm_positions", "scale"): (1, POSITIONS, 1),
    ("norm_positions", "bias"): (1, POSITIONS, 1),
    ("conv", "kernel"): (FEATURES, 4 * WIDTH, TAPS, 1),
    ("conv", "bias"): (1, FEATURES, 1),
    ("norm", "scale"): (1, FEATURES),
    ("norm", "bias"): (1, FEATURES),
    ("out", "kernel"): (FEATURES, len(TYPES)),
    ("out", "bias"): (1, len(TYPES)),
}


def arrays(seed=0):
    """Numbers of every parameter as ONNX has them."""
    draw = np.random.default_rng(seed)
    return {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()}


def model(of):
    """The content of an ONNX file with these arrays; its graph is not looked at."""
    stored = [
        ONNX.numpy_helper.from_array(array, magika_network.whole_name(magika_network.IN_ONNX[name]))
        for name, array in of.items()
    ]
    return ONNX.helper.make_model(ONNX.helper.make_graph([], "small", [], [], stored)).SerializeToString()


def wheel(path, content=None, config=None):
    """An archive laid out as the wheel is."""
    with zipfile.ZipFile(path, "w") as archive:
        folder = "magika/models/standard_v3_3"
        archive.writestr(f"{folder}/config.min.json", json.dumps(CONFIG if config is None else config))
        archive.writestr(f"{folder}/model.onnx", model(arrays()) if content is None else content)
        known = {name: {"extensions": extensions, "is_text": True} for name, extensions in EXTENSIONS.items()}
        archive.writestr("magika/config/content_types_kb.min.json", json.dumps(known))
    return path


def known(monkeypatch, path):
    """Make a wheel the one that is known."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(magika_network, "WHEEL", dataclasses.replace(magika_network.WHEEL, sha256=digest))


def folders(root, directories=24):
    """Directories with a file of every type each; every type has words of its own."""
    draw = np.random.default_rng(0)
    words = {name: [f"{name}{i}" for i in range(4)] for name in TYPES}
    for number in range(directories):
        folder = root / "abcdefghijklmnopqrstuvwxyz"[number]
        folder.mkdir(parents=True)
        for name in TYPES:
            text = " ".join(draw.choice(words[name], 12)) + f" {number}"
            (folder / f"file.{EXTENSIONS[name][0]}").write_text(f"\n {text}\n")
    return root
