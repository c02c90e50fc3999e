"""The private names of Lightning that this project uses exist and behave as it expects."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl

from lit_modules import lightning_internals
from lit_modules.lightning_internals import OVERRIDDEN, is_within_step, take_sigterm

SRC = Path(lightning_internals.__file__).parents[1]
TRAINER = pl.Trainer(barebones=True)
OWNED = [
    (TRAINER.fit_loop, "_should_accumulate"),
    (TRAINER.fit_loop, "_data_fetcher"),
    (TRAINER.fit_loop.epoch_loop, "_should_check_val_fx"),
    (TRAINER.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    (TRAINER, "_signal_connector"),
    (TRAINER.fit_loop, "_data_source"),
    (TRAINER.predict_loop, "_data_source"),
    (TRAINER.validate_loop, "_combined_loader"),
    (pl.Trainer, "_evaluation_loop"),
]


@pytest.mark.parametrize(("owner", "name"), OWNED, ids=lambda value: value if isinstance(value, str) else "")
def test_private_names_exist(owner: object, name: str) -> None:
    assert hasattr(owner, name)


def test_the_list_of_private_names_is_complete() -> None:
    tree = ast.parse(inspect.getsource(lightning_internals))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    assert used == {name for _, name in OWNED}


@pytest.mark.parametrize("path", OVERRIDDEN)
def test_overridden_names_exist(path: str) -> None:
    module, _, name = path.rpartition(".")
    bases = getattr(import_module(module), name).__mro__[:-1]
    source = "".join(inspect.getsource(base) for base in bases)
    for attribute in OVERRIDDEN[path]:
        assert attribute in source


def test_sigterm_is_handled_once() -> None:
    trainer = pl.Trainer(barebones=True)
    trainer._signal_connector.received_sigterm = True
    assert take_sigterm(trainer)
    assert not take_sigterm(trainer)


def test_the_last_micro_batch_is_not_within_a_step() -> None:
    loop: Any = SimpleNamespace(_should_accumulate=lambda: False)
    assert not is_within_step(SimpleNamespace(fit_loop=loop))  # pyright: ignore[reportArgumentType]


def test_no_other_file_reaches_into_a_loop_or_connector() -> None:
    private = {name for _, name in OWNED}
    for file in SRC.rglob("*.py"):
        if file.name != "lightning_internals.py":
            names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
            assert not names & private, file
