"""Checks the published figures of a config, `expect`; imports nothing heavy."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf

from boxwright.config.compatible import scored
from boxwright.config.files import nearest, origin
from boxwright.config.signatures import constant, inherits
from boxwright.zoo.names import published

METRICS: tuple[str, ...] = tuple(
    name
    for group in ("COCO", "VOC", "PROPOSAL", "CLASSIFICATION")
    for name in constant("evaluation.truth", f"{group}_METRICS")
)
"""Names of all figures."""
Split = Literal["coco_val2017", "voc_2007_test", None]
"""Names of the splits that figures are published for."""
KINDS: dict[str, Any] = {
    **{f"expect.{name}": float | None for name in METRICS},
    "expect.tolerance": float | dict[str, float] | None,
    "expect.spread": float | dict[str, float] | None,
    "expect.data": Split,
    "expect.recipe": str | None,
    "expect.source": str | None,
}
_WITH_PROPOSALS = ("lit_modules.faster_rcnn.FasterRCNNModule", "lit_modules.rpn.RPNModule")


def figures(cfg: DictConfig) -> dict[str, float]:
    """The figures of a config by the metric's name, without those that are null."""
    expect = _plain(cfg)
    return {name: value for name in METRICS if (value := expect.get(name)) is not None}


def expect_problems(cfg: DictConfig) -> Iterator[str]:
    """Yields messages for figures in percent, for metrics that don't exist or that these data can't have, for
    tolerances below 0, and for a strict comparison with nothing."""
    expect = _plain(cfg)
    if not expect:
        return
    given = figures(cfg)
    for name, value in given.items():
        if not 0 <= value <= 1:
            fraction = f" (is {value / 100:g} meant?)" if 1 < value <= 100 else ""
            yield f"{_described(f'expect.{name}', value)}: expected a fraction of 1, 0.386 for 38.6 %{fraction}"
    yield from _tolerance_problems(expect)
    impossible = _impossible(cfg, given)
    for name in impossible if expect.get("data") is None else ():
        yield (
            f"{_described(f'expect.{name}', given[name])}: no metric of this "
            f"{'model' if name.endswith('_proposals') else 'data set'}; there are {', '.join(_possible(cfg))}"
        )
    if not expect.get("strict"):
        return
    checkpoint = cfg.get("checkpoint")
    if not given and not (isinstance(checkpoint, str) and (published(checkpoint) or cfg.get("predictions") is None)):
        yield (
            f"{_described('expect.strict', True)}: there is no figure to hold the test against; give one, such as "
            "expect.AP=0.386"
        )
    elif given and len(impossible) == len(given):
        yield f"{_described('expect.strict', True)}: none of {', '.join(given)} is measured on these data"
    if cfg.get("test") is False:
        yield f"{_described('expect.strict', True)} with test=false: nothing is tested"


def _tolerance_problems(expect: Mapping[str, Any]) -> Iterator[str]:
    for key in ("tolerance", "spread"):
        value: Any = expect.get(key)
        each = cast("dict[str, Any]", value) if isinstance(value, dict) else {"": value}
        for name, number in each.items():
            described = _described(f"expect.{key}", value)
            if name and name not in METRICS:
                yield f"{described}: {name} is no metric{nearest(name, METRICS)}; there are {', '.join(METRICS)}"
            elif isinstance(number, bool) or not isinstance(number, int | float | None):
                yield f"{described}: expected a number{f' for {name}' if name else ''}"
            elif number is not None and not 0 <= number < 1:
                yield f"{described}: expected a fraction of 1, 0 or more: 0.002 for 0.2 percentage points"
    if expect.get("tolerance") is not None and expect.get("spread") is not None:
        yield (
            f"{_described('expect.tolerance', expect['tolerance'])} and "
            f"{_described('expect.spread', expect['spread'])}: give one of the two, and null for the other"
        )


def _possible(cfg: DictConfig) -> list[str]:
    """Lists the metrics that a test of these data can have, those of the proposals where the model has any, or is not
    known."""
    model = OmegaConf.select(cfg, "model._target_")
    names = list(scored(cfg.data._target_)) if cfg.get("data") is not None else list(METRICS)
    is_known = model is not None or cfg.get("predictions") is not None
    proposes = isinstance(model, str) and any(inherits(model, target) for target in _WITH_PROPOSALS)
    if "top1" not in names and (proposes or not is_known):
        names += constant("evaluation.truth", "PROPOSAL_METRICS")
    return names


def _impossible(cfg: DictConfig, given: Mapping[str, float]) -> list[str]:
    possible = _possible(cfg)
    return [name for name in given if name not in possible]


def _plain(cfg: DictConfig) -> dict[str, Any]:
    expect = cfg.get("expect")
    return cast(dict[str, Any], OmegaConf.to_container(expect, resolve=True)) if expect is not None else {}


def _described(key: str, value: Any) -> str:
    return f"{key}={str(value).lower() if isinstance(value, bool) else value} ({origin(key)})"
