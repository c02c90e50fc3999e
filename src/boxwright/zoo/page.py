"""docs/zoo.md, made of the catalogue: `python -m boxwright.zoo.page` writes it."""

# ruff: noqa: E501 (rows of its tables are single lines)

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boxwright.config.files import CONF
from boxwright.zoo.catalogue import CATALOGUE, TRUNKS
from boxwright.zoo.entry import Entry, Trunk

PAGE = CONF.parent / "docs" / "zoo.md"
SIZE = (800, 1088)
"""Canvas of an image of 3 : 4 at 800, of which operations are counted."""
Numbers = Mapping[str, tuple[float, float]]
"""Parameters in millions and 10^9 operations, by name."""

_HEAD = """# Published checkpoints

A checkpoint is a path, a name, or an address on the Hugging Face Hub ([hub.md](hub.md)). A name stands wherever a checkpoint is taken, alone or with a file that you have already:

    python evaluate.py checkpoint=torchvision/retinanet_resnet50_fpn_v2 data=coco data.root=/data/coco
    python predict.py checkpoint=detectron2/faster_rcnn_R_101_FPN_3x source=photos
    python predict.py checkpoint=torchvision/fcos_resnet50_fpn=fcos_resnet50_fpn_coco-99b0c9b7.pth source=photos
    python train.py experiment=small_dataset init_from=torchvision/fcos_resnet50_fpn data.root=/data/cells \\
        'data.classes=[RBC,WBC,Platelets]'

and in Python `load_detector("torchvision/fcos_resnet50_fpn")("photo.jpg")`. Network, resize rule, normalisation,
thresholds, caps and class names come with the name: COCO's 80 classes, of `PascalVOC-Detection` VOC's 20, of `rpn` one for
all of COCO's objects (`data.single_class=object`). `init_from` also brings the settings of the network that its weights
need, before those of a recipe; what the command line gives stays. Precision is 32-true.

On the split of its published figure, `evaluate.py` prints measured beside published and whether it lies within a tolerance of 0.2
points, chosen for what differs below; [evaluation.md](evaluation.md#published-figures).

The file is downloaded once, to the folder of `torch.hub` (`$TORCH_HOME/hub/checkpoints`, else
`~/.cache/torch/hub/checkpoints`), and its digest is compared. Without a network the message, which comes within seconds, has its
address, the place where it is expected and its digest; put it there, or give `NAME=FILE`.
"""
_PROOF = """## What was proven, and how

**The published files themselves were not downloaded when this page was written**: no AP on this page was measured with
this project. Addresses, digests and scores are those of the sources named. What was held against what:

| entries | test |
|---|---|
| torchvision/* | files saved by torchvision's own builders with seeded random weights give torchvision's own detections box for box, on photos that need no resizing: the same class, sides to 0.02 pixels, scores to 1e-4, of all but one in a cap's worth (suppression at an IoU that rounding decides); MobileNets to 0.5 pixels and 5e-3 for 90 %, since 45 random convolutions in a row make much of the last bits |
| torchvision/*, resized photos | torchvision resizes normalised floats, this project bytes: pixels differ by at most 0.8 of 255 levels (0.24 on average, of which 0.22 is the rounding to bytes), sizes are equal. Of detections of random ResNets at least 85 % are found within half a pixel and 2e-3 of score |
| detectron2/*, fcos/*, caffe2/* | files made in their formats, with the names and shapes of their sources: every tensor is taken, or left out for a stated reason, every tensor of the network is filled in its shape; eps, BGR, strides, order of anchors, rounding of anchors, background and RoIAlign against a small independent computation each |
| pickles | read without running what they name: arrays and plain containers alone; other names, arrays of objects and sizes that the bytes don't fill are refused |

Known departures, which trained weights hardly see:

- torchvision keeps boxes that clipping left without area; here they are dropped. It sees columns of numbers that COCO never
  used; in a sigmoid they are left out here, in a softmax they take part and never come out.
- detectron2's C4 models pad nothing to a multiple of 32; here images are padded to it with zeros behind the normalisation.
- fcos_core and Detectron count pixels from first to last ("+1"): boxes end up to a pixel earlier at the right and bottom
  border, and Detectron's regions are pooled from boxes that end a pixel earlier.
- fcos_core and detectron2 resize with PIL's bilinear filter (`data.interpolation=antialias`): where an image shrinks it is
  the same filter, where it grows it differs by rounding. torchvision's FCOS has no learnt scale of each level: ours are 1.
- The recall of detectron2's proposal networks gives each object the proposal that fits it best; here proposals take objects by
  falling score, as pycocotools does.
- The figure of `PascalVOC-Detection` is mAP at an IoU of 0.5 by 11 points; its AP of 51.9 is that rule at ten IoUs, which is not
  COCO's AP and is not computed here.
- Which stages of a ResNeXt are deformable differs between versions of fcos_core's recipes: the file tells.
"""
_NOT = """## Not here

Models that find masks, keypoints or parts, Fast R-CNN with given proposals, Cascade R-CNN, SSD, models of other data sets (LVIS,
Cityscapes) and Detectron's RPN alone; such a name is answered with the reason. Detectron's and detectron2's detectors on X-152
find masks; its trunk is in the table below. detectron2's own copies of the MSRA trunks have unfolded batch norms and are refused;
take those of the table.
"""


