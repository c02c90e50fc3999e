"""A module refuses to save weights that are not finite."""

import pytest
import torch
from composing import built, composed

from lit_modules.finite import NonFiniteLossError


def test_weights_that_are_not_finite_are_never_saved():
    module = built(composed("model=fcos", "model/backbone=mobilenet_v2", "data=shapes", "model.pyramid_channels=32"))
    with torch.no_grad():
        module.network.pyramid.p7.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(
        NonFiniteLossError, match=r"1 weights are not finite at step 0, .*pyramid\.p7\.weight: not saved"
    ):
        module.on_save_checkpoint({})
