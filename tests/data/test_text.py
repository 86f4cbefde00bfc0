import builtins
import json
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.data import text


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"document {i} " * 5)
    return tmp_path


def whole(windows):
    """The tokens of all windows, each once."""
    tokens = windows["tokens"]
    return bytes([*tokens[:, :-1].reshape(-1), tokens[-1, -1]])


def test_the_standard_library():
    split = text.load(None, text.byte_tokens(), 64)
    assert split.train["tokens"].dtype == np.uint8 and split.train["tokens"].shape[1] == 65
    assert len(split.train["tokens"]) > 50_000 and len(split.test["tokens"]) > 5_000
    assert split.name.startswith("source of the standard library of Python 3.") and split.vocabulary == 256
    names = [document.name for document in text.documents(None)]
    assert "argparse.py" in names and "json/decoder.py" in names and names == sorted(names, key=lambda n: Path(n))
    assert not any(part in name.split("/") for name in names for part in ("test", "tests", "site-packages"))


def test_documents_are_in_one_half(folder):
    split = text.load(folder, text.byte_tokens(), 16)
    train, test = whole(split.train), whole(split.test)
    for i in range(40):
        document = (f"document {i} " * 5).encode() + b"\0"
        assert (document[:-30] in train) != (document[:-30] in test)
        assert (document[:-30] in test) == text.is_test(f"{i:02}.txt")


def test_the_split_does_not_depend_on_what_else_is_there(folder):
    before = {d.name for d in text.documents(folder) if text.is_test(d.name)}
    (folder / "more.txt").write_text("more")
    assert before == {d.name for d in text.documents(folder) if text.is_test(d.name)} - {"more.txt"}
    assert 1 <= len(before) <= 12
    assert 80 < sum(text.is_test(f"{i}") for i in range(1000)) < 120


def test_test_documents_of_their_own(folder, tmp_path):
    other = tmp_path / "held.text"
    other.write_text("held out " * 10)
    split = text.load(folder, text.byte_tokens(), 16, test=other)
    assert whole(split.test) in b"held out " * 10 + b"\0"
    assert len(whole(split.train)) > 40 * 55


@hypothesis.given(st.lists(st.binary(max_size=30), min_size=1, max_size=6), st.integers(1, 12))
def test_packing_keeps_every_token_but_the_last_few(pieces, length):
    arrays = [np.frombuffer(piece, np.uint8) for piece in pieces]
    flat = b"".join(pieces)
    if len(flat) <= length:
        with pytest.raises(UserError, match="too few for a window"):
            text._windows(arrays, length, 256, "half")
        return
    windows = text._windows(arrays, length, 256, "half")
    found = whole(windows)
    assert flat.startswith(found) and len(flat) - len(found) < length
    assert windows["tokens"].shape == ((len(flat) - 1) // length, length + 1)


def test_windows_take_no_memory_and_batches_are_int32(folder):
    windows = text.load(folder, text.byte_tokens(), 16).train
    assert windows["tokens"].base is not None
    batch = text.batches(windows, 4, seed=0)
    first = batch(7)["tokens"]
    assert first.dtype == np.int32 and first.shape == (4, 17) and first.flags.writeable
    np.testing.assert_array_equal(text.batches(windows, 4, seed=0)(7)["tokens"], first)
    assert not np.array_equal(text.batches(windows, 4, seed=1)(7)["tokens"], first)


@pytest.mark.parametrize(("count", "most"), [(1, 1), (3, 8), (8, 8), (9, 4), (1000, 7)])
def test_evenly_spread_indices(count, most):
    chosen = text.evenly_spread(count, most)
    assert len(chosen) == min(count, most) and chosen[0] == 0 and (most == 1 or chosen[-1] == count - 1)
    steps = np.diff(chosen)
    assert (steps > 0).all() and (len(steps) == 0 or steps.max() - steps.min() <= 1)


def test_processes_share_a_batch(folder):
    windows = text.load(folder, text.byte_tokens(), 16).train
    whole = text.batches(windows, 6, seed=0)(3)["tokens"]
    parts = [text.batches(windows, 6, 0, (i, 3))(3)["tokens"] for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    with pytest.raises(UserError, match="a batch of 6 windows cannot be shared by 4 processes"):
        text.batches(windows, 6, 0, (0, 4))


def test_jsonl(tmp_path):
    rows = [{"id": i, "content": f"row {i} \u00e9"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = list(text.documents(tmp_path, "content"))
    assert [document.text for document in found] == [row["content"] for row in rows]
    assert found[3].name == "rows.jsonl:3"
    assert text.byte_tokens().encode(found[3].text).tobytes() == "row 3 \u00e9".encode() + b"\0"


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "n": [1, 2]}), tmp_path / "rows.parquet")
    assert [document.text for document in text.documents(tmp_path / "rows.parquet")] == ["one", "two"]
    with pytest.raises(UserError, match="no column 'body'; it has: text, n"):
        list(text.documents(tmp_path, "body"))
    with pytest.raises(UserError, match="row 0 holds 1 in column 'n'"):
        list(text.documents(tmp_path, "n"))
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="is not a parquet file"):
        list(text.documents(tmp_path / "bad.parquet"))


