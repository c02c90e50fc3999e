"""`data=auto` becomes the settings that read what lies in the folder."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "datamodules"))
from composing import composed
from exports import NOT_READ, READ
from hydra.utils import instantiate

from boxwright.config.auto import recognised

ALONE = [layout for layout in READ if layout not in ("labelimg", "label_studio_voc")]
"""Those that need no step before they are read."""


@pytest.mark.parametrize("layout", ALONE)
def test_a_folder_is_read_as_what_it_is(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, what, reader = READ[layout]
    make(tmp_path)
    argv = recognised(["--cfg", "job", "model=fcos", "data=auto", f"data.root={tmp_path}", "data.resize=64"])
    assert argv[:4] == ["--cfg", "job", "model=fcos", f"data={reader}"]
    assert argv[-1] == "data.resize=64"
    assert sum(word.startswith("data.root=") for word in argv) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"data=auto: {tmp_path} holds {what}; read as\n  data={reader} data.")
    module: Any = instantiate(composed(*argv[2:], "data.num_workers=0").data)
    module.setup("fit")
    assert len(module.truth("train").boxes) > 0


def test_what_the_command_line_sets_stays(tmp_path: Path) -> None:
    READ["roboflow_yolo"][0](tmp_path)
    given = ["data.val_split=train", "data.classes=[nucleus]", f"data.root={tmp_path}"]
    argv = recognised(["data=auto", *given])
    assert [line for line in argv if line in given] == given
    assert "data.val_split=val" not in argv
    assert not any(line.startswith("data.num_classes") for line in argv)


@pytest.mark.parametrize("layout", ["roboflow_csv", "packed"])
def test_what_cannot_be_read_ends_with_the_remedy(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    NOT_READ[layout][0](tmp_path)
    with pytest.raises(SystemExit) as ended:
        recognised(["data=auto", f"data.root={tmp_path}"])
    assert ended.value.code == 2
    assert f"data=auto: {tmp_path} holds " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give the one folder to look at, data.root=FOLDER"),
        (["data.root=a,b"], "give the one folder to look at"),
        (["data.root=nowhere"], "data.root=nowhere is not a folder"),
        (["data.root=EMPTY"], "no annotations were recognised in EMPTY, which has notes.md; expected COCO's JSON"),
    ],
)
def test_without_a_folder_to_look_at_it_says_so(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY" / "notes.md").write_text("nothing")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        recognised(["data=auto", *words])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_other_command_lines_stay_as_they_are() -> None:
    argv = ["-m", "data=coco", "data.root=x", "seed=1,2"]
    assert recognised(argv) == argv
