"""The config check of a composed config, as inside `hydra.main`."""

import copy

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from boxwright.config.check import check
from boxwright.config.errors import ConfigError


def checked(composed: DictConfig) -> tuple[DictConfig, str]:
    """The config without Hydra's part, and the message of the check; empty where it passes."""
    HydraConfig.instance().set_config(composed)
    cfg = copy.deepcopy(composed)
    with open_dict(cfg):
        del cfg["hydra"]
    try:
        check(cfg)
    except ConfigError as error:
        return cfg, str(error)
    return cfg, ""
