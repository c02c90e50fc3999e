import numpy as np

from evaluation.wording import counted


def test_plurals_follow_their_number() -> None:
    assert [counted(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert counted(np.count_nonzero([1, 0]), "image") == "1 image"
