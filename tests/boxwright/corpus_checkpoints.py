"""Changes to a sound checkpoint (FCOS on MobileNetV2, five classes, a pyramid of 32 channels) that make it invalid or
hostile, and the message that each must give.
"""

from collections.abc import Callable
from typing import Any

import torch

from lit_modules.stored import FORMAT

Contents = dict[str, Any]


def at(contents: Contents, path: str) -> tuple[Any, Any]:
    *above, last = path.split(".")
    node = contents["boxwright"]
    for part in above:
        node = node[part]
    return node, last


def put(path: str, value: Any) -> Callable[[Contents], None]:
    """Changes an entry of `boxwright`, or removes it where the value is "absent"."""

    def change(contents: Contents) -> None:
        node, last = at(contents, path)
        if value == "absent":
            del node[last]
        else:
            node[last] = value

    return change


def weight(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[Contents], None]:
    def change(contents: Contents) -> None:
        contents["state_dict"][name] = make(contents["state_dict"][name])

    return change


def without(name: str) -> Callable[[Contents], None]:
    return lambda contents: contents["state_dict"].pop(name)


def wide(contents: Contents) -> None:
    """A pyramid of ten million channels, and weights of that shape that store a single number each."""
    contents["boxwright"]["config"]["model"]["pyramid_channels"] = 10**7
    for name, tensor in contents["state_dict"].items():
        if "backbone" not in name and 32 in tensor.shape:
            shape = [10**7 if size == 32 else size for size in tensor.shape]
            contents["state_dict"][name] = torch.zeros(()).expand(shape)


