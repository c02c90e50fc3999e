"""Networks that turn images into feature maps; configs and checkpoints name their classes here."""

from detectors.backbones.base import Backbone as Backbone
from detectors.backbones.mobilenet import MobileNetV2 as MobileNetV2
from detectors.backbones.mobilenet import MobileNetV3Large as MobileNetV3Large
from detectors.backbones.resnet import ResNet as ResNet
from detectors.backbones.timm_models import Timm as Timm
from detectors.backbones.vgg import VGG16 as VGG16
