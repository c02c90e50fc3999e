"""Every COCO annotation is read correctly, or named with file, number and remedy, and skipped where asked for."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_coco import (
    BAD_CATEGORIES,
    BAD_ENTRIES,
    BAD_IMAGES,
    BAD_JSON,
    GOOD_JSON,
    NO_FILES,
    Kept,
    changed,
    sound_coco,
    write_content,
)
from corpus_voc import SOUND, write_xml, xml
from reading import REMEDY, boxes_by_image, read, refused, skipped
from tiny_data import coco, voc, write_coco, write_image

from detectors.backbones.mobilenet import MobileNetV2
from detectors.fcos import FCOS, FCOSLoss


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_wrong_stated_size_is_found_when_the_image_is_read(tmp_path: Path, kind: str) -> None:
    """Set-up opens no image whose size is stated: with 118 287 of them it would take minutes."""
    if kind == "voc":
        write_xml(tmp_path, xml(SOUND, "<size><width>44</width><height>33</height></size>"))
    else:
        write_content(tmp_path, changed("images.1.height", 44))
    data = voc(tmp_path) if kind == "voc" else coco(tmp_path)
    read(data)
    says = "40 x 30 pixels, but its annotation says 44 x 33" if kind == "voc" else "60 x 40 .* says 60 x 44"
    with pytest.raises(ValueError, match=rf"{says}; correct the annotation, or set data\.on_error=skip"):
        list(data.val_dataloader())
    data = voc(tmp_path, on_error="skip") if kind == "voc" else coco(tmp_path, on_error="skip")
    unread = [info for batch in data.val_dataloader() for info in batch.unread]
    assert [info.image_id for info in unread] == ["x" if kind == "voc" else 20]
    assert re.search(says, str(unread[0].error))


@pytest.mark.parametrize("kept", GOOD_JSON.values(), ids=GOOD_JSON)
def test_coco_json_in_any_form_is_read(tmp_path: Path, kept: Kept) -> None:
    write_content(tmp_path, kept.content)
    truth = read(coco(tmp_path), kept.filled)
    assert boxes_by_image(truth) == kept.boxes
    assert truth.sizes.tolist() == [[40, 60]] * 2
    assert truth.crowd.tolist() == list(kept.crowd)
    assert set(truth.labels.tolist()) == {1}
    assert np.isfinite(truth.areas).all()
    assert (truth.areas >= 0).all()


@pytest.mark.parametrize(("content", "says", "whole"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_annotation_is_named_by_its_number(tmp_path: Path, content: Any, says: str, whole: set[int]) -> None:
    file = write_content(tmp_path, content)
    message = refused(coco(tmp_path), f"{re.escape(str(file))}: .*{says}")
    assert REMEDY in message
    assert len(message) < 800
    wanted = {10: [[1, 1, 10, 10]], 20: [[2, 2, 11, 11]] if 20 in whole else []}
    assert boxes_by_image(skipped(coco(tmp_path, on_error="skip"), says)) == wanted


@pytest.mark.parametrize(("content", "says", "left"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_named_once_and_skipped_with_its_annotations(
    tmp_path: Path, content: Any, says: str, left: set[int]
) -> None:
    file = write_content(tmp_path, content)
    message = refused(coco(tmp_path), f"{re.escape(str(file))}: .*{says}")
    assert REMEDY in message
    message.encode()  # can be printed and logged
    wanted = {10: [[1, 1, 10, 10]], 20: [[2, 2, 11, 11]]}
    truth = skipped(coco(tmp_path, on_error="skip"), says)
    assert boxes_by_image(truth) == {image_id: wanted[image_id] for image_id in left}


@pytest.mark.parametrize("name", NO_FILES)
def test_a_missing_image_file_is_named_and_ignored(tmp_path: Path, name: str) -> None:
    """The image keeps its place in the order of images, so that a file that reappears takes it again."""
    write_content(tmp_path, changed("images.1.file_name", name))
    says = f"missing image files: 1 of 2\n  {re.escape(str(tmp_path))}/train/?{re.escape(name)}\n"
    refused(coco(tmp_path), says.replace(f"{re.escape(str(tmp_path))}/train/?", "") if name[0] == "/" else says)
    data = coco(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match="missing image files: 1 of 2; they count for nothing\n  .*"):
        data.setup()
    assert len(data.truth("train").image_ids) == 2
    unread = [info for batch in data.val_dataloader() for info in batch.unread]
    assert [info.image_id for info in unread] == [20]


@pytest.mark.parametrize(("content", "says"), BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_not_coco_json_is_refused(tmp_path: Path, content: bytes, says: str, on_error: str) -> None:
    file = write_content(tmp_path, content)
    message = refused(coco(tmp_path, on_error=on_error), f"^{re.escape(str(file))} .*{says}")
    assert len(message) < 500


@pytest.mark.parametrize(("categories", "says"), BAD_CATEGORIES.values(), ids=BAD_CATEGORIES)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_categories_that_are_doubled_or_incomplete_are_refused(
    tmp_path: Path, categories: list[Any], says: str, on_error: str
) -> None:
    file = write_content(tmp_path, {**sound_coco(), "categories": categories})
    refused(coco(tmp_path, on_error=on_error), f"^{re.escape(str(file))} has .*{says}")


def test_a_folder_in_place_of_a_json_is_refused(tmp_path: Path) -> None:
    write_content(tmp_path, b"").unlink()
    (tmp_path / "annotations" / "instances_train.json").mkdir()
    refused(coco(tmp_path), r"instances_train\.json can't be read \(Is a directory\); check data\.root")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_and_names_in_any_script_and_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    names = ["血液 7.png", "Käfer.png"]
    content = {
        **changed("images.0.file_name", names[0]),
        "categories": [{"id": 7, "name": "كلب"}, {"id": 3, "name": "犬"}],
    }
    content["images"][1]["file_name"] = names[1]
    write_content(tmp_path, json.dumps(content, ensure_ascii=False).encode(encoding))
    for name in names:
        write_image(tmp_path / "train" / name, (40, 60))
    data = coco(tmp_path)
    assert boxes_by_image(read(data)).keys() == {10, 20}
    assert data.class_names == ("犬", "كلب")
    assert len(list(data.val_dataloader())) == 1


def test_a_file_name_may_point_outside_the_image_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere" / "a.png", (40, 60), seed=1)
    write_image(tmp_path / "elsewhere" / "b.png", (40, 60), seed=2)
    content = changed("images.0.file_name", "../elsewhere/a.png")
    content["images"][1]["file_name"] = str(tmp_path / "elsewhere" / "b.png")
    write_content(tmp_path, content)
    data = coco(tmp_path)
    read(data)
    assert sum(len(batch.infos) for batch in data.val_dataloader()) == 2


def test_a_link_is_followed_and_a_broken_link_is_named(tmp_path: Path) -> None:
    write_content(tmp_path, sound_coco())
    path = tmp_path / "train" / "train_1.png"
    path.rename(tmp_path / "moved.png")
    path.symlink_to(tmp_path / "moved.png")
    assert boxes_by_image(read(coco(tmp_path))).keys() == {10, 20}
    (tmp_path / "moved.png").unlink()
    refused(
        coco(tmp_path), r"missing image files: 1 of 2\n  .*train_1\.png, a link to .*moved\.png, which does not exist\n"
    )


def test_everything_wrong_at_once_is_counted_by_rule_and_the_rest_is_read(tmp_path: Path) -> None:
    content = sound_coco()
    bad = [case for case, _, _ in BAD_ENTRIES.values()]
    for i, case in enumerate(bad):
        (entry,) = [a for a in case["annotations"] if a not in sound_coco()["annotations"]][:1]
        content["annotations"].append({**entry, "id": 100 + i} if isinstance(entry, dict) else entry)
    write_content(tmp_path, content)
    data = coco(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match=rf"skipped: {len(bad) - 1} problems"):
        data.setup()
    # All but the duplicate id, which is unique once the others are skipped.
    assert sum(data.problem_counts.values()) == len(data.problems) == len(bad) - 1
    assert boxes_by_image(data.truth("train")) == {10: [[1, 1, 10, 10]], 20: [[2, 2, 11, 11]] * 2}


def test_ten_thousand_boxes_in_one_image_train(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    corners, sides = draw.uniform(0, 50, (10_000, 2)), draw.uniform(1, 30, (10_000, 2))
    boxes = np.concatenate([corners, sides], axis=1).round(2).tolist()
    write_coco(tmp_path, [(64, 64)] * 2, [boxes, [[1, 1, 20, 20]]])
    data = coco(tmp_path, resize=64)
    truth = read(data)
    assert np.bincount(truth.image_index).tolist() == [10_000, 1]
    (batch,) = data.train_dataloader()
    assert sorted((batch.labels >= 0).sum(dim=1).tolist()) == [1, 10_000]

    torch.manual_seed(0)
    network = FCOS(MobileNetV2(weights=None, norm="gn", frozen_stages=0), 2, pyramid_channels=32, num_convs=1)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak that the kernel reports
    losses = FCOSLoss()(network(batch.images, batch.sizes), batch.boxes, batch.labels)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    # Half of the memory of one float32 matrix of all pairs of boxes.
    assert memory("VmHWM") - before < 4 * 10_000**2 / 2 / 2**20


def memory(key: str) -> float:
    """Memory of this process in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) / 1024
