import pytest
import torch
from torch import Tensor

from detectors.losses import BACKGROUND, IGNORED
from detectors.sampling import balanced_sample, check_sampling, keyed_noise, uniform_noise

CPU = torch.device("cpu")


def labels_of(positives: int, background: int, ignored: int) -> Tensor:
    """Labels of one image, shuffled."""
    labels = torch.tensor([7] * positives + [BACKGROUND] * background + [IGNORED] * ignored)
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))][None]


def counts(sampled: Tensor) -> tuple[int, int, int]:
    return tuple(int(x.sum()) for x in (sampled >= 0, sampled == BACKGROUND, sampled == IGNORED))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("given", "num_samples", "fraction", "expected"),
    [
        ((50, 50, 20), 40, 0.5, (20, 20, 0)),
        ((50, 50, 20), 40, 0.25, (10, 30, 0)),
        ((50, 50, 20), 39, 0.25, (9, 30, 0)),  # 9.75 is truncated
        ((5, 100, 20), 40, 0.5, (5, 35, 0)),  # background fills the rest
        ((100, 5, 20), 40, 0.5, (20, 5, 15)),  # positives do not fill it
        ((3, 4, 100), 40, 0.5, (3, 4, 33)),
        ((0, 100, 20), 40, 0.5, (0, 40, 0)),
        ((0, 0, 50), 40, 0.5, (0, 0, 40)),
        ((10, 10, 5), 256, 0.5, (10, 10, 5)),  # more samples than rows
        ((10, 10, 5), 40, 0.25, (10, 10, 5)),
        ((10, 10, 5), 20, 1.0, (10, 10, 0)),
        ((10, 10, 5), 20, 0.0, (0, 10, 10)),
        ((1, 0, 0), 1, 0.5, (0, 0, 1)),  # half of one is truncated to none
    ],
)
def test_the_number_of_samples_of_each_kind(
    given: tuple[int, int, int], num_samples: int, fraction: float, expected: tuple[int, int, int]
) -> None:
    labels = labels_of(*given)
    for seed in range(20):
        noise = uniform_noise([seed], labels.shape[1], CPU)
        rows, sampled = balanced_sample(labels, noise, num_samples=num_samples, positive_fraction=fraction)
        assert rows.shape == sampled.shape == (1, min(num_samples, sum(given)))
        assert counts(sampled) == expected
        assert len(rows.unique()) == rows.numel()
        drawn = sampled != IGNORED
        assert torch.equal(labels.gather(1, rows)[drawn], sampled[drawn])


def test_noise_of_zero_is_sampled_like_any_other() -> None:
    labels = torch.tensor([[3, BACKGROUND, IGNORED]])
    _, sampled = balanced_sample(labels, torch.zeros(1, 3), num_samples=3, positive_fraction=0.5)
    assert counts(sampled) == (1, 1, 1)


def test_every_row_of_a_kind_is_sampled_equally_often() -> None:
    """Chi squared of 2000 samples; with 59 and 39 degrees of freedom it exceeds 110 once in 10000 or less."""
    labels, num_draws = labels_of(60, 40, 10), 2000
    noise = uniform_noise(range(num_draws), 110, CPU)
    rows, sampled = balanced_sample(labels.expand(num_draws, -1), noise, num_samples=24, positive_fraction=0.5)
    assert counts(sampled) == (12 * num_draws, 12 * num_draws, 0)
    drawn = torch.bincount(rows.flatten(), minlength=110).double()
    for kind in (labels[0] >= 0, labels[0] == BACKGROUND):
        expected = 12 * num_draws / kind.sum()
        assert ((drawn[kind] - expected) ** 2 / expected).sum() < 110
    assert drawn[labels[0] == IGNORED].sum() == 0


