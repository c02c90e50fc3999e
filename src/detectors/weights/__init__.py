"""Weights from elsewhere: read safely, named as ours, checked tensor by tensor."""

from detectors.weights.loading import CHECKPOINT_PREFIX as CHECKPOINT_PREFIX
from detectors.weights.loading import fill as fill
from detectors.weights.loading import fill_backbone as fill_backbone
from detectors.weights.loading import load_backbone as load_backbone
from detectors.weights.loading import load_published as load_published
from detectors.weights.loading import read_weights as read_weights
