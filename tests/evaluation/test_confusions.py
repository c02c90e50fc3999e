"""Counts of (true, predicted) pairs of a model's parts."""

import numpy as np

from evaluation.confusions import Matrix, pairs, summed

MATRIX = Matrix("animals", ("cat", "dog", "background"))


def test_samples_are_counted_by_true_and_predicted_class() -> None:
    true, said = np.array([0, 0, 0, 2, -1, 2, 1, -1]), np.array([0, 1, 0, 2, 0, 0, 1, 2])
    assert pairs(true, said).tolist() == [[0, 0, 2], [0, 1, 1], [1, 1, 1], [2, 0, 1], [2, 2, 1]]
    counts = summed(MATRIX, [pairs(true, said)]).counts
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert counts.sum(axis=1).tolist() == [(true == row).sum() for row in range(3)]


def test_counts_add_up_in_any_order_also_empty_ones() -> None:
    random = np.random.default_rng(0)
    true, said = random.integers(-1, 3, (2, 90)).clip([[-1], [0]])
    parts = [pairs(true[i : i + 30], said[i : i + 30]) for i in range(0, 90, 30)]
    parts.append(pairs(np.full(4, -1), np.zeros(4, int)))
    whole = summed(MATRIX, [pairs(true, said)]).counts
    assert whole.min() > 0
    assert summed(MATRIX, parts).counts.tolist() == summed(MATRIX, parts[::-1]).counts.tolist() == whole.tolist()
    assert summed(MATRIX, []).counts.tolist() == np.zeros((3, 3)).tolist()


def test_the_counts_of_a_batch_are_small_for_any_number_of_classes() -> None:
    random = np.random.default_rng(0)
    true, said = random.integers(0, 1000, (2, 512))
    assert pairs(true, said).nbytes <= 512 * 12
