"""docs/your_own_code.md: a detector, loss, backbone, data set and logger in the user's folder, without edits here."""

import re
from pathlib import Path

import pytest
from running import curves, only_run

from boxwright import load_detector
from boxwright.config import trusted

PAGE = Path(__file__).parents[1] / "docs" / "your_own_code.md"
OWN = ["--config-dir=mine", "model=louder", "model/backbone=frozen_mobilenet", "data=few", "logger=text"]
SMALL = [
    "data.image_size=64", "data.resize=64", "data.train_images=8", "data.val_images=4", "data.batch_size=4",
    "data.num_workers=0", "trainer.max_steps=6", "trainer.val_check_interval=3", "callbacks.checkpoints.every_steps=2",
    "model.backbone.weights=null", "model.backbone.norm=gn", "model.backbone.frozen_stages=0",
    "model.pyramid_channels=32", "model.num_convs=1", "scale_schedule=false", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "trainer.log_every_n_steps=1", "test=false", "name=t",
]  # fmt: skip
TRUSTED = "trusted_packages=[my_parts]"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with the files of the page, as it names them."""
    for name, fence in re.findall(r"`([\w./]+\.(?:py|yaml))`[^\n]*:\n\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fence)
    assert len(list(tmp_path.rglob("*.*"))) == 6
    return tmp_path


@pytest.fixture(autouse=True)
def _trust_nothing_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "_trusted", set())


@pytest.mark.slow
def test_it_trains_is_killed_resumed_scored_and_used(own: Path, train, monkeypatch) -> None:
    where = {"folder": own, "path": own}
    train([*OWN, *SMALL, "data.root=shapes", TRUSTED], **where, kill={"at": "batch_end", "batch": 5})
    train(["resume=last", "name=t"], **where)
    run = only_run(own)
    assert [row["step"] for row in curves(run) if "train/loss" in row] == ["1", "2", "3", "4", "5", "6"]
    assert "train/loss_cls" in (run / "curves.txt").read_text()
    checkpoint = f"checkpoint={run / 'checkpoints/last.ckpt'}"

    refused = train([checkpoint, "accelerator=cpu"], **where, script="evaluate.py", expect=2)
    assert "my_parts is not part of this project" in refused
    assert "give trusted_packages=[my_parts], or set BOXWRIGHT_TRUSTED_PACKAGES=my_parts" in refused
    assert "use another checkpoint" not in refused
    theirs = ["--config-dir", "mine", "data.eval_batch_size=2"]  # of a data set that has its file there
    scored = train([checkpoint, *theirs, "accelerator=cpu", TRUSTED, "split=val"], **where, script="evaluate.py")
    assert "val: AP" in scored
    drawn = train([checkpoint, "accelerator=cpu", TRUSTED, "source=shapes/val"], **where, script="predict.py")
    assert "saved in" in drawn
    assert len(list((own / "runs/predict").glob("*/drawn/*"))) == 4

    with pytest.raises(
        ValueError, match=r"my_parts is not part .* load_detector\(FILE, trusted=\['my_parts'\]\) in Python$"
    ):
        load_detector(run / "checkpoints/last.ckpt")
    monkeypatch.syspath_prepend(own)
    detector = load_detector(run / "checkpoints/last.ckpt", trusted=["my_parts"])
    assert type(detector.module).__name__ == "LouderFCOS"
    assert detector.module.factor == 2.0


def test_a_users_loss_is_one_file_of_theirs(own: Path, train, monkeypatch) -> None:
    loss = ["--config-dir=mine", "model=louder_loss", "data=shapes", "model.loss.box_loss=giou", "model.loss.factor=3"]
    given = [*loss, *SMALL, "logger=csv", "model/backbone=mobilenet_v2", "data.root=shapes"]
    train([*given, TRUSTED, "trainer.max_steps=2", "trainer.val_check_interval=2"], own, path=own)
    checkpoint = only_run(own) / "checkpoints/last.ckpt"
    with pytest.raises(ValueError, match=r"model\.loss\._target_ is .*my_parts is not part of this project"):
        load_detector(checkpoint)
    monkeypatch.syspath_prepend(own)
    made = load_detector(checkpoint, trusted=["my_parts"]).module.loss
    assert (type(made).__name__, made.factor, made.box_loss) == ("LouderLoss", 3, "giou")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["--config-dir=mine", "model=louder_loss", "data=few"], "model.loss._target_=my_parts.LouderLoss (mine/model"),
        (
            ["--config-dir=mine", "model=louder_loss", "data=few", TRUSTED, "model.loss.factor=much"],
            "model.loss.factor='much' (command line, model.loss.factor=much): expected a num",
        ),
        ([*OWN], "model._target_=my_parts.LouderFCOS (mine/model/louder.yaml): my_parts is not part of this project"),
        ([*OWN, TRUSTED, "model.facotr=3"], "model.facotr (command line, model.facotr=3): no such setting; nearest is"),
        ([*OWN, TRUSTED, "model.factor=much"], "model.factor='much' (command line, model.factor=much): expected a num"),
        (
            ["--config-dir=mine", "model=luoder"],
            "model (command line, model=luoder): no such choice; nearest is lou",
        ),
        (["--config-dir", "nine", "model=louder"], "--config-dir=nine: "),
    ],
)
def test_mistakes_are_named_before_anything_runs(own: Path, train, lines: list[str], says: str) -> None:
    assert says in train([*lines, *SMALL, "data.root=shapes"], own, path=own, expect=2)


def test_a_mistake_in_a_users_file_names_that_file(own: Path, train) -> None:
    (own / "mine/experiment").mkdir()
    (own / "mine/experiment/r.yaml").write_text("# @package _global_\nmodel:\n  lrr: 1\n")
    printed = train([*OWN, TRUSTED, "experiment=r"], own, path=own, expect=2)
    assert "model.lrr (mine/experiment/r.yaml): no such setting; nearest is model.lr" in printed
