"""Ids of images that are text, and files whose two sides have ids of different kinds."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_coco import annotation, everywhere, image, sound_coco, write_content
from tiny_data import coco, write_coco, write_json

from datamodules.errors import DataError
from evaluation.results import read_predictions, write_predictions
from evaluation.truth import Predictions

NAMES = ("0000001_02999_d_0000005", "9999938_00000_d_0000137")


def texts(number: Any) -> Any:
    """Ids as converters of VisDrone write them."""
    return {10: NAMES[1], 20: NAMES[0]}.get(number, number)


def test_ids_of_text_go_through_loaders_and_results_as_they_were(tmp_path: Path) -> None:
    write_content(tmp_path, everywhere(texts, "id", "image_id"))
    data = coco(tmp_path, batch_size=1)
    data.setup()
    truth = data.truth("train")
    assert truth.image_ids.tolist() == [NAMES[1], NAMES[0]]
    for loader in (data.val_dataloader(), data.train_dataloader()):
        infos = [info for batch in loader for info in batch.infos]
        assert {info.image_id for info in infos} == set(NAMES)
        assert all(type(info.image_id) is str for info in infos)
    np.testing.assert_array_equal(data.image("train", NAMES[0]), data.image("train", truth.image_ids[1]))
    found = Predictions(np.array([1, 0]), truth.boxes[::-1], np.array([0.9, 0.8]), np.array([1, 1]))
    write_predictions(tmp_path / "found.json", truth, found)
    assert [entry["image_id"] for entry in json.loads((tmp_path / "found.json").read_text())] == [*NAMES]
    assert read_predictions(tmp_path / "found.json", truth).image_index.tolist() == [1, 0]


def test_a_bad_box_names_its_image_by_text(tmp_path: Path) -> None:
    content = everywhere(texts, "id", "image_id")
    content["annotations"][0]["bbox"] = [1, 1, -2, 3]
    write_content(tmp_path, content)
    with pytest.raises(DataError, match=rf"annotation 1 of image '{NAMES[1]}', train_0\.png \(60 x 40\), bbox"):
        coco(tmp_path).setup()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda content: [entry.update(id=str(entry["id"])) for entry in content["images"]],
            "its images have text as ids ('10', '20'), its annotations name them by integers (10, 20)",
        ),
        (
            lambda content: [entry.update(image_id=str(entry["image_id"])) for entry in content["annotations"]],
            "its images have integers as ids (10, 20), its annotations name them by text ('10', '20')",
        ),
        (
            lambda content: [entry.update(category_id="7") for entry in content["annotations"]],
            "its categories have integers as ids (7, 3), its annotations name them by text ('7')",
        ),
    ],
)
def test_ids_as_text_on_one_side_only_are_said_in_one_line(
    tmp_path: Path, on_error: str, change: Any, says: str
) -> None:
    content = sound_coco()
    change(content)
    file = write_content(tmp_path, content)
    with pytest.raises(DataError, match=f"^{re.escape(f'{file}: {says}')}; write the same on both sides$"):
        coco(tmp_path, on_error=on_error).setup()


def test_an_integer_among_texts_is_the_one_that_is_named(tmp_path: Path) -> None:
    content = everywhere(texts, "id", "image_id")
    content["images"].append(image(id=30, file_name="train_2.png"))
    write_content(tmp_path, content)
    with pytest.raises(
        DataError, match=r"(?s)1 problem in .*image 30, .*an integer as `id`, where others have a text"
    ) as error:
        coco(tmp_path).setup()
    assert NAMES[0] not in str(error.value)


def test_files_of_either_kind_cannot_be_joined(tmp_path: Path) -> None:
    write_content(tmp_path, everywhere(texts, "id", "image_id"))
    write_coco(tmp_path, [(40, 60)], [[[1, 1, 9, 9]]], split="more")
    with pytest.raises(DataError, match=rf"instances_more\.json has other image ids than .*first is '{NAMES[1]}'"):
        coco(tmp_path, train_split="train+more", val_split="train").setup()
    write_json(tmp_path, {**sound_coco(), "images": [], "annotations": []}, "none")
    coco(tmp_path, train_split="train+none", val_split="train", test_split=None).setup()


def test_the_kind_of_an_id_is_part_of_it(tmp_path: Path) -> None:
    """Annotations that name one image by a number and one by a text: the second names none."""
    content = sound_coco()
    content["annotations"] = [annotation(id=1, image_id=10.0), annotation(id=2, image_id="20")]
    write_content(tmp_path, content)
    with pytest.raises(
        DataError, match=r"(?s)1 problem in .*whose ids are integers: 1.*annotation 2 of image '20'"
    ) as error:
        coco(tmp_path).setup()
    assert "annotation 1 " not in str(error.value)
