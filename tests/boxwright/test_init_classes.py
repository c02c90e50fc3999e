"""`init_from` with other classes: each class starts from the rows of its name, and nothing is taken by its place."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import MODELS, built, composed, random_batch
from omegaconf import OmegaConf
from tiers import slow_but
from torch import Tensor

from boxwright.checkpoints.class_names import match_classes
from boxwright.checkpoints.init_from import start_from
from boxwright.config import compatible
from boxwright.config.errors import ConfigError
from boxwright.config.files import flat, plain
from detectors.class_rows import ClassRows, with_rows_of
from detectors.fcos import FCOS
from lit_modules.training_module import TrainingModule

OLD = ("disc", "square", "triangle", "star", "cross")
NEW = ("star", "moon", "disc", "cross", "triangle", "square")
"""All of the old ones in another order, and a new one."""
SOURCE = (3, None, 0, 4, 2, 1)
SMALL = {
    "model.pyramid_channels": 32, "model.num_convs": 1, "model.head_channels": 16, "model.backbone.norm": "gn",
    "model.backbone.frozen_stages": 0, "model.anchor_scales": "[1.0]",
}  # fmt: skip


def config(model: str, num_classes: int, *overrides: str) -> Any:
    data = "imagefolder" if model == "classifier" else "shapes"
    given = [f"model={model}", f"data={data}", "model/backbone=mobilenet_v2", f"data.num_classes={num_classes}"]
    has = flat(composed(*given))
    given += [f"{key}={value}" for key, value in SMALL.items() if key in has]
    return composed(*given, *overrides)


def stored(cfg: Any, names: tuple[str, ...], path: Path) -> tuple[str, dict[str, Tensor]]:
    """The checkpoint of a module with random weights, and those."""
    state = built(cfg, seed=5).state_dict()
    numbers = list(range(1, 1 + len(names)))
    told = {"class_names": list(names), "category_ids": numbers, "thresholds": {}, "metrics": {}, "versions": {}}
    torch.save({"state_dict": state, "boxwright": told | {"config": plain(cfg)}}, path)
    return str(path), state


def start(model: str, tmp_path: Path, *more: Any) -> tuple[TrainingModule, TrainingModule, dict[str, Tensor]]:
    """A module that starts from another's weights, the same as it was before, and those weights."""
    path, state = stored(config(model, len(OLD)), OLD, tmp_path / "old.ckpt")
    cfg = config(model, len(NEW))
    new, before = built(cfg), built(cfg)
    start_from(new, path, NEW, *more)
    return new, before, state


@pytest.mark.parametrize("model", slow_but("fcos", "faster_rcnn", of=[model for model in MODELS if model != "rpn"]))
def test_each_class_starts_from_the_rows_of_its_name(model, tmp_path, caplog):
    """Those of every anchor, and of a two-stage detector its box regression too; background comes along."""
    with caplog.at_level(logging.INFO):
        new, before, state = start(model, tmp_path)
    assert "checkpoint's (5): star, disc, cross, triangle, square" in caplog.text
    assert "drawn anew (1): moon" in caplog.text
    assert "left out" not in caplog.text
    ours, anew, layers = new.state_dict(), before.state_dict(), new.network.class_rows()
    assert layers.keys() == ({"logits", "deltas"} if model == "faster_rcnn" else {*layers} & {"head.logits", "linear"})
    for layer, rows in layers.items():
        for part in ("weight", "bias"):
            name = f"network.{layer}.{part}"
            found, fresh, old = (rows.by_column(one[name]) for one in (ours, anew, state))
            assert torch.equal(found[:, : rows.before], old[:, : rows.before])
            for k, source in enumerate(SOURCE):
                one = fresh[:, rows.before + k] if source is None else old[:, rows.before + source]
                assert torch.equal(found[:, rows.before + k], one), (name, NEW[k])
    others = [n for n in ours if n.removeprefix("network.").rpartition(".")[0] not in layers]
    assert all(torch.equal(ours[name], state[name]) for name in others)


