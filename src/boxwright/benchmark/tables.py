"""The table of a benchmark: in the terminal, and as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from boxwright.runs.names import backbone_name, run_name
from reports.terminal import as_text as rendered

_HEADING = ("", "median ms", "p95 ms", "n", "images/s", "GFLOPs", "GFLOP/s", "of matrix rate")


class _Row(NamedTuple):
    name: str
    cells: tuple[str, ...] = ("",) * (len(_HEADING) - 1)


def named(config: DictConfig) -> str:
    """Names model, data set and backbone."""
    backbone = cast("dict[str, Any]", OmegaConf.to_container(config.model.backbone))
    return f"{run_name(config.model._target_, config.data._target_)}, {backbone_name(backbone)}"


def with_shares(figures: dict[str, Any]) -> dict[str, Any]:
    """Adds the share of the matrix rate beside each rate."""
    whole = figures["matrix_rate"]["gflops_per_s"]

    def shared(part: dict[str, Any]) -> dict[str, Any]:
        rates = {name.removesuffix("_gflops_per_s"): part[name] for name in part if name.endswith("_gflops_per_s")}
        return part | {f"{name}_share": rate / whole for name, rate in rates.items()}

    found = dict(figures)
    if "step" in found:
        found["step"] = shared(found["step"])
    if "inference" in found:
        found["inference"] = [shared(part) for part in found["inference"]]
    return found


def as_text(figures: Mapping[str, Any]) -> str:
    """Formats the table for a terminal of 110 columns."""
    first, *others = _HEADING
    table = Table(Column(first, no_wrap=True), *(Column(name, justify="right") for name in others), box=SIMPLE_HEAD)
    for row in _rows(figures):
        table.add_row(row.name, *row.cells)
    return "\n".join([*_facts(figures), rendered(table, width=110), *_remarks(figures)])


def as_markdown(figures: Mapping[str, Any]) -> str:
    """Formats the table as a page of Markdown."""
    lines = [*(f"- {fact}" for fact in _facts(figures)), "", f"| {' | '.join(_HEADING)} |"]
    lines.append("|---|" + "---:|" * (len(_HEADING) - 1))
    lines += [f"| {' | '.join((row.name.strip(), *row.cells))} |" for row in _rows(figures)]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in _remarks(figures)), ""])


def _facts(figures: Mapping[str, Any]) -> Iterator[str]:
    network, rate = figures["network"], figures["matrix_rate"]
    versions: dict[str, str] = figures["versions"]
    yield f"{figures['device']}, {figures['precision']}; {'  '.join(f'{k} {v}' for k, v in versions.items())}"
    height, width = network["canvas"]
    backbone = f", backbone {figures['backbone_weights']}" if figures["backbone_weights"] else ""
    yield (
        f"network: {network['parameters'] / 1e6:.2f} M parameters, {network['trained'] / 1e6:.2f} M of them trained; "
        f"{_number(network['gflops_per_image'])} GFLOPs for an image of {height} x {width}; "
        f"weights: {figures['weights']}{backbone}"
    )
    yield (
        f"matrix rate: {rate['gflops_per_s']:.0f} GFLOP/s, {rate['side']} x {rate['side']} in {rate['dtype']}, the "
        f"best of {rate['best_of']} products"
    )


def _rows(figures: Mapping[str, Any]) -> Iterator[_Row]:
    if data := figures.get("data"):
        yield _Row(f"data, batches of {data['batch_images']}, {data['workers']} workers")
        yield _Row("  first batch", _cells({"median": data["first_batch_ms"]}))
        yield _Row("  from batch to batch", _cells(data["batch_ms"], data["images_per_s"]))
    if step := figures.get("step"):
        micro = step["micro_batches"]
        times = f"{micro} x " if micro > 1 else ""
        yield _Row(f"training step, {times}{step['images'] / micro:g} images")
        yield _Row("  forward, losses", _of_part(step, "forward"))
        yield _Row("  backward", _of_part(step, "backward"))
        yield _Row("  optimizer", _of_part(step, "optimizer"))
        yield _Row("  whole step", _of_part(step, "total", step["images_per_s"]))
    for way in figures.get("inference", ()):
        yield _Row(f"inference of {way['batch']}, per image")
        yield _Row("  network", _of_part(way, "network"))
        yield _Row("  decoding", _of_part(way, "decoding"))
        yield _Row("  both", _of_part(way, "total", way["images_per_s"]))


def _of_part(figures: Mapping[str, Any], part: str, images_per_s: float | None = None) -> tuple[str, ...]:
    rates = (figures.get(f"{part}_{name}") for name in ("gflops", "gflops_per_s", "share"))
    return _cells(figures[f"{part}_ms"], images_per_s, *rates)


def _cells(
    ms: Mapping[str, float],
    images_per_s: float | None = None,
    gflops: float | None = None,
    rate: float | None = None,
    share: float | None = None,
) -> tuple[str, ...]:
    return (
        _number(ms["median"]),
        _number(ms["p95"]) if "p95" in ms else "",
        f"{ms['n']}" if "n" in ms else "",
        "" if images_per_s is None else _number(images_per_s),
        _number(gflops) if gflops else "",
        f"{rate:.0f}" if rate else "",
        f"{100 * share:.0f} %" if share else "",
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _remarks(figures: Mapping[str, Any]) -> Iterator[str]:
    data, step = figures.get("data"), figures.get("step")
    if step:
        yield f"peak memory of the step: {step['peak_memory_mb']:.0f} MB, {step['peak_memory_of']}"
    if data and step:
        ratio = data["images_per_s"] / step["images_per_s"]
        shared = "; on a CPU they share its cores" if figures["device"].startswith("cpu") else ""
        advice = "" if ratio >= 1 else f": a step waits for data, data.num_workers={data['workers']} is too few"
        yield f"the loader delivers {ratio:.3g} times what the step takes, each measured alone{shared}{advice}"
    for way in figures.get("inference", ())[:1]:
        found = way["detections_per_image"]
        if found is not None and figures["weights"] == "fresh":
            yield (
                f"decoding: fresh weights find {found:.0f} boxes an image, so the time means little; checkpoint=FILE "
                "gives trained ones"
            )
        elif found is not None:
            yield f"decoding: {found:.0f} boxes an image"
