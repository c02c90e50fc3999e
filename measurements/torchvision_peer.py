"""Train torchvision's detector in place of ours: same command line, data, optimizer, schedule, average, evaluator.

    python measurements/torchvision_peer.py experiment=small_dataset data.root=.. model.backbone.weights=FILE ..

The recipe's model decides which one: FCOS, RetinaNet or Faster R-CNN. Of `model`, its rate, `pyramid_channels`, the
backbone's weights and `frozen_stages` are taken, `num_convs` of the one-stage models, and of Faster R-CNN the width of
its head and the numbers of proposals and samples; backbone (torchvision's MobileNetV2, frozen batch norm), pyramid (its
FPN), head, targets, loss and decoder are torchvision's own: of RetinaNet those of its second version, with group norm
and GIoU. In its favour: channels_last as for ours, losses in float32 also where the rest is bf16, and the decoder's
threshold at 0.05 in FCOS too, where it is 0.2, with which its AP is lower.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from boxwright.config.errors import clear_errors
from boxwright.config.files import plain
from boxwright.config.resolvers import register_resolvers
from boxwright.runs.folder import open_run
from datamodules.batch import Batch
from detectors.detections import Detections
from lit_modules.detection_module import DetectionModule
from lit_modules.machine import environment


class PeerBackbone(nn.Module):
    """MobileNetV2's maps of stride 8, 16 and 32 through torchvision's pyramid; also of stride 4 where P6 is pooled."""

    def __init__(self, weights: str | None, channels: int, frozen_stages: int, p6_channels: int | None) -> None:
        super().__init__()
        network = mobilenet_v2(norm_layer=FrozenBatchNorm2d)
        if weights is not None:
            stored = torch.load(weights, map_location="cpu", weights_only=True)
            network.load_state_dict({k: v for k, v in stored.items() if "num_batches_tracked" not in k})
        features = network.features
        for layer in list(features)[: (0, 2, 4, 7, 14, 19)[frozen_stages]]:
            layer.requires_grad_(False)
        taken = {3: 24, 6: 32, 13: 96, 18: 1280} if p6_channels is None else {6: 32, 13: 96, 18: 1280}
        self.body = IntermediateLayerGetter(features, {str(index): str(at) for at, index in enumerate(taken)})
        top = LastLevelMaxPool() if p6_channels is None else LastLevelP6P7(p6_channels, channels)
        self.fpn = FeaturePyramidNetwork(list(taken.values()), channels, extra_blocks=top)
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class InFloat:
    """Mixin that computes losses and decodes in float32 under autocast too."""

    def compute_loss(self, targets: Any, head_outputs: Any, *rest: Any) -> Any:
        with in_full_precision(next(iter(head_outputs.values()))):
            return super().compute_loss(targets, {k: v.float() for k, v in head_outputs.items()}, *rest)

    def postprocess_detections(self, head_outputs: Any, *rest: Any) -> Any:
        return super().postprocess_detections({k: [x.float() for x in v] for k, v in head_outputs.items()}, *rest)


class FloatRPN(RegionProposalNetwork):
    def compute_loss(self, *predicted_and_targets: Any) -> Any:
        with in_full_precision(predicted_and_targets[0]):
            return super().compute_loss(*in_float(predicted_and_targets))

    def filter_proposals(self, *predicted: Any) -> Any:
        return super().filter_proposals(*in_float(predicted))


class FloatPredictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> Any:
        return in_float(super().forward(x))


def in_full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def in_float(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values)


class FloatFCOS(InFloat, FCOS):
    from boxwright.build import make_datamodule, make_run_trainer
    from boxwright.train.finish import finish
    from boxwright.train.start import prepare


class FloatRetinaNet(InFloat, RetinaNet):
    from boxwright.build import make_datamodule, make_run_trainer
    from boxwright.train.finish import finish
    from boxwright.train.start import prepare


def peer(config: DictConfig, resize: int) -> nn.Module:
    sizes = {"min_size": resize, "max_size": int(resize * 1333 / 800), "_skip_resize": True}
    channels, classes = config.pyramid_channels, config.num_classes
    backbone = partial(PeerBackbone, config.backbone.weights, channels, config.backbone.frozen_stages)
    if "FCOS" in config._target_:
        head = FCOSHead(channels, 1, classes, num_convs=config.num_convs)
        return FloatFCOS(backbone(channels), classes, score_thresh=0.05, head=head, **sizes)
    if "FasterRCNN" in config._target_:
        return faster_rcnn(backbone(None), config, sizes)
    anchors = _default_anchorgen()
    head = RetinaNetHead(channels, anchors.num_anchors_per_location()[0], classes, partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[: config.num_convs]
    return FloatRetinaNet(backbone(1280), classes, anchor_generator=anchors, head=head, **sizes)


def faster_rcnn(backbone: PeerBackbone, config: DictConfig, sizes: dict[str, Any]) -> nn.Module:
    width, train, test = config.head_channels, config.train_proposer, config.proposer
    model = FasterRCNN(
        backbone,
        rpn_pre_nms_top_n_train=train.candidates_per_level, rpn_post_nms_top_n_train=train.max_proposals,
        rpn_pre_nms_top_n_test=test.candidates_per_level, rpn_post_nms_top_n_test=test.max_proposals,
        rpn_batch_size_per_image=config.anchor_sampler.num_samples,
        box_batch_size_per_image=config.region_sampler.num_samples,
        box_head=TwoMLPHead(backbone.out_channels * 49, width),
        box_predictor=FloatPredictor(width, config.num_classes + 1), **sizes,
    )  # fmt: skip
    model.rpn.__class__ = FloatRPN
    return model


class TorchvisionPeer(DetectionModule):
    """torchvision's detector behind the two methods that training and evaluation call."""

    def __init__(self, config: DictConfig, resize: int) -> None:
        made = hydra.utils.instantiate({"optimizer": config.optimizer, "schedule": config.schedule})
        super().__init__(peer(config, resize), made["optimizer"], made["schedule"], config.lr)
        self.background = int(isinstance(self.network, FasterRCNN))  # whose label is 0

    def forward_batch(self, batch: Batch) -> Any:
        """Losses in training, detections in evaluation, where torchvision gives no losses."""
        if not self.training:
            return self.network(images_of(batch))
        targets = [
            {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + self.background}
            for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
        ]
        return self.network(images_of(batch), targets)

    def losses(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        return outputs if self.training else {"loss_none": batch.boxes.new_zeros(())}

    def detect(self, outputs: Any, batch: Batch) -> Detections:
        found = outputs
        for one in found:
            one["labels"] = one["labels"] - self.background
        return Detections(*(
            nn.utils.rnn.pad_sequence([one[key] for one in found], batch_first=True, padding_value=padding)
            for key, padding in (("boxes", 0.0), ("scores", 0.0), ("labels", -1))
        ))  # fmt: skip


def images_of(batch: Batch) -> list[Tensor]:
    return [
        image[:, :height, :width].float() / 255
        for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True)
    ]


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@clear_errors
def main(cfg: DictConfig) -> float:
    """Runs train.py with another module."""
    run = open_run(cfg)
    from boxwright.build import make_datamodule, make_run_trainer
    from boxwright.train.finish import finish
    from boxwright.train.start import prepare

    cfg = prepare(run)
    datamodule = make_datamodule(cfg)
    module = TorchvisionPeer(cfg.model, cfg.data.resize)
    module.network.to(memory_format=torch.channels_last)
    module.attach(run.folder, datamodule.seed, {"config": plain(run.config), "versions": environment()})
    trainer = make_run_trainer(cfg, run)
    trainer.fit(module, datamodule)
    return finish(run, module, datamodule, trainer)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    register_resolvers()
    main()
