"""Image networks of small and standard size against transformers itself, where it is installed."""

import numpy as np
import pytest

from tests.pretrained.image_cases import SMALL, STANDARD, our_logits, tolerance
from tests.pretrained.image_reference import their_logits

pytest.importorskip("torch")
pytest.importorskip("transformers")

CASES = {**{f"small_{name}": case for name, case in SMALL.items()}, **STANDARD}


@pytest.mark.filterwarnings("ignore")  # those of other libraries, which change from version to version
@pytest.mark.parametrize("name", CASES)
def test_logits_agree(name, tmp_path):
    expected = their_logits(CASES[name], tmp_path)
    np.testing.assert_allclose(our_logits(CASES[name], tmp_path), expected, rtol=0, atol=tolerance(expected))
