import numpy as np
import pytest

from datamodules.sampler import EvalBatches, GlobalBatches, RankBatches, SampleKey
from datamodules.transforms import Resize

WIDE, TALL = (60, 100), (100, 60)


def batches(
    num: int = 10, tall: int = 4, batch_size: int = 4, seed: int = 0, **options: tuple[float, float]
) -> GlobalBatches:
    """Rows 1000, 1001, ...; the last `tall` of them are tall images."""
    sizes = np.array([WIDE] * (num - tall) + [TALL] * tall)
    return GlobalBatches(np.arange(num) + 1000, sizes, Resize("short_side", 64), batch_size, seed, **options)


def epoch(sampler: GlobalBatches, number: int) -> list[list[SampleKey]]:
    sampler.set_epoch(number)
    return list(sampler)


def test_order_depends_on_seed_and_epoch_and_not_on_history() -> None:
    fresh, used = batches(), batches()
    for number in (0, 1, 2):
        epoch(used, number)
    assert epoch(fresh, 1) == epoch(used, 1)
    assert epoch(fresh, 1) != epoch(fresh, 2)
    assert epoch(fresh, 1) != epoch(batches(seed=1), 1)


def test_an_epoch_shows_every_image_and_repeats_only_to_fill_a_groups_last_batch() -> None:
    found = epoch(batches(num=10, tall=3, batch_size=4), 0)
    rows = [key.row for batch in found for key in batch]
    assert len(found) == len(batches(num=10, tall=3, batch_size=4)) == 3
    assert all(len(batch) == 4 for batch in found)
    assert set(rows) == set(range(1000, 1010))
    assert len(rows) == 12


def test_wide_and_tall_images_never_share_a_batch_under_short_side() -> None:
    for number in range(5):
        for batch in epoch(batches(num=30, tall=11), number):
            assert len({key.row >= 1019 for key in batch}) == 1


def test_square_rule_does_not_group() -> None:
    sizes = np.array([WIDE] * 8 + [TALL] * 8)
    sampler = GlobalBatches(np.arange(16), sizes, Resize("square", 64), 4, 0)
    mixed = [len({key.row >= 8 for key in batch}) == 2 for batch in epoch(sampler, 0)]
    assert any(mixed)
    assert len(sampler) == 4


def test_a_data_set_smaller_than_a_batch_fills_one() -> None:
    sampler = batches(num=2, tall=0, batch_size=5)
    (batch,) = epoch(sampler, 0)
    assert [key.row for key in batch].count(1000) in (2, 3)
    assert len({key.seed for key in batch}) == 5  # the same image, but not the same sample


def test_seeds_of_all_samples_differ_and_change_with_the_epoch() -> None:
    sampler = batches(num=64, tall=20)
    seeds = [key.seed for number in (0, 1) for batch in epoch(sampler, number) for key in batch]
    assert len(set(seeds)) == len(seeds)


def test_canvas_holds_every_resized_image_of_the_global_batch_and_no_more() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(50, 400, (40, 2))
    rule = Resize("short_side", 128)
    sampler = GlobalBatches(np.arange(40), sizes, rule, 8, 0, multi_scale=(0.5, 1.0))
    for batch in epoch(sampler, 0):
        resized = [rule.sizes(sizes[[key.row]], key.resize)[0] for key in batch]
        wanted = tuple((-(-np.max(resized, axis=0) // 32) * 32).tolist())
        assert {key.canvas for key in batch} == {wanted}
        assert len({key.resize for key in batch}) > 1


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2)])
def test_slices_of_all_ranks_and_micro_batches_make_up_the_global_batch_in_order(
    world_size: int, accumulate: int
) -> None:
    wanted = epoch(batches(num=21, batch_size=8), 3)
    ranks = [RankBatches(batches(num=21, batch_size=8), rank, world_size, accumulate) for rank in range(world_size)]
    for rank in ranks:
        rank.sampler.set_epoch(3)
    streams = [list(rank) for rank in ranks]
    assert all(len(stream) == len(rank) for stream, rank in zip(streams, ranks, strict=True))
    for step, batch in enumerate(wanted):
        parts = [streams[r][step * accumulate + a] for a in range(accumulate) for r in range(world_size)]
        assert [key for part in parts for key in part] == batch


def test_two_ranks_accumulate_what_four_ranks_take_at_once() -> None:
    four = [list(RankBatches(batches(batch_size=8), rank, 4)) for rank in range(4)]
    two = [list(RankBatches(batches(batch_size=8), rank, 2, accumulate=2)) for rank in range(2)]
    for step in range(len(four[0])):
        assert two[0][2 * step : 2 * step + 2] == [four[0][step], four[2][step]]
        assert two[1][2 * step : 2 * step + 2] == [four[1][step], four[3][step]]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_starting_anywhere_gives_the_rest_of_the_epoch_once_and_keeps_the_length(accumulate: int) -> None:
    whole = RankBatches(batches(batch_size=4), accumulate=accumulate)
    whole.sampler.set_epoch(2)
    wanted = list(whole)
    for start in range(len(wanted) + 1):
        part = RankBatches(batches(batch_size=4), accumulate=accumulate)
        part.start_at(2, start)
        assert len(part) == len(wanted)
        assert list(part) == wanted[start:]
        assert list(part) == wanted


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(ValueError, match=r"batch_size=16.*\(3\).*\(2\).*12 or 18"):
        RankBatches(batches(batch_size=16), 0, 3, 2)
    with pytest.raises(ValueError, match=r"nearest that is: 8$"):
        RankBatches(batches(batch_size=2), 0, 8)


def evaluation(num: int, rank: int = 0, world_size: int = 1) -> EvalBatches:
    sizes = np.random.default_rng(0).integers(40, 200, (num, 2))
    return EvalBatches(np.arange(num), sizes, Resize("short_side", 64), 3, rank, world_size)


def test_evaluation_takes_each_image_once_on_a_canvas_of_its_own_size() -> None:
    sizes = np.random.default_rng(0).integers(40, 200, (50, 2))
    rule = Resize("short_side", 64)
    keys = [key for batch in evaluation(50) for key in batch]
    assert sorted(key.row for key in keys) == list(range(50))
    for key in keys:
        assert key.canvas == tuple(rule.canvases(rule.sizes(sizes[[key.row]]))[0].tolist())


def test_evaluation_batches_are_the_same_on_any_number_of_ranks() -> None:
    one = list(evaluation(50))
    assert all(len({key.canvas for key in batch}) == 1 for batch in one)
    assert max(map(len, one)) == 3
    for world_size in (2, 3):
        dealt = [list(evaluation(50, rank, world_size)) for rank in range(world_size)]
        assert sorted(batch for rank in dealt for batch in rank) == sorted(one)


def test_a_rank_without_a_batch_gets_a_copy() -> None:
    dealt = [list(evaluation(1, rank, 3)) for rank in range(3)]
    assert dealt[0] == dealt[1] == dealt[2]
    assert len(dealt[0]) == len(evaluation(1, 2, 3)) == 1
