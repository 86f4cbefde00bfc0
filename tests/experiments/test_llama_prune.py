"""The command on a tiny network of random weights: searched, shrunk, finetuned, written and read back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import Structure, export, models
from dms_jax.errors import UserError
from dms_jax.pretrained import llama as pretrained
from experiments import llama_prune
from tests.helpers import FLOAT32_LOGITS

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


def arguments(original, data, workdir, *more):
    steps = ["--steps=6", "--finetune-steps=4", "--batch=8", "--length=12", "--test-windows=8"]
    return [f"--model={original}", f"--data={data}", "--column=body", f"--workdir={workdir}", *steps, *more]


@pytest.mark.parametrize(
    "more",
    [
        ["--params=0.7"],
        ["--macs=0.6", "--tie=layers", "--pipeline=p-", "--fsdp=2"],
        ["--macs=0.6", "--tie=layers", "--pipeline=p-", "--fsdp=2", "--strategy=single", "--importance=taylor_last"],
    ],
    ids=["params", "macs tied and sharded", "a rival"],
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
    assert results["rows"][0]["name"] == "full network" and results["rows"][0]["params"] == before["params"]
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


def test_bad_input_is_one_line(original, data, tmp_path):
    for more, said in {
        ("--column=text",): "no column 'text'; it has: body",
        ("--params=2.0",): "is below",
        ("--distill=2",): "weight in",
        ("--fsdp=3",): "does not divide",
        ("--keep=nothing*",): "matches no group",
        ("--length=0",): "--length 0 is not possible",
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
