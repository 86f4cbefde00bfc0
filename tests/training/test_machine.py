import platform
from pathlib import Path

import jax
import pytest

from dms_jax import hardware
from dms_jax.training.machine import machine


def test_names_what_a_reader_needs_to_judge_a_time():
    text = machine()
    assert f"JAX {jax.__version__}" in text
    assert f"Python {platform.python_version()}" in text
    assert f"{jax.devices()[0].device_kind} x {jax.device_count()}" in text
    assert " cores, " in text and "\n" not in text


@pytest.mark.parametrize(
    "content, expected",
    [
        ("processor : 0\nmodel name\t: A: fast one\nmodel name\t: A: fast one\n", "A: fast one"),
        ("processor : 0\nBogoMIPS : 50.00\n", platform.machine()),
        (None, platform.processor() or platform.machine()),
    ],
)
def test_processors_without_a_name_have_an_architecture(content, expected, monkeypatch):
    def read(self):
        if content is None:
            raise FileNotFoundError(self)
        return content

    monkeypatch.setattr(hardware, "Path", type("Fake", (type(Path()),), {"read_text": read}))
    assert machine().startswith(f"{expected}, ")