@torch.no_grad()
@pytest.mark.parametrize("model", ["fcos", "retinanet"])
def test_a_class_more_leaves_the_scores_of_the_others_as_they_were_to_the_bit(model, tmp_path):
    """Scores of one class at a time: torch rounds the last elements of an array, which has no full vector of them,
    otherwise than the others."""
    new, _, state = start(model, tmp_path)
    old = built(config(model, len(OLD)))
    old.load_state_dict(state)
    batch = random_batch(2, len(OLD))
    before, after = (one.eval().forward_batch(batch).logits for one in (old, new))
    assert before.std() > 0
    for k, source in enumerate(SOURCE):
        if source is not None:
            assert torch.equal(after[..., k], before[..., source]), NEW[k]
            assert torch.equal(after[..., k].contiguous().sigmoid(), before[..., source].contiguous().sigmoid())


@pytest.mark.parametrize("model", MODELS)
def test_the_rows_that_a_network_tells_of_are_all_that_depend_on_the_number_of_classes(model):
    if model == "rpn":
        assert built(config(model, 1), device="meta").network.class_rows() == {}
        return
    few, more = (built(config(model, number), device="meta") for number in (3, 4))
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.network.state_dict().items()} for one in (few, more)]
    rows = few.network.class_rows()
    assert {n for n in shapes[0] if shapes[0][n] != shapes[1][n]} == {
        f"{n}.{p}" for n in rows for p in ("weight", "bias")
    }
    for layer, of_layer in rows.items():
        assert [shape[f"{layer}.bias"] for shape in shapes] == [(of_layer.number(3),), (of_layer.number(4),)]


def test_a_proposal_network_has_no_classes_and_is_taken_whole(tmp_path, caplog):
    path, state = stored(config("rpn", 1), ("face",), tmp_path / "old.ckpt")
    new = built(config("rpn", 1))
    with caplog.at_level(logging.INFO):
        start_from(new, path, ["text"])
    assert all(torch.equal(tensor, state[name]) for name, tensor in new.state_dict().items())
    assert "classes" not in caplog.text
    with pytest.raises(ConfigError, match="RPNModule does not tell of rows for classes"):
        start_from(new, path, ["text"], {"text": "face"})


def test_classes_without_names_are_drawn_anew_and_said_so(tmp_path, caplog):
    path, _ = stored(config("fcos", len(OLD)), OLD, tmp_path / "old.ckpt")
    new = built(config("fcos", len(OLD)))
    before = new.network.head.logits.weight.detach().clone()
    with caplog.at_level(logging.INFO):
        start_from(new, path, ())
    assert torch.equal(new.network.head.logits.weight, before)
    assert "the names of this run's classes are not known; all are drawn anew, in head.logits" in caplog.text


@pytest.mark.parametrize(("names", "taken"), [(OLD, True), (OLD[::-1], False), (NEW, False)])
def test_of_a_network_that_tells_nothing_all_classes_are_taken_or_none(names, taken, tmp_path, monkeypatch, caplog):
    """As of a detector of the user's own: only where names and order agree is it known which rows are whose."""
    monkeypatch.delattr(FCOS, "class_rows")
    path, state = stored(config("fcos", len(OLD)), OLD, tmp_path / "old.ckpt")
    new = built(config("fcos", len(names)))
    before = new.network.head.logits.bias.detach().clone()
    with caplog.at_level(logging.INFO):
        start_from(new, path, names)
    assert torch.equal(new.network.head.logits.bias, state["network.head.logits.bias"] if taken else before)
    assert torch.equal(new.network.head.distances.weight, state["network.head.distances.weight"])
    assert ("FCOS does not tell which rows are whose" in caplog.text) != taken


def test_spare_columns_come_along_where_both_have_them():
    new, old = torch.arange(10.0), -torch.arange(9.0)  # background, K, two spare ones and as many
    rows = ClassRows(before=1, after=2)
    assert with_rows_of(new[:6], old[:5], (rows, rows), (1, None, 0)).tolist() == [0, -2, 2, -1, -3, -4]
    assert with_rows_of(new[:4], old[:5], (ClassRows(before=1), rows), (1, None, 0)).tolist() == [0, -2, 2, -1]
    assert with_rows_of(new[:3], old[:5], (ClassRows(before=1), rows), (None, None)).tolist() == [0, 1, 2]


