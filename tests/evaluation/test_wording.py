import math

import numpy as np
import pytest

from evaluation.wording import counted, scored


def test_a_noun_follows_its_number() -> None:
    assert [counted(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert counted(np.count_nonzero([1, 0]), "image") == "1 image"


@pytest.mark.parametrize(
    ("metric", "score", "text"),
    [
        ("val/AP", 0.12345, "val/AP 12.35 %"),
        ("val/AP", 0.0, "val/AP 0.00 %"),
        ("val/AP", -1.0, "val/AP without a value (nothing to find)"),
        ("val/mAP_voc", math.nan, "val/mAP_voc without a value (nothing to find)"),
        ("val/loss_box", 0.12345, "val/loss_box 0.1235"),
    ],
)
def test_a_score_is_in_percent_only_where_it_has_a_value(metric: str, score: float, text: str) -> None:
    assert scored(metric, score) == text
