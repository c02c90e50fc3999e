"""The table of docs/backbones.md names every backbone, with its parameters, channels and weights."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from composing import BACKBONES, composed
from hydra.utils import instantiate
from torchvision.models import WeightsEnum

from detectors.backbones.base import Backbone

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
ROWS = {
    cells[0].split("`")[1]: cells[1:]
    for line in PAGE.read_text().split("## ")[0].splitlines()
    if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    and not cells[0].startswith("`model/")
}  # fmt: skip


def test_every_backbone_has_a_row() -> None:
    assert ROWS.keys() == set(BACKBONES)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_has_the_numbers_of_its_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "timm" and find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install -e '.[timm]'")
    asked: list[str] = []

    def take(_: Backbone, published: WeightsEnum) -> set[str]:
        asked.append(
            f"{type(published).__name__.removesuffix('_Weights')} {published.name.removeprefix('IMAGENET1K_')}"
        )
        return set()

    monkeypatch.setattr("detectors.backbones.base.load_published", take)
    settings = composed("model=fcos", f"model/backbone={name}").model.backbone
    if name == "timm":
        settings.weights = None
    with torch.device("meta"):
        backbone = instantiate(settings)
    millions, channels, weights = ROWS[name]
    assert float(millions) == round(sum(p.numel() for p in backbone.parameters()) / 1e6, 1)
    assert [int(number) for number in channels.split(", ")] == list(backbone.channels.values())
    assert re.split(r"[,:]", weights)[0] == (asked[0] if asked else "none")
