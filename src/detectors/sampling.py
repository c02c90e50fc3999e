"""The random part of a two-stage detector: drawing the anchors and regions in its losses."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detectors.losses import BACKGROUND, IGNORED

_WORD = 2**32 - 1


def uniform_noise(seeds: Sequence[int | None], num: int, device: torch.device) -> Float[Tensor, "B num"]:
    """Draws numbers in [0, 1) for each image from its seed alone: no other image and no rank changes them.

    An image without a seed is ignored; its numbers are negative, so that none is drawn.
    """
    generator = torch.Generator(device)

    def of_image(seed: int | None) -> Tensor:
        if seed is None:
            return torch.full((num,), -1.0, device=device)
        return torch.rand(num, generator=generator.manual_seed(seed), device=device)

    return torch.stack([of_image(seed) for seed in seeds])


def keyed_noise(seeds: Sequence[int | None], keys: Int[Tensor, "B num"]) -> Float[Tensor, "B num"]:
    """Gives numbers in [0, 1) that follow from an image's seed and a key of 32 bits alone, wherever the key stands.

    Without a seed as `uniform_noise`. Seeds are hashed in as scalars, so that nothing waits for the device.
    """

    def of_image(seed: int | None, keys: Tensor) -> Tensor:
        if seed is None:
            return torch.full(keys.shape, -1.0, device=keys.device)
        for word in (seed & _WORD, seed >> 32 & _WORD):
            keys = _hashed(keys ^ word)
        return (keys >> 8).float() / 2**24  # as many bits as a float32 between 0 and 1 has

    return torch.stack([of_image(seed, row) for seed, row in zip(seeds, keys, strict=True)])


def _hashed(x: Int[Tensor, " num"]) -> Int[Tensor, " num"]:
    """A permutation of the numbers of 32 bits, of hash-prospector's search; int64 holds each of its products."""
    x = (x ^ x >> 16) * 0x21F0AAAD & _WORD
    x = (x ^ x >> 15) * 0x735A2D97 & _WORD
    return x ^ x >> 15


@torch.no_grad()
def balanced_sample(
    labels: Int[Tensor, "B R"], noise: Float[Tensor, "B R"], *, num_samples: int, positive_fraction: float
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Rows drawn from each image, and their labels (arXiv 1506.01497, section 3.1.3, "Training RPNs").

    At most `positive_fraction` of the samples have a class; background fills the rest. An image with too few
    of both has fewer: its last rows are labelled IGNORED. The rows of largest noise are drawn, none of negative noise,
    and come in that order, whatever theirs was; nothing waits for the device.
    """
    num_rows = labels.shape[1]
    most = min(int(num_samples * positive_fraction), num_rows)
    drawn, row = torch.where(labels >= 0, noise, -1.0).topk(most)
    order = torch.where(labels == BACKGROUND, noise, -1.0)
    order = order.scatter(1, row, torch.where(drawn >= 0, drawn + 1, order.gather(1, row)))  # before all background
    rank, row = order.topk(min(num_samples, num_rows))
    return row, torch.where(rank >= 0, labels.gather(1, row), IGNORED)


def check_sampling(what: str, num_samples: int, positive_fraction: int | float) -> None:
    if num_samples < 1 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            f"num_samples={num_samples}, positive_fraction={positive_fraction} of {what}: expected 1 or more, and a "
            "share between 0 and 1"
        )
