"""Evaluation gives the same digits on two ranks as on one, whatever images each has, and training takes the same steps.

`test_exactness` has whole runs of `train.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks import CASES, SIZES, UNREADABLE, image_id, of_rank_one
from trained import CUT, KINDS, STEPS


def answers_of(folder: Path, *case: str) -> dict[str, dict]:
    """The results of each rank: "1_0" is rank 0 of one, "2_1" is rank 1 of two."""
    command = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(folder), *case]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("1_0", "2_0", "2_1")}


@pytest.fixture(scope="module", params=[pytest.param((), id="all", marks=pytest.mark.slow)])
def answers(request, tmp_path_factory) -> dict[str, dict]:
    """All results; whatever looks at them is slow."""
    return answers_of(tmp_path_factory.mktemp("ranks"), *request.param)


def test_two_ranks_score_as_one(tmp_path):
    """One of the cases below, for a fast run."""
    assert_two_ranks_score_as_one(answers_of(tmp_path, "plain 7"), "plain 7")


@pytest.mark.parametrize("case", [f"{kind} {number}" for kind, number in CASES])
def test_two_ranks_score_as_one_to_the_last_digit(answers, case):
    assert_two_ranks_score_as_one(answers, case)


def assert_two_ranks_score_as_one(answers, case):
    one, two, other = (answers[name][case] for name in ("1_0", "2_0", "2_1"))
    for key in ("scalars", "per_class", "losses", "logged", "scored", "predictions"):
        assert two[key] == one[key], key
    for key in ("scalars", "per_class", "losses", "logged"):
        assert other[key] == one[key], f"{key} on rank 1"
    assert one["losses"].keys() == {"loss", "loss_cls", "loss_box", "loss_centerness"}
    assert {f"val/{name}" for name in (*one["scalars"], *one["losses"])} <= one["logged"].keys()


def test_what_is_equal_on_all_ranks_is_not_reduced_between_them_again(answers):
    """Each reduction is a round over all ranks, for every class at every validation; one is Lightning's own, which
    compares the lengths of loaders."""
    for name in ("2_0", "2_1"):
        of_rank = [answers[name][f"{kind} {number}"] for kind, number in CASES]
        assert [one["reductions"] for one in of_rank] == [1] * len(CASES)
        assert [one["warned"] for one in of_rank] == [[]] * len(CASES)


def test_a_rank_logs_what_others_do_not_and_each_value_as_it_is(answers):
    alone, rank_0, rank_1 = (answers[name]["lopsided"]["logged"] for name in ("1_0", "2_0", "2_1"))
    assert rank_0 == alone
    assert rank_0.keys() - rank_1.keys() == {"val/of_rank_0"}
    assert [rank_0[f"val/{name}"] for name in ("nan", "none", "own")] == ["nan", "-1.0", "-2.0"]
    assert [rank_1[f"val/{name}"] for name in ("nan", "none", "own")] == ["nan", "-1.0", "-3.0"]


def test_two_ranks_score_a_classifier_as_one_to_the_last_digit(answers):
    one, two, other = (answers[name]["classifier"] for name in ("1_0", "2_0", "2_1"))
    assert two == one
    for key in ("scalars", "per_class", "losses"):
        assert other[key] == one[key], f"{key} on rank 1"
    assert one["scalars"].keys() == {"top1", "top5"}
    assert 0 < one["scalars"]["top5"] < 1
    assert (one["scalars"]["top5"] * 13).is_integer()
    assert sum(row["num_images"] for row in one["per_class"].values()) == 13
    assert list(one["skipped"]) == ["3"]


@pytest.mark.parametrize("number", SIZES)
def test_two_ranks_count_confusions_and_score_proposals_as_one_to_the_last_digit(answers, number):
    """The second rank has a copy of one image, which does not count."""
    one, two, other = (answers[name][f"two stages {number}"] for name in ("1_0", "2_0", "2_1"))
    assert two == other == one
    assert np.sum(one["confusions"]["rpn"]) == 64 * number
    assert np.shape(one["confusions"]["roi_head"]) == (3, 3)
    assert np.count_nonzero(one["confusions"]["rpn"]) == 4
    assert np.count_nonzero(one["confusions"]["roi_head"]) >= 5
    assert 0 < one["scalars"]["AR100_proposals"] < one["scalars"]["AR1000_proposals"] <= 1


@pytest.mark.parametrize("number", SIZES)
def test_each_image_is_scored_once_whichever_rank_has_it(answers, number):
    one, two, other = (answers[name][f"plain {number}"] for name in ("1_0", "2_0", "2_1"))
    expected = [image_id(row) for row in range(number)]
    assert two["scored"] == one["scored"] == expected
    assert sorted(one["seen"]) == expected
    # a rank without an image gets a copy; no other image is seen twice
    assert sorted(two["seen"] + other["seen"]) == ([10, 10] if number == 1 else expected)
    index = two["predictions"][0]
    assert set(index) == set(range(number))
    assert max(index.count(row) for row in range(number)) <= 100


@pytest.mark.parametrize("number", SIZES)
def test_unreadable_images_are_listed_and_not_scored(answers, number):
    one, two, other = (answers[name][f"images cannot be read {number}"] for name in ("1_0", "2_0", "2_1"))
    unread = [image_id(row) for row in UNREADABLE[number]]
    assert list(one["skipped"]) == list(two["skipped"]) == [str(image_id) for image_id in unread]
    assert all("is empty" in reason for reason in two["skipped"].values())
    assert one["scored"] == [image_id(row) for row in range(number) if row not in UNREADABLE[number]]
    assert not set(unread) & set(two["seen"] + other["seen"])


def test_unreadable_images_of_a_prediction_are_known_to_rank_0(answers):
    one, two, other = (answers[name]["predicted"] for name in ("1_0", "2_0", "2_1"))
    unread = [image_id(row) for row in UNREADABLE[7]]
    assert one["skipped"] == [str(image_id) for image_id in unread]
    assert set(two["skipped"]) == set(one["skipped"]) > set(other["skipped"])
    assert sorted(two["found"] + other["found"]) == sorted(one["found"])
    assert one["found"] == [image_id(row) for row in range(7) if image_id(row) not in unread]


def test_the_compared_numbers_are_not_trivial(answers):
    """The truth has objects, some of them are detected, and every case has a score of its own."""
    scores = {
        case: answers["1_0"][case]["scalars"]["AP50"]
        for case in answers["1_0"]
        if case not in ("error", "classifier", "lopsided", "predicted") and not case.startswith("trained")
    }
    assert all(0 < scores[f"plain {number}"] < 1 for number in SIZES)
    assert scores["one rank finds nothing 1"] == 0
    assert scores["one rank has no objects 1"] == -1
    for number in (3, 7):
        assert 0 < scores[f"one rank finds nothing {number}"] < 1
        assert 0 < scores[f"one rank has no objects {number}"] < 1


@pytest.mark.parametrize("number", [3, 7])
@pytest.mark.parametrize("kind", ["one rank finds nothing", "one rank has no objects"])
def test_the_images_without_objects_or_detections_are_on_one_rank(answers, kind, number):
    ids = [image_id(row) for row in of_rank_one(number)]
    assert answers["2_1"][f"{kind} {number}"]["seen"] == ids
    if kind == "one rank finds nothing":
        found = {image_id(row) for row in answers["2_0"][f"{kind} {number}"]["predictions"][0]}
        assert found == {image_id(row) for row in range(number)} - set(ids)


def test_an_error_in_scoring_reaches_all_ranks(answers):
    assert {name: answers[name].get("error") for name in answers} == dict.fromkeys(answers, "no score today")


LOSSES = {"retinanet": {"loss", "loss_cls", "loss_box"}, "rpn": {"loss", "loss_rpn_cls", "loss_rpn_loc"}}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_as_one(answers, kind):
    one, two, other = (answers[name][f"trained {kind}"]["whole"] for name in ("1_0", "2_0", "2_1"))
    assert two == other
    assert len(one["losses"]) == len(two["losses"]) == STEPS
    assert one["losses"][0].keys() == LOSSES[kind]
    for a, b in zip(one["losses"], two["losses"], strict=True):
        assert b == pytest.approx(a, rel=1e-5)
    for name in LOSSES[kind]:  # it does train
        assert len({losses[name] for losses in one["losses"]}) == STEPS


@pytest.mark.parametrize("rank", ["1_0", "2_0", "2_1"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_resumed_within_an_epoch_goes_on_bit_for_bit(answers, kind, rank):
    whole, resumed = (answers[rank][f"trained {kind}"][run] for run in ("whole", "resumed"))
    assert resumed["losses"] == whole["losses"][CUT:]
    assert resumed["weights"] == whole["weights"]
