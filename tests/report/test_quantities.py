import pytest

from dms_jax.report import quantities


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (11_203, "11.2 k"),
        (999_949, "1.00 M"),
        (40_812_345, "40.8 M"),
        (4_089_184_256, "4.09 G"),
        (99_950_000, "100 M"),
    ],
)
def test_count(value, text):
    assert quantities.count(value).replace("\u202f", " ") == text


@pytest.mark.parametrize(("value", "text"), [(1, "100 %"), (0.0398, "3.98 %"), (0, "0 %"), (0.00012, "0.0120 %")])
def test_share(value, text):
    assert quantities.share(value).replace("\u202f", " ") == text


def test_quality():
    plain = quantities.quality(0.9833, 0.0067, "%").replace("\u202f", " ").replace("\u00a0", " ")
    assert plain == "98.33 ± 0.67 %"
    assert quantities.quality(1.0, None, "%").replace("\u202f", " ") == "100.00 %"
    assert quantities.quality(None, None, "%") == "–"


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14, "3.1 s"), (59.99, "1 min 0 s"), (192.4, "3 min 12 s"), (7322, "2 h 2 min")]
)
def test_duration(seconds, text):
    assert quantities.duration(seconds) == text


def test_without_controls():
    assert quantities.without_controls("a\x00\u202eb\u202f\n") == "a\ufffd\ufffdb\u202f\n"
