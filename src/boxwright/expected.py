"""Published figures of a recipe, of a published checkpoint or of the command line, for a test to be held against.

A figure of the command line (`expect.AP=0.386`) is the user's own: it is compared on whatever is tested, unless
`expect.data` comes with it. One of a recipe or of the catalogue is that of a data set, and of all their settings.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, cast

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from boxwright.config.defaults import with_choices
from boxwright.config.errors import ConfigError
from boxwright.config.expect import METRICS
from boxwright.config.files import CONF, flat, left_open
from boxwright.runs.folder import Run, given_overrides
from boxwright.zoo.coco_classes import CLASS_NAMES
from datamodules.voc import VOC_CLASSES
from evaluation.expected import DataSet, Figure, tolerance

DATA_SETS: dict[str, DataSet] = {
    "coco_val2017": DataSet("coco_val2017", CLASS_NAMES, 5000, 36781),
    "voc_2007_test": DataSet("voc_2007_test", VOC_CLASSES, 4952, 14976),
}
"""By the names of `expect.data`. COCO's minival of 2014 is the same split as val2017 (Detectron's MODEL_ZOO.md)."""

_EVALUATED = ("resize", "rule", "max_side", "rounding", "interpolation", "exif", "value_range", "single_class")
"""Data settings that a measured number depends on, for given images and weights."""
_FREE = (
    "name", "seed", "test", "compile", "channels_last", "trusted_packages", "logger", "expect", "model.optimizer",
    "model.schedule", "data.root", "data.num_workers", "data.cache_dir", "data.seed", "data.eval_batch_size",
    "data.on_error", "data.check_boxes", "data.val_split", "data.test_split", "data.annotations", "data.images",
    "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy", "trainer.precision",
    "trainer.accumulate_grad_batches", "trainer.log_every_n_steps", "trainer.enable_progress_bar",
    "trainer.deterministic", "trainer.benchmark", "callbacks.pictures", "callbacks.report", "callbacks.log",
    "callbacks.estimate", "callbacks.checkpoints.every_steps", "callbacks.checkpoints.keep",
)  # fmt: skip
"""Settings, with all below them, that no figure is stated for: of the machine, of what is kept, copies of others, and
those that say where the tested split lies, which is known by its content."""

_TOLERATED = {"tolerance", "spread"}


def figures_of_run(run: Run) -> tuple[Figure, ...]:
    """The figures that a run's test is held against."""
    given = {key.removeprefix("expect.") for key in given_overrides(run.folder) if key.startswith("expect.")}
    config = cast("dict[str, Any]", OmegaConf.to_container(run.config))
    expect: dict[str, Any] = config.get("expect", {})  # which runs of an earlier version lack
    return _figures(expect, given, config.get("data", {}), lambda: list(_of_recipe(expect.get("recipe"), config)))


def figures_of_checkpoint(cfg: DictConfig, stored: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The figures that the evaluation of a checkpoint is held against: those of the command line; and those of its own
    recipe, or of the catalogue, of other metrics. `data`: the config of the data that it is evaluated on.

    ConfigError where `expect.strict` has none.
    """
    config: dict[str, Any] = stored["config"]
    used = {**config, "data": {**config["data"], **{key: data[key] for key in _EVALUATED if key in data}}}
    own = {key: value for key, value in _expect(cfg).items() if value is not None}
    expect: dict[str, Any] = {**config.get("expect", {}), **own}
    if own.keys() & _TOLERATED:
        expect |= {key: own.get(key) for key in _TOLERATED}

    def differing() -> list[str]:
        if "published" not in stored:
            return list(_of_recipe(expect.get("recipe"), used))
        changed = [f"precision={cfg.precision} (32-true)"] if cfg.precision not in (None, "32-true") else []
        return [*_differences(flat(OmegaConf.create(config)), used), *changed]

    found = _figures(expect, own, used["data"], differing)
    if cfg.expect.strict and not found:
        raise ConfigError(
            f"expect.strict=true: {cfg.checkpoint} has no figure to hold the test against; give one, such as "
            "expect.AP=0.386"
        )
    return found


def figures_given(cfg: DictConfig) -> tuple[Figure, ...]:
    """The figures of the command line."""
    expect = _expect(cfg)
    return _figures(expect, expect, {}, list)


def _expect(cfg: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(cfg.expect, resolve=True))


def _figures(
    expect: Mapping[str, Any], given: Collection[str], data: Mapping[str, Any], differing: Callable[[], list[str]]
) -> tuple[Figure, ...]:
    """Makes the figures of an `expect` node, of which `given` came with the command line.

    `data`: the config of what is tested; `differing` lists its settings that are not those of the other figures.
    """
    values = {name: float(expect[name]) for name in METRICS if expect.get(name) is not None}
    changed = tuple(differing()) if values.keys() - set(given) else ()
    found: list[Figure] = []
    for name, value in values.items():
        is_own = name in given
        named, source = (expect.get(key) if not is_own or key in given else None for key in ("data", "source"))
        published_on = None if named is None else DATA_SETS[named]
        if published_on is not None and (single := data.get("single_class")) is not None:
            published_on = published_on._replace(class_names=(single,))
        allowed = tolerance(name, expect.get("tolerance"), expect.get("spread"))
        found.append(Figure(name, value, allowed, source or "", published_on, () if is_own else changed))
    return tuple(found)


def _of_recipe(recipe: str | None, config: Mapping[str, Any]) -> Iterator[str]:
    """Yields the settings of a config that are not its recipe's."""
    if recipe is None:
        return
    try:
        composed = with_choices(CONF / "train.yaml", {"experiment": recipe})
    except HydraException:
        yield f"expect.recipe={recipe}, of which there is no file"
        return
    base = flat(OmegaConf.create(cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True))))
    yield from _differences({**base, **dict.fromkeys(left_open(f"experiment/{recipe}"), "???")}, config)


def _differences(base: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yields the settings of a config that differ from those of a figure, with the figure's own behind each."""
    used = flat(OmegaConf.create(dict(config)))
    for key in dict.fromkeys((*used, *base)):
        is_free = any(f"{key}.".startswith(f"{free}.") for free in _FREE)
        if used.get(key) != base.get(key) and base.get(key) != "???" and not is_free:
            yield f"{key}={_text(used.get(key))} ({_text(base.get(key))})"


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
