"""Measure start-up on annotations of COCO train2017's size: first build, from the cache, four processes at once.

Also measures the memory of workers.

    python measurements/startup.py [--out FILE.json]

Writes an instances JSON (118 287 images, 860 001 boxes with polygons) and as many empty image files into a
temporary folder. "Ready" is from the call of `setup` until both loaders are made and have their first batch.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from datamodules.coco import CocoDataModule

IMAGES, BOXES, CLASSES = 118_287, 860_001, 80


def write_data(root: Path) -> None:
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    wide = random.random(IMAGES) < 0.7
    ids = np.sort(random.choice(600_000, IMAGES, replace=False)).tolist()
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": 640 if w else 480, "height": 480 if w else 640}
        for i, w in zip(ids, wide, strict=True)
    ]
    corners = random.uniform(0, 300, (BOXES, 2)).round(2).tolist()
    sides = random.uniform(2, 170, (BOXES, 2)).round(2).tolist()
    of_image = random.integers(IMAGES, size=BOXES).tolist()
    category = random.integers(1, CLASSES + 1, BOXES).tolist()
    annotations = [
        {
            "id": i + 1, "image_id": ids[of_image[i]], "category_id": category[i], "bbox": [x, y, w, h],
            "area": w * h / 2, "iscrowd": int(i % 86 == 0),
            "segmentation": [[round(x + w * k / 12, 2) for k in range(12)] * 2],
        }
        for i, ((x, y), (w, h)) in enumerate(zip(corners, sides, strict=True))
    ]  # fmt: skip
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    for image in images:
        (root / "train2017" / image["file_name"]).touch()


def module(root: Path, num_workers: int = 0, **options: Any) -> CocoDataModule:
    # test_split is not opened by setup("fit"); validation is a held-out part of the same index
    return CocoDataModule(
        root=str(root), train_split="train2017", val_fraction=0.04, cache_dir=str(root / "cache"),
        num_workers=num_workers, **options,
    )  # fmt: skip


def ready(root: Path) -> float:
    data = module(root)
    start = time.perf_counter()
    data.setup("fit")
    next(iter(data.train_dataloader().batch_sampler))
    assert data.val_dataloader().batch_sampler is not None
    return time.perf_counter() - start


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _ready_at_once(root: Path, barrier: Any, times: Any) -> None:
    barrier.wait()
    times.put(ready(root))


def four_at_once(root: Path) -> list[float]:
    """Seconds to ready of four processes that start together."""
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_ready_at_once, args=(root, barrier, times)) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(times.get() for _ in processes)
    for process in processes:
        process.join()
    return found


def proportional_memory(pid: int) -> float:
    """PSS in MB: shared pages count for each process by its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss of process {pid}")


def worker_memory(root: Path, num_workers: int, method: str) -> dict[str, float]:
    """PSS of the main process and of its workers after each worker has read the boxes of 500 images."""
    # Small images, so that the index is not lost among the memory of batches; the files are empty, hence "skip".
    data = module(root, num_workers, on_error="skip", resize=64)
    data.setup("fit")
    loader: Any = data.train_dataloader()
    loader.multiprocessing_context = method
    iterator = iter(loader)
    for _ in range(32 * num_workers):
        next(iterator)
    time.sleep(2)  # until the workers have prefetched and are idle
    workers = [process.pid for process in multiprocessing.active_children()]
    assert len(workers) == num_workers
    memory = {
        "main": proportional_memory(os.getpid()),
        "a worker": statistics.mean(proportional_memory(pid) for pid in workers if pid),
    }
    loader._iterator._shutdown_workers()
    return {**memory, "all": memory["main"] + num_workers * memory["a worker"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    out: Path | None = parser.parse_args().out
    figures: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root)
        figures["json_mb"] = round((root / "annotations" / "instances_train2017.json").stat().st_size / 1e6)
        figures["four processes, cold cache (s)"] = [round(seconds, 2) for seconds in four_at_once(root)]
        cache = root / "cache"
        for file in cache.glob("*.index"):
            figures["index_mb"] = round(file.stat().st_size / 1e6)
            file.unlink()
        figures["first build (s)"] = round(fresh(ready, root), 2)
        times = [fresh(ready, root) for _ in range(5)]
        figures["from cache, median of 5 (s)"] = round(statistics.median(times), 3)
        figures["four processes, warm cache (s)"] = [round(seconds, 2) for seconds in four_at_once(root)]
        for method in ("fork", "spawn"):
            for num_workers in (1, 2, 4):
                memory = fresh(worker_memory, root, num_workers, method)
                figures[f"PSS, {num_workers} workers by {method} (MB)"] = {
                    name: round(value) for name, value in memory.items()
                }
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value}")
    if out:
        out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