def test_a_tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "one": 3, "two": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(tmp_path / "tokenizer.json"))
    assert text.huggingface_tokens(tmp_path, 5).encode("two one").tolist() == [1, 4, 3]
    for token in ("</s>", {"content": "</s>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        assert text.huggingface_tokens(tmp_path / "tokenizer.json", 300).encode("two one").tolist() == [1, 4, 3, 2]
    made.enable_truncation(2)
    made.enable_padding(length=8)
    made.save(str(tmp_path / "tokenizer.json"))
    assert text.huggingface_tokens(tmp_path, 5).encode("two one").tolist() == [1, 4, 3, 2]  # whole, and nothing more
    for broken in ("{", "[]"):
        (tmp_path / "tokenizer_config.json").write_text(broken)
        with pytest.raises(UserError, match="tokenizer_config.json is not a JSON object"):
            text.huggingface_tokens(tmp_path, 5)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="knows 5 tokens, the network 4"):
        text.huggingface_tokens(tmp_path, 4)
    (tmp_path / "one.txt").write_text("one two " * 20)
    tokens = text.huggingface_tokens(tmp_path, 300)
    split = text.load(tmp_path / "one.txt", tokens, 8, test=tmp_path / "one.txt")
    assert split.train["tokens"].dtype == np.uint16 and split.vocabulary == 300
    with pytest.raises(UserError, match="is not a tokenizer"):
        text.huggingface_tokens(tmp_path / "one.txt", 300)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.txt", b"\xff\xfe", "not UTF-8 text"),
        ("a.jsonl", b'{"body": "x"}', "line 1 has no column 'text'; it has: body"),
        ("a.jsonl", b'{"text": "x"}\n[1]', "line 2 has no column 'text'; it has: list"),
        ("a.jsonl", b'{"text": "x"}\n{', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', "line 2 is not UTF-8 text"),
        ("a.jsonl", b'{"text": null}', "row 0 holds None"),
        ("a.txt", b"", "training half of .* has 1 documents with 1 tokens in all, too few for a window of 8"),
        ("a.jpg", b"", "holds no file that ends in .md"),
    ],
)
def test_bad_input_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        text.load(tmp_path, text.byte_tokens(), 8)


def test_no_source_and_no_window(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        text.load(tmp_path / "none", text.byte_tokens(), 8)
    with pytest.raises(UserError, match="windows of 0 tokens"):
        text.load(None, text.byte_tokens(), 0)


def test_one_document_cannot_be_split(tmp_path):
    name = next(f"{i}.txt" for i in range(100) if not text.is_test(f"{i}.txt"))
    (tmp_path / name).write_text("x" * 100)
    with pytest.raises(UserError, match="test half of .* has 0 documents"):
        text.load(tmp_path / name, text.byte_tokens(), 8)


@pytest.mark.parametrize("library, call", [("tokenizers", "tokenizer"), ("pyarrow", "parquet")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path, library, call):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"dms_jax\[text\]"):
        text.huggingface_tokens(tmp_path, 3) if call == "tokenizer" else list(text.documents(tmp_path))
