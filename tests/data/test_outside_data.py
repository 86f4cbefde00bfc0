"""Data from outside: no number wraps or saturates, no damage is a traceback, and what is left out is named."""

import io
import json
import os
import shutil
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax.data import pictures, text, tokens
from dms_jax.data.pictures import Unreadable, resize_center
from dms_jax.data.sources import Pictures, Records, as_label
from dms_jax.errors import UserError
from tests.lies import WRONG

Image = pytest.importorskip("PIL.Image")
SIZE = 6


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from(["I;16", "L"]))
def test_gray_of_16_bits_is_the_same_gray_of_8(seed, mode):
    levels = np.random.default_rng(seed).integers(0, 2**16, (SIZE, SIZE)).astype(np.uint16)
    if mode == "L":
        levels = (levels // 257 * 257).astype(np.uint16)
        image = Image.fromarray((levels // 257).astype(np.uint8))
    else:
        image = Image.fromarray(levels)
    found = resize_center(encoded(image, "PNG"), SIZE, 1.0)
    expected = np.rint(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16", "HSV", "LAB"])
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "EPS", "PPM", "ICO", "TGA", "PCX", "PDF"]
)
def test_three_formats_alone_are_decoded_and_no_mode_turns_white_or_black(kind, mode):
    draw = np.random.default_rng(0).integers(60, 190, (8, 8, 3), np.uint8)
    try:
        image = Image.fromarray(draw).convert(mode) if mode != "F" else Image.fromarray(draw[..., 0] / np.float32(255))
        content = encoded(image, kind)
    except (OSError, ValueError, KeyError, AttributeError):
        pytest.skip("Pillow does not write this")
    try:
        found = resize_center(content, 8, 1.0)
    except Unreadable as error:
        assert kind not in pictures.FORMATS or mode in ("F", "HSV", "LAB"), str(error)
    else:
        assert kind in pictures.FORMATS
        if mode not in ("1", "I", "I;16", "F"):  # nearly black already, as they are made here of 8 bits
            assert 40 < found.mean() < 210


@pytest.mark.parametrize("side", [8_193, 16_000, 60_000])
def test_a_small_file_of_many_pixels_is_not_decoded(side):
    """What a header says counts: the pixels need not be there."""
    content = bytearray(encoded(Image.new("L", (16, 16)), "PNG"))
    content[16:24] = side.to_bytes(4) * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    began = time.monotonic()
    with pytest.raises(Unreadable, match="pixels"):
        resize_center(bytes(content), SIZE, 1.0)
    assert time.monotonic() - began < 1


@hypothesis.settings(max_examples=30, deadline=5_000)
@hypothesis.given(st.integers(1, 4), st.integers(10, 200_000), st.integers(8, 300), st.booleans())
def test_a_long_thin_picture_does_not_fill_the_memory(thickness, length, size, upright):
    """Its shorter side becomes `size`, and the longer one as much more: 235 bytes would become gigabytes."""
    shape = (length, thickness) if upright else (thickness, length)
    content = encoded(Image.new("L", shape[::-1]), "PNG")
    try:
        assert resize_center(content, size, 1.0).shape == (size, size, 3)
        assert size * (size * length // thickness) <= pictures.MOST_PIXELS or length <= thickness
    except Unreadable as error:
        assert "too long to be resized" in str(error)
        assert size * (size * length // thickness) > pictures.MOST_PIXELS


@hypothesis.given(st.data())
def test_damaged_pictures_are_pixels_or_unreadable(data):
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = Image.fromarray(draw.integers(0, 256, (9, 7, 3), np.uint8))
    content = bytearray(encoded(image, data.draw(st.sampled_from(pictures.FORMATS))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        found = resize_center(content, SIZE, 0.9)
    except Unreadable as error:
        assert len(str(error)) < 400
    else:
        assert found.shape == (SIZE, SIZE, 3) and found.dtype == np.uint8


OTHER_PIXELS = [
    *(np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.uint16)),
    *(np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), "x", None),
]


@pytest.mark.parametrize("pixels", OTHER_PIXELS)
def test_pixels_of_another_type(pixels):
    with pytest.raises(Unreadable, match="pixels are|a picture is"):
        resize_center(pixels, SIZE, 1.0)


@hypothesis.given(WRONG | st.integers(-5, 40).map(np.int64) | st.integers(0, 255).map(np.uint8), st.integers(1, 30))
def test_labels_are_classes(label, classes):
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    records = Records([{"image": b"", "label": label}], "set", "image", "label", classes)
    if whole and label < classes and label < 2**63:
        assert records[0].label == label
    else:
        with pytest.raises(UserError, match=r"set \[0\] has "):
            _ = records[0]


def test_labels_in_memory_are_not_cut():
    with pytest.raises(UserError, match="no whole number"):
        _ = Pictures(np.zeros((1, 2, 2, 3), np.uint8), np.array([1.7]), "set", 4)[0]
    assert as_label(np.int32(-1), 3, "x") == -1  # not told, as TFDS has it


@hypothesis.given(st.lists(st.integers(-3, 5000), min_size=20, max_size=60), st.integers(2, 3000))
def test_numbers_of_tokens_never_wrap(numbers, vocabulary):
    made = text.Tokens("made", vocabulary, lambda _: np.array(numbers, np.int64))
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    file = folder / f"dms_jax-words-{os.getpid()}.txt"
    file.write_text("words")
    try:
        split = text.load(file, made, 5, test=file)
    except UserError as error:
        assert not all(0 <= n < vocabulary for n in numbers) and "made the number" in str(error)
    else:
        assert split.train["tokens"][0].tolist() == numbers[:6]
    finally:
        file.unlink()


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 10**7), min_size=2), st.data())
def test_a_tokenizer_knows_no_number_above_the_vocabulary(words, data):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<unk>": 0, **{word: number + 1 for word, number in words.items()}}
    vocabulary = data.draw(st.integers(1, 400) | st.just(max(words.values()) + 1))
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"dms_jax-tokenizer-{os.getpid()}.json"
    made.save(str(file))
    try:
        tokens = text.huggingface_tokens(file, vocabulary)
        assert len(words) <= vocabulary and max(words.values()) < vocabulary
        for word in words:
            assert (tokens.encode(word) < vocabulary).all()
    except UserError as error:
        assert "another network's" in str(error)
        assert max(words.values()) >= vocabulary or len(words) > vocabulary
    finally:
        file.unlink()


@hypothesis.given(WRONG)
@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_an_end_token_that_is_none(tmp_path, token):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    try:
        assert isinstance(tokens._end_token(tmp_path / "tokenizer_config.json"), str)
    except UserError as error:
        assert "tokenizer_config.json is not a JSON object" in str(error)


def documents(path):
    return [document.text for document in text.documents(path)]


def test_half_a_surrogate_pair_is_named_skipped_and_counted(tmp_path, capfd):
    rows = [json.dumps({"text": f"row {i}"}) for i in range(5000)]
    rows[7], rows[90], rows[4000] = ('{"text": "x \\ud800 y"}',) * 3
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    assert len(documents(tmp_path)) == 4997
    err = capfd.readouterr().err
    assert "rows.jsonl: row 7 (it holds half a surrogate pair" in err and "skipped 3 of 5,000 documents" in err
    (tmp_path / "rows.jsonl").write_text("\n".join(rows[:100] + ['{"text": "\\udfff"}'] * 3))
    with pytest.raises(UserError, match="5 of 103 documents cannot be read, the last is .*row 102"):
        documents(tmp_path)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    rows = pyarrow.table({"text": [f"row {i} " * 20 for i in range(2000)]})
    parquet.write_table(rows, path, row_group_size=2, compression="snappy", write_page_checksum=True)
    return path


@pytest.mark.parametrize("seed", range(60))
def test_damaged_parquet_is_named_and_counted_or_refused(seed, table, tmp_path, capfd):
    draw = np.random.default_rng(seed)
    file = Path(shutil.copy(table, tmp_path / "rows.parquet"))
    whole, data = documents(table), bytearray(file.read_bytes())
    capfd.readouterr()
    for _ in range(int(draw.integers(1, 3))):
        data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    file.write_bytes(data[: int(draw.integers(len(data)))] if seed % 6 == 0 else data)
    began = time.monotonic()
    try:
        found = documents(file)
    except UserError as error:
        assert "\n" not in str(error) and "rows.parquet" in str(error)
    else:
        err = capfd.readouterr().err
        assert found == whole or ("skipped" in err and set(found) < set(whole))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    began = time.monotonic()
    with pytest.raises(UserError):
        documents(tmp_path / name)
    with pytest.raises(UserError):
        documents(tmp_path)
    assert time.monotonic() - began < 1
