"""Curves of a resumed run are one curve, with every digit."""

import csv
from pathlib import Path

import pytest

from lit_modules.loggers.csv_file import CSVLogger
from lit_modules.loggers.wandb import WandbLogger, has_api_key


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_resumed_run_drops_what_it_will_compute_again_and_keeps_the_rest(tmp_path):
    logger = CSVLogger(str(tmp_path))
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 1 / step}, step)
    resumed = CSVLogger(str(tmp_path))
    resumed.drop_after(2)
    resumed.log_metrics({"train/loss": 0.25}, 3)
    assert rows(tmp_path) == [
        {"step": "1", "train/loss": "1.0"},
        {"step": "2", "train/loss": "0.5"},
        {"step": "3", "train/loss": "0.25"},
    ]


def test_a_validation_that_is_repeated_takes_the_place_of_the_first(tmp_path):
    logger = CSVLogger(str(tmp_path))
    logger.log_metrics({"train/loss": 2.0}, 4)
    logger.log_metrics({"val/AP": 0.1}, 4)
    again = CSVLogger(str(tmp_path))
    again.drop_after(4)
    again.log_metrics({"val/AP": 0.2}, 4)
    assert rows(tmp_path) == [{"step": "4", "train/loss": "2.0"}, {"step": "4", "val/AP": "0.2"}]


def test_a_new_column_keeps_the_rows_before_it_and_every_digit(tmp_path):
    logger = CSVLogger(str(tmp_path))
    logger.log_metrics({"a": 0.1 + 0.2}, 1)
    logger.log_metrics({"a": 1e-300, "b": float("nan")}, 2)
    assert rows(tmp_path) == [{"step": "1", "a": "0.30000000000000004"}, {"step": "2", "a": "1e-300", "b": "nan"}]


def test_an_api_key_is_looked_for_where_wandb_does(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_api_key()
    (tmp_path / "netrc").write_text("machine github.com login me password x\n")
    assert not has_api_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    assert has_api_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_api_key()
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password x")
    assert has_api_key()
    (tmp_path / "netrc").write_text("not a netrc")
    assert not has_api_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_api_key()


def test_online_without_an_api_key_is_refused_rather_than_asked_for(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match=r"logger\.wandb\.mode=online.*set WANDB_API_KEY, or run `wandb login`"):
        WandbLogger(str(tmp_path), mode="online")