def test_rows_of_anchors_and_of_numbers_of_a_class_stay_together():
    new, old = torch.zeros(12), torch.arange(8.0)  # two anchors, of three and of two classes, two numbers each
    rows = ClassRows(outer=2, inner=2)
    found = with_rows_of(new, old, (rows, rows), (None, 1, 0))
    assert found.tolist() == [0, 0, 2, 3, 0, 1, 0, 0, 6, 7, 4, 5]


@pytest.mark.parametrize(
    ("ours", "theirs", "source"),
    [
        (("b", "a"), ("a", "b"), (1, 0)),
        (("Person", "dining table", "hot-dog"), ("hotdog", "diningtable", "person"), (2, 1, 0)),
        (("dining_table",), ("Dining Table",), (0,)),
        (("person", "Person"), ("Person", "person"), (1, 0)),  # as written
        (("person", "Person"), ("PERSON",), (None, None)),  # which of the two?
        (("Person",), ("person", "PERSON"), (None,)),
        (("person", "Person"), ("Person",), (None, 0)),
        (("cat", "cat"), ("cat",), (None, None)),
        (("cat",), ("cat", "cat"), (None,)),
        (("cat", "cat", "dog"), ("cat", "cat", "dog"), (0, 1, 2)),
        (("cafe\N{COMBINING ACUTE ACCENT}",), ("caf\N{LATIN SMALL LETTER E WITH ACUTE}",), (0,)),
        (("tv",), ("tvmonitor",), (None,)),
        ((), ("a",), ()),
    ],
)
def test_a_name_is_matched_as_written_else_without_case_and_spaces(ours, theirs, source):
    assert match_classes(ours, theirs).source == source


def test_given_pairs_go_before_names():
    given = {"WBC": "person", "cat": None, "RBC": "person"}
    match = match_classes(("WBC", "dog", "cat", "RBC"), ("person", "cat", "dog"), given)
    assert match.source == (0, 2, None, 0)
    assert match.lines() == [
        "classes that start from the checkpoint's (3): WBC (from person), dog, RBC (from person)",
        "new classes, whose weights are drawn anew (1): cat",
        "classes of the checkpoint that are left out (1): cat",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"WBCs": "person"},
            r"init_classes=\{WBCs: person\}: this run has no class of the name 'WBCs'; nearest is WBC",
        ),
        ({"WBC": "persn"}, r"the checkpoint has no class of the name 'persn'; nearest is person; expected a class of"),
        ({"WBC": "zzz"}, r"no class of the name 'zzz'; there are person, cat, cat; expected"),
        ({"WBC": "cat"}, r"the checkpoint has several classes of the name 'cat'; expected"),
    ],
)
def test_a_given_pair_that_does_not_exist_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        match_classes(("WBC", "RBC"), ("person", "cat", "cat"), given)


def test_many_names_are_counted_and_some_shown():
    lines = match_classes(("a",), tuple(f"class{i}" for i in range(80))).lines()
    assert lines[1].startswith("classes of the checkpoint that are left out (80): class0, class1, ")
    assert lines[1].endswith("class9 and 70 more")


def test_classes_to_start_from_without_a_checkpoint_are_refused(monkeypatch):
    monkeypatch.setattr(compatible, "origin", lambda key: "here")
    cfg = OmegaConf.create({"init_from": None, "init_classes": {"WBC": "person"}})
    (problem,) = compatible.start_problems(cfg)
    assert "give init_from=CHECKPOINT, or leave it out" in problem
    cfg.init_from = "best.ckpt"
    assert list(compatible.start_problems(cfg)) == []
    cfg.init_classes.WBC = 1
    (problem,) = compatible.start_problems(cfg)
    assert "init_classes.WBC=1 (here): expected the name of a class" in problem