def page(numbers: Numbers) -> str:
    """The text of docs/zoo.md."""
    return "\n".join([_HEAD, *_tables(numbers), _NOT, *_trunks(), _PROOF])


def _tables(numbers: Numbers) -> Iterator[str]:
    yield (
        "## Detectors\n\n"
        f"Figures in percent as published, AP where nothing else is said, on val2017 or the same images under an older name, of VOC's classes on VOC2007's test. M: millions of parameters, those of "
        f"frozen norms excluded; GFLOPs: 10^9 operations (two for a multiply-add) for a canvas of {SIZE[0]} x {SIZE[1]}, of "
        "the 320 model too, proposals included.\n"
    )
    sources = dict.fromkeys(name.partition("/")[0] for name in CATALOGUE)
    for source in sources:
        entries = [entry for name, entry in CATALOGUE.items() if name.startswith(f"{source}/")]
        licence = f" Licence of the weights: {entries[0].licence}." if entries[0].licence else ""
        yield f"### {source}\n\nScores: {_origin(entries)}.{licence}\n"
        yield "| name | published | M | GFLOPs | digest |\n|---|---|---|---|---|"
        for entry in entries:
            size, operations = numbers[entry.name]
            yield f"| `{entry.name}` | {_figures(entry)} | {size:.1f} | {operations:.0f} | {_digest(entry)} |"
        yield ""


def _figures(entry: Entry) -> str:
    return ", ".join(f"{value:.1f}{'' if metric == 'AP' else f' {metric}'}" for metric, value in entry.figures.items())


def _origin(entries: list[Entry]) -> str:
    return entries[0].source.partition(",")[0]


def _digest(entry: Entry | Trunk) -> str:
    algorithm, _, first = entry.digest.partition(":")
    if not first:
        return "none published"
    return f"{algorithm.upper()} beside the file" if first.startswith(".") else f"{algorithm.upper()} {first}..."


def _trunks() -> Iterator[str]:
    yield (
        "## Backbones trained on ImageNet\n\n"
        "`model.backbone.weights=imagenet` takes torchvision's for the chosen backbone. By name, with the settings that they "
        "need:\n\n"
        "    python train.py model=faster_rcnn model.backbone.weights=MSRA/R-50 data.root=/data/coco\n"
    )
    yield "| name | settings | digest |\n|---|---|---|"
    for trunk in TRUNKS.values():
        settings = " ".join(line.replace("model.backbone.", "") for line in trunk.network)
        yield f"| `{trunk.name}` | `{settings}` | {_digest(trunk)} |"
    yield (
        "\nA file of that form is given as `model.backbone.weights=FILE.pkl`. Scales of batch norms are folded "
        "(`norm_eps=0`), filters are turned from BGR to RGB when they are read, and the scale of pixels comes along. Licence: "
        f"{next(iter(TRUNKS.values())).licence}.\n"
    )


def measured() -> Numbers:
    """Counts parameters and operations of every entry, without memory for its weights."""
    import torch

    from boxwright.checkpoints.building import build_module
    from boxwright.zoo.contents import NOT_RUN, config_of
    from lit_modules.flops import gflops
    from lit_modules.stored import without_weights

    numbers: dict[str, tuple[float, float]] = {}
    known: dict[str, tuple[float, float]] = {}
    for name, entry in CATALOGUE.items():
        model: dict[str, Any] = config_of(entry)["model"]
        key = str(entry.network)
        if key not in known:
            with torch.device("meta"):
                module = build_module(without_weights(model))
            beginning = NOT_RUN.get(entry.names, "-")
            size = sum(p.numel() for name, p in module.network.named_parameters() if not name.startswith(beginning))
            known[key] = (size / 1e6, gflops(module, SIZE))
        numbers[name] = known[key]
    return numbers


def main() -> None:
    """Writes docs/zoo.md."""
    Path(PAGE).write_text(page(measured()))


if __name__ == "__main__":
    main()