def test_the_samples_depend_only_on_the_images_seed() -> None:
    together = uniform_noise([5, 2**62, 5, 0], 100, CPU)
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(uniform_noise([2**62], 100, CPU)[0], together[1])
    assert together.min() >= 0
    assert together.max() < 1

    labels = torch.cat([labels_of(50, 50, 10), labels_of(0, 100, 10)])
    noise = uniform_noise([5, 6], 110, CPU)
    both = balanced_sample(labels, noise, num_samples=32, positive_fraction=0.5)
    for image in range(2):
        part = slice(image, image + 1)
        alone = balanced_sample(labels[part], noise[part], num_samples=32, positive_fraction=0.5)
        assert all(torch.equal(a, b[part]) for a, b in zip(alone, both, strict=True))


def test_sampling_does_not_change_the_global_generator() -> None:
    before = torch.get_rng_state()
    uniform_noise([1, 2], 10, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_ignored_image_has_no_sample() -> None:
    labels = torch.tensor([[0, 1, BACKGROUND, BACKGROUND, IGNORED]] * 2)
    noise = uniform_noise([None, 3], 5, torch.device("cpu"))
    _, sampled = balanced_sample(labels, noise, num_samples=4, positive_fraction=0.5)
    assert (sampled[0] == IGNORED).all()
    assert (sampled[1] != IGNORED).all()


def test_every_key_is_sampled_equally_often() -> None:
    """The same with consecutive seeds and neighbouring keys."""
    labels, num_draws = labels_of(60, 40, 10), 2000
    seeds = torch.randint(2**63 - 1, (num_draws,), generator=torch.Generator().manual_seed(0)).tolist()
    noise = keyed_noise(seeds, torch.arange(2**31 - 50, 2**31 + 60).expand(num_draws, -1))
    rows, _ = balanced_sample(labels.expand(num_draws, -1), noise, num_samples=24, positive_fraction=0.5)
    drawn = torch.bincount(rows.flatten(), minlength=110).double()
    for kind in (labels[0] >= 0, labels[0] == BACKGROUND):
        expected = 12 * num_draws / kind.sum()
        assert ((drawn[kind] - expected) ** 2 / expected).sum() < 110
    assert (noise.mean(), noise.std()) == pytest.approx((0.5, 12**-0.5), abs=0.003)
    neighbours = torch.corrcoef(torch.stack((noise[:, 1:].flatten(), noise[:, :-1].flatten())))
    assert neighbours[0, 1].abs() < 0.01


def test_the_noise_of_a_key_depends_only_on_the_seed_and_the_key() -> None:
    keys = torch.tensor([[3, 2**31, 0, 2**32 - 1], [0, 5, 2**31, 3]])
    noise = keyed_noise([2**62 + 5, 2**62 + 5], keys)
    assert torch.equal(noise[0, :3], noise[1, [3, 2, 0]])
    assert len(noise.unique()) == 5
    assert noise.min() >= 0
    assert noise.max() < 1
    for other in (5, 2**62 + 6):  # both halves of a seed matter
        assert not (keyed_noise([other], keys[:1]) == noise[0]).any()
    assert keyed_noise([None], keys[:1]).tolist() == [[-1] * 4]


def test_samples_come_in_the_order_of_their_noise_whatever_the_order_of_their_rows() -> None:
    labels = labels_of(50, 50, 10)
    noise = uniform_noise([3], 110, CPU)
    order = torch.randperm(110, generator=torch.Generator().manual_seed(1))
    rows, sampled = balanced_sample(labels, noise, num_samples=40, positive_fraction=0.5)
    again, same = balanced_sample(labels[:, order], noise[:, order], num_samples=40, positive_fraction=0.5)
    assert torch.equal(order[again[0]], rows[0])
    assert torch.equal(sampled, same)


@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"positive_fraction": 1.5}])
def test_wrong_numbers_of_samples_are_refused(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=rf"{name}={settings[name]}.* of anchors: expected"):
        check_sampling("anchors", **({"num_samples": 8, "positive_fraction": 0.5} | settings))
