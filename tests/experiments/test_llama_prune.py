"""The command on a tiny network of random weights: searched, shrunk, finetuned, written and read back."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import Structure, export, models
from dms_jax.data import text
from dms_jax.errors import Interrupted, UserError
from dms_jax.pretrained import llama as pretrained
from dms_jax.training import latency
from experiments import llama_prune
from tests.helpers import FLOAT32_LOGITS
from tests.together import free_port, run_together

tokenizers = pytest.importorskip("tokenizers")
WORDS = [f"w{i}" for i in range(28)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A Hugging Face directory: two layers of random weights, and a tokenizer of whole words."""
    directory = tmp_path_factory.mktemp("original")
    model = models.create("llama", vocabulary=32, width=16, layers=2, heads=4, kv_heads=2, hidden=24, max_positions=64)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    vocabulary = {word: i for i, word in enumerate(["<unk>", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return export.huggingface(directory / "model", model, variables, tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty short documents in which every word follows from the one before."""
    file = tmp_path_factory.mktemp("data") / "text.jsonl"
    texts = [" ".join(WORDS[(start + 3 * i) % len(WORDS)] for i in range(40)) for start in range(40)]
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return file


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Two devices compile in half the time of eight; latency has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_prune, "make_mesh", partial(llama_prune.make_mesh, jax.devices()[:2]))
        patch.setattr(latency, "rows", lambda networks, *_: {name: {"1": 1.0, "8": 2.0} for name in networks})
        yield


def arguments(original, data, workdir, *more):
    steps = ["--steps=6", "--finetune-steps=4", "--batch=8", "--length=12", "--test-windows=8"]
    return [f"--model={original}", f"--data={data}", "--column=body", f"--workdir={workdir}", *steps, *more]


@pytest.mark.parametrize(
    "more",
    [
        ["--params=0.7", "--search-width"],
        ["--macs=0.6", "--tie=layers", "--pipeline=p-", "--fsdp=2"],
        ["--macs=0.6", "--tie=layers", "--pipeline=p-", "--fsdp=2", "--strategy=single", "--importance=taylor_last"],
    ],
    ids=["params and width", "macs tied and sharded", "a rival"],
)
def test_pruned_written_and_read_back(original, data, tmp_path, more, capsys):
    workdir = tmp_path / "run"
    llama_prune.main(arguments(original, data, workdir, *more))
    structure = Structure.load(workdir / "structure.json")
    assert structure.resources is not None
    before, after = structure.resources["before"], structure.resources["after"]
    resource, share = ("macs", 0.6) if "--macs=0.6" in more else ("params", float(more[0].split("=")[1]))
    assert after[resource] <= share * before[resource]
    results = json.loads((workdir / "results.json").read_text())
    assert results["quality"]["name"] == "perplexity" and all(row["quality"] > 1 for row in results["rows"])
    assert results["quality"]["also"] == ["bits per token"]
    assert all(2 ** row["bits per token"] == pytest.approx(row["quality"]) for row in results["rows"])
    assert '<th scope="col" class="number">bits per token</th>' in (workdir / "report.html").read_text()
    assert results["rows"][0]["name"] == "full network" and results["rows"][0]["params"] == before["params"]
    assert ("width" in structure.kept) == ("--search-width" in more)
    if "--tie=layers" in more:
        kept = [structure.kept[name] for name in structure.kept if name.endswith("hidden")]
        assert len({len(elements) for elements in kept}) == 1
    model, variables = dms_jax.load(workdir)
    tokens = np.arange(12, dtype=np.int32)[None] % 28
    logits = model.apply(variables, tokens)
    theirs, weights = pretrained.load(workdir / "huggingface")
    np.testing.assert_allclose(np.asarray(theirs.apply(weights, tokens)), np.asarray(logits), atol=FLOAT32_LOGITS)
    capsys.readouterr()
    llama_prune.main(arguments(original, data, workdir, *more))
    assert "finished already" in capsys.readouterr().out


ALONE = ["--params=0.7", "--pipeline=p-"]


@pytest.fixture(scope="module")
def alone(original, data, tmp_path_factory):
    """A finished run, never stopped, of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    llama_prune.main(arguments(original, data, workdir, *ALONE))
    return workdir


def test_stopped_and_resumed_is_never_stopped(alone, original, data, tmp_path, monkeypatch):
    make = text.batches

    def stopping(*given):
        draw = make(*given)

        def batch(step):
            if step == 3:
                signal.raise_signal(signal.SIGINT)
            return draw(step)

        return batch

    broken = arguments(original, data, tmp_path, *ALONE)
    with monkeypatch.context() as patch:
        patch.setattr(text, "batches", stopping)
        with pytest.raises(Interrupted, match="stopped search after step"):
            llama_prune.main(broken)
    llama_prune.main(broken)
    for name in ("structure.json", "metrics.jsonl", "masks.jsonl", "huggingface/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name


def test_two_processes_write_one_network(alone, original, data, tmp_path):
    """Each reads its half of every batch; parameters are cut over both."""
    port = free_port()
    hosts = [f"--coordinator=localhost:{port}", "--processes=2", "--fsdp=2"]
    job = arguments(original, data, tmp_path / "run", *ALONE, *hosts)
    first, second = run_together([["-m", "experiments.llama_prune", *job, f"--process={i}"] for i in range(2)])
    assert first.count("for transformers: ") == 1 and "for transformers" not in second
    model, variables = dms_jax.load(tmp_path / "run")
    tokens = np.arange(12, dtype=np.int32)[None] % 28
    theirs, weights = pretrained.load(tmp_path / "run" / "huggingface")
    np.testing.assert_allclose(
        np.asarray(theirs.apply(weights, tokens)), np.asarray(model.apply(variables, tokens)), atol=FLOAT32_LOGITS
    )
    ours, expected = (json.loads((path / "results.json").read_text())["rows"] for path in (tmp_path / "run", alone))
    for row, other in zip(ours, expected, strict=True):
        assert row["quality"] == pytest.approx(other["quality"], rel=0.02)  # sums in another order, ten steps long


def test_bad_input_is_one_line(original, data, tmp_path):
    for more, said in {
        ("--column=text",): "no column 'text'; it has: body",
        ("--params=2.0",): "is below",
        ("--distill=2",): "weight in",
        ("--fsdp=3",): "does not divide",
        ("--freeze=nothing*",): "matches no group",
        ("--length=0",): "--length 0 is not possible",
        ("--seed=-1",): "--seed -1 is not possible",
    }.items():
        with pytest.raises(UserError, match=said) as error:
            llama_prune.main(arguments(original, data, tmp_path / "run", *more))
        assert "\n" not in str(error.value)
    config = json.loads((original / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UserError, match="architecture 'mamba' is not supported; supported: llama"):
        llama_prune.main(arguments(other, data, tmp_path / "run"))


def test_a_tokenizer_of_another_network_and_missing_shards(original, data, tmp_path):
    config = json.loads((original / "config.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(original, other)
    (other / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "second.safetensors"}}))
    with pytest.raises(UserError, match="lacks second.safetensors of 1 weight files"):
        llama_prune.main(arguments(other, data, tmp_path / "run"))
    small = tmp_path / "small"
    model = models.create("llama", vocabulary=20, width=16, layers=2, heads=4, kv_heads=2, hidden=24, max_positions=64)
    export.huggingface(small, model, model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))
    shutil.copy(original / "tokenizer.json", small)
    with pytest.raises(UserError, match=f"knows {len(WORDS) + 1} tokens, the network 20: it is another network's"):
        llama_prune.main(arguments(small, data, tmp_path / "run"))
    assert config["vocab_size"] == 32


def test_a_budget_below_one_head_a_layer_where_no_layer_may_go(original, data, tmp_path):
    with pytest.raises(UserError, match="is below") as error:
        llama_prune.main(arguments(original, data, tmp_path / "run", "--params=0.2", "--freeze", "depth"))
    assert "\n" not in str(error.value) and "smallest" in str(error.value)


def test_another_budget_pretrains_nothing(tmp_path, capsys, monkeypatch):
    tiny = partial(models.create, "llama", vocabulary=256, width=8, layers=1, heads=2, hidden=8)
    monkeypatch.setattr(llama_prune.models, "create", lambda name, **more: tiny(**more))
    steps = ["--pretrain-steps=3", "--steps=3", "--finetune-steps=2", "--batch=8", "--length=8", "--test-windows=8"]
    before = None
    for budget in ("0.9", "0.8"):
        llama_prune.main(
            [f"--macs={budget}", *steps, f"--workdir={tmp_path / budget}", f"--data={Path(__file__).parent}"]
        )
        (kept,) = (tmp_path / "cache").iterdir()
        written = (kept / "checkpoints").stat().st_mtime_ns, (kept / "metrics.jsonl").read_text()
        results = json.loads((tmp_path / budget / "results.json").read_text())
        assert results["rows"][0]["steps"] == 3 and results["quality"]["also"] == ["perplexity per byte"]
        if budget == "0.8":
            assert written == before
        before = written
