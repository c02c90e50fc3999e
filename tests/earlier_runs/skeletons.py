"""Stores runs of earlier versions without their weights in a few kilobytes, and rebuilds them.

A checkpoint is stored as JSON. Numbers, texts and small tensors are stored as they are. Of a large tensor the shape,
the mean and half the width of its spread are stored; rebuilt, it has other numbers with the same mean and spread,
computed with integers from its name, so that they are the same on every machine. It imports nothing of the project.
"""

import base64
import gzip
import json
import math
import shutil
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STORED = Path(__file__).parent
SMALL = 16
"""Tensors of at most so many numbers are stored as they are."""
CLASSES = ("even", "odd", "rest")


def described(value: Any) -> Any:
    """Turns the contents of a checkpoint into JSON values."""
    if isinstance(value, Tensor):
        return {"~tensor": _tensor(value)}
    if isinstance(value, OrderedDict):
        return {"~ordered": [[key, described(item)] for key, item in value.items()]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("~") for key in value):
            return {key: described(item) for key, item in value.items()}
        return {"~dict": [[key, described(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"~tuple": [described(item) for item in value]}
    if isinstance(value, list):
        return [described(item) for item in value]
    assert value is None or type(value) in (bool, int, float, str), type(value)
    return value


def rebuilt(node: Any, name: str = "") -> Any:
    """Turns JSON values back into contents; `name` is the path in the checkpoint, which seeds a large tensor."""
    if isinstance(node, list):
        return [rebuilt(item, f"{name}/{i}") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items() if len(node) == 1 else ((None, None),)
    if kind == "~tensor":
        return _rebuilt_tensor(content, name)
    if kind == "~tuple":
        return tuple(rebuilt(item, f"{name}/{i}") for i, item in enumerate(content))
    if kind in ("~dict", "~ordered"):
        pairs = [(key, rebuilt(item, f"{name}/{key}")) for key, item in content]
        return dict(pairs) if kind == "~dict" else OrderedDict(pairs)
    return {key: rebuilt(item, f"{name}/{key}") for key, item in node.items()}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    node: dict[str, Any] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if not tensor.is_contiguous():
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        node["channels_last"] = True
    if tensor.numel() <= SMALL or not tensor.is_floating_point():
        return node | {"bytes": base64.b64encode(tensor.contiguous().numpy().tobytes()).decode()}
    numbers = tensor.double()
    low, high = numbers.min().item(), numbers.max().item()
    if low == high:
        return node | {"mean": low, "spread": 0.0}
    mean, spread = numbers.mean().item(), math.sqrt(3) * numbers.std().item()
    if low >= 0:  # a variance or a mean of squares is also a divisor: keep it away from zero
        spread = min(spread, mean / 2)
    return node | {"mean": float(f"{mean:.5g}"), "spread": float(f"{spread:.5g}")}


def _rebuilt_tensor(node: dict[str, Any], name: str) -> Tensor:
    dtype = np.dtype(node["dtype"])
    if "bytes" in node:
        array = np.frombuffer(base64.b64decode(node["bytes"]), dtype).copy()
    else:  # weights, their average and the best weights get the same noise, whichever object holds them
        of_weights = name.startswith(("/state_dict/", "/current_model_state/"))
        noise = _noise(name.split("/", 2)[2] if of_weights else name, math.prod(node["shape"]))
        array = (node["mean"] + node["spread"] * noise).astype(dtype)
    tensor = torch.from_numpy(array.reshape(node["shape"]))
    return tensor.contiguous(memory_format=torch.channels_last) if node.get("channels_last") else tensor


def _noise(name: str, count: int) -> np.ndarray:
    """Numbers in [-1, 1), each the hash of its index in the tensor of this name (MurmurHash3's finaliser)."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float64) / 2**23 - 1


def store_checkpoint(file: Path, stored: Path) -> None:
    text = json.dumps(described(torch.load(file, weights_only=True)), separators=(",", ":"))
    stored.write_bytes(gzip.compress(text.encode(), mtime=0))


def materialize(folder: Path, *names: str) -> list[Path]:
    """Rebuilds the stored runs of these names, and the data that they train on, in a folder.

    Returns the folders of the runs, relative to `folder`, from where they must be used: their configs name the data by
    a relative path. A sweep's name gives the folder of the sweep.
    """
    write_data(folder / "data")
    found = []
    for name in names:
        (top,) = (STORED / "runs" / name).iterdir() if "/" not in name else [STORED / "runs" / name]
        for stored in sorted(top.rglob("*")):
            file = folder / stored.relative_to(STORED)
            file.parent.mkdir(parents=True, exist_ok=True)
            if stored.name == "links.json":
                for link, target in json.loads(stored.read_text()).items():
                    (file.parent / link).symlink_to(target)
            elif stored.name.endswith(".ckpt.json.gz"):
                contents = rebuilt(json.loads(gzip.decompress(stored.read_bytes())))
                torch.save(contents, file.with_name(stored.name.removesuffix(".json.gz")))
            elif stored.is_file():
                shutil.copyfile(stored, file)
        found.append(top.relative_to(STORED))
    return found


def write_data(folder: Path) -> None:
    """The drawn shapes, the same as objects of one class, and a folder of images for a classifier."""
    if folder.exists():
        return
    shutil.copytree(STORED / "data" / "shapes", folder / "shapes")
    for split in ("train", "val"):
        drawn = json.loads((folder / f"shapes/annotations/instances_{split}.json").read_text())
        things = drawn["annotations"]
        for thing in things:
            thing["category_id"] = 1
        content = {"images": drawn["images"], "annotations": things, "categories": [{"id": 1, "name": "thing"}]}
        (folder / f"shapes/annotations/things_{split}.json").write_text(json.dumps(content))
        for i, file in enumerate(sorted((folder / "shapes" / split).glob("*.jpg"))):
            of_class = folder / "classes" / split / CLASSES[i % len(CLASSES)]
            of_class.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, of_class / file.name)