CALL = "a checkpoint may only name networks, losses, decoders, data modules, optimizers and schedules"
MODEL, DATA, BACKBONE = "config.model", "config.data", "config.model.backbone"
LOGITS, BIAS = "network.head.logits.weight", "network.head.logits.bias"
OS = {"_target_": "os.system", "command": "touch RAN"}
CREATE = "${oc.create:'{_target_: os.system, command: touch RAN}'}"
CHANGES: dict[str, tuple[Callable[[Contents], Any], str]] = {
    # Targets
    "os.system as model": (put(MODEL, OS), rf"model\._target_ is 'os\.system': {CALL}"),
    "os.system as model's target": (put(f"{MODEL}._target_", "os.system"), rf"model\._target_ is 'os\.system': {CALL}"),
    "eval as backbone": (
        put(BACKBONE, {"_target_": "builtins.eval", "_args_": ["__import__('os').system('touch RAN')"]}),
        rf"model\.backbone\._target_ is 'builtins\.eval': {CALL}",
    ),
    "os.system as optimizer": (put(f"{MODEL}.optimizer", OS), rf"model\.optimizer\._target_ is 'os\.system': {CALL}"),
    "os.system as a value": (put(f"{MODEL}.lr", OS), rf"model\.lr\._target_ is 'os\.system': {CALL}"),
    "os.system in a list": (put(f"{MODEL}.lr", [[OS]]), rf"model\.lr\[0\]\[0\]\._target_ is 'os\.system': {CALL}"),
    "os.system in a tuple": (put(f"{MODEL}.lr", (OS,)), rf"model\.lr\[0\]\._target_ is 'os\.system': {CALL}"),
    "os.system as data": (put(f"{DATA}._target_", "os.system"), rf"data\._target_ is 'os\.system': {CALL}"),
    "a module that one of ours imports": (
        put(f"{MODEL}.lr", {**OS, "_target_": "lit_modules.loggers.wandb.os.system"}), rf"wandb\.os\.system': {CALL}",
    ),
    "a function of ours that writes files": (
        put(f"{MODEL}.lr", {"_target_": "evaluation.files.write_whole", "path": "RAN", "content": ""}), CALL,
    ),
    "a function of ours that makes links": (
        put(f"{MODEL}.lr", {"_target_": "lit_modules.callbacks.checkpoints.point", "link": "RAN", "target": ""}), CALL,
    ),
    "a target that is no text": (put(f"{MODEL}.lr", {"_target_": ["os.system"]}), CALL),
    "a target that does not exist": (put(f"{MODEL}._target_", "lit_modules.fcos.FCOSModul"), CALL),
    "a module as target": (put(f"{MODEL}._target_", "lit_modules.fcos"), CALL),
    "the prefix alone": (put(f"{MODEL}._target_", "lit_modules."), CALL),
    "a config out of a text": (put(f"{MODEL}.lr", CREATE), r"model\.lr is .*has no interpolations"),
    "a network out of a text": (put(BACKBONE, CREATE), r"model\.backbone is .*has no interpolations"),
    "data out of a text": (put(f"{DATA}.root", CREATE), r"data\.root is .*has no interpolations"),
    # Arguments
    "a key that the constructor lacks": (
        put(f"{MODEL}.num_clases", 5), r"model\.num_clases: .*FCOSModule has no such parameter; nearest is num_classes",
    ),
    "more than keys": (put(f"{MODEL}._args_", [1]), r"model\._args_: .*has no such parameter"),
    "a key that data lack": (put(f"{DATA}.teacher", 5), r"data\.teacher: .*has no such parameter"),
    "a value of another type": (put(f"{MODEL}.num_convs", "four"), r"model\.num_convs is 'four': expected an integer"),
    "a choice that does not exist": (
        put(f"{MODEL}.loss.box_loss", "l2"), r"model\.loss\.box_loss is 'l2': expected iou or",
    ),
    "a loss that is none": (put(f"{MODEL}.loss._target_", "detectors.fcos.FCOSOutputs"), CALL),
    "a loss of another project": (put(f"{MODEL}.loss._target_", "functools.partial"), CALL),
    "a loss that a module of this project imports": (put(f"{MODEL}.loss._target_", "detectors.fcos.F.relu"), CALL),
    "no decoder": (put(f"{MODEL}.decoder", None), "its decoder is not a mapping"),
    "a decoder without a class": (put(f"{MODEL}.decoder._target_", "absent"), "its model.decoder names no class"),
    "a value that the constructor refuses": (put(f"{MODEL}.prior", 2.0), "FCOSModule.*prior=2.0: expected"),
    "without what the constructor needs": (put(f"{MODEL}.num_classes", "absent"), "missing 1 required .*num_classes"),
    "no more than one level": (put(f"{MODEL}.backbone", None), "FCOSModule.*(NoneType|backbone)"),
    # Sizes
    "a thousand million classes": (put(f"{MODEL}.num_classes", 10**9), "5 class_names, but model.num_classes=10{9}"),
    "ten million channels": (
        put(f"{MODEL}.pyramid_channels", 10**7), r"tensors do not fit: .* is float \(.*\), expected float \(10000000"),
    "more channels than any memory": (put(f"{MODEL}.pyramid_channels", 10**18), "FCOSModule.*overflow"),
    "a thousand million convolutions": (put(f"{MODEL}.num_convs", 10**9), "describes a network of over .* parameters"),
    "ten million channels of one number": (wide, "tensors do not fit: .* without its numbers"),
    # Tensors
    "a tensor less": (without(BIAS), f"1 of [0-9]+ tensors are missing: {BIAS}"),
    "a tensor more": (lambda c: c["state_dict"].update(teacher=torch.zeros(3)), "1 tensors have no place .*: teacher"),
    "a tensor of another shape": (
        weight(LOGITS, lambda w: w[:3]), rf"1 of .* do not fit: {LOGITS} is float \(3, .*, expected float \(5, ",
    ),
    "a tensor of integers": (weight(BIAS, lambda w: w.long()), rf"do not fit: {BIAS} is int64 \(5,\), expected float"),
    "a sparse tensor": (weight(BIAS, lambda w: w.to_sparse()), f"{BIAS} is torch.sparse_coo, expected float"),
    "NaN": (weight(BIAS, lambda w: w * float("nan")), f"1 of [0-9]+ tensors are not finite: {BIAS}"),
    "infinity in one place": (
        weight(LOGITS, lambda w: w.index_fill(0, torch.tensor(2), float("inf"))), f"not finite: {LOGITS}",
    ),
    "no tensor": (weight(BIAS, lambda w: w.tolist()), f"1 entries of its state_dict are not tensors: {BIAS}"),
    "a state that is a list": (lambda c: c.update(state_dict=[1]), "its state_dict is not a mapping"),
    # Expected messages
    "no mapping": (lambda c: c.update(boxwright="FCOS"), "its boxwright is not a mapping"),
    "without config": (put("config", "absent"), "its config is not a mapping"),
    "without model": (put(MODEL, "absent"), "its model is not a mapping"),
    "a model that is a text": (put(MODEL, "fcos"), "its model is not a mapping"),
    "without the rule of sizes": (put(f"{DATA}.rule", "absent"), r"its config lacks data\.rule"),
    "without memory layout": (put("config.channels_last", "absent"), "its config lacks channels_last"),
    "without class names": (put("class_names", "absent"), "it lacks 'class_names'"),
    "class names that are numbers": (put("class_names", [1, 2, 3, 4, 5]), r"class_names \[1, 2, .*don't go together"),
    "too few numbers of classes": (put("category_ids", [1]), r"category_ids \[1\] don't go together"),
    "too few classes": (
        lambda c: c["boxwright"].update(class_names=["a"], category_ids=[1]), "1 class_names, but model.num_classes=5",
    ),
    "a later format": (
        put("format", FORMAT + 1), f"it has format {FORMAT + 1}, .* this version reads formats 1 to {FORMAT}",
    ),
    "a format that is no number": (put("format", [1]), r"it has format \[1\]"),
}  # fmt: skip
"""Changes to a valid checkpoint's contents, and the expected message."""
