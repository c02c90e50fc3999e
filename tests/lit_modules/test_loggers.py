"""The curves of a resumed run are continuous and keep every digit; W&B's errors never end a run."""

import csv
from pathlib import Path
from typing import Any

import pytest

from lit_modules.loggers import wandb as ours
from lit_modules.loggers.csv_file import CSVLogger
from lit_modules.loggers.wandb import WandbLogger, has_api_key


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_resumed_run_drops_repeated_rows_and_keeps_the_rest(tmp_path):
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


def test_a_repeated_validation_replaces_the_first(tmp_path):
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


def test_an_api_key_is_looked_for_where_wandb_looks(tmp_path, monkeypatch):
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


def test_online_without_an_api_key_is_refused_without_a_prompt(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match=r"logger\.wandb\.mode=online.*set WANDB_API_KEY, or run `wandb login`"):
        WandbLogger(str(tmp_path), mode="online")


@pytest.fixture
def with_key(monkeypatch, tmp_path):
    """Sets an API key for the user."""
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setattr(ours, "_folders", {})


def test_without_an_answer_the_run_goes_offline_soon_with_a_message(with_key, monkeypatch, tmp_path, caplog):
    import wandb

    monkeypatch.setattr(ours, "_ANSWER", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server listens there
    logger = WandbLogger(str(tmp_path))
    try:
        logger.drop_after(0)
        logger.log_hyperparams({"a": 1})
        logger.log_metrics({"x": 1.0}, 1)
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "W&B: http://127.0.0.1:9 gave no answer in 1 s, or refused (" in line
        assert f"; offline in {tmp_path}/wandb, and `wandb sync` uploads it" in line
        assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
        assert not list((tmp_path / "wandb").glob("run-*"))
    finally:
        logger.experiment.finish()
        wandb.teardown()


class Server:
    """A stand-in for W&B whose server behaves as a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import wandb

        self.modes: list[str] = []
        self.settings: list[Any] = []
        self.refuses: Exception | None = None
        self.dir, self.ended, self.at_exit = "wandb/run-1-a/files", [], []
        monkeypatch.setattr(wandb, "init", self.init)
        monkeypatch.setattr(wandb, "teardown", lambda: None)
        monkeypatch.setattr(ours.atexit, "register", self.at_exit.append)

    def init(self, mode: str, settings: Any, **_: Any) -> "Server":
        self.modes.append(mode)
        self.settings.append(settings)
        if self.refuses is not None and mode == "online":
            raise self.refuses
        return self

    def finish(self, exit_code: int | None) -> None:
        self.ended.append(exit_code)
        raise TimeoutError


@pytest.fixture
def server(with_key, monkeypatch) -> Server:
    return Server(monkeypatch)


def test_a_refusal_by_wandb_gives_a_warning_and_the_run_continues(server, tmp_path, caplog):
    from wandb.errors import UsageError

    server.refuses = UsageError("WANDB_API_KEY invalid\nadvice")
    assert WandbLogger(str(tmp_path)).experiment is server
    assert server.modes == ["online", "offline"]
    assert "(WANDB_API_KEY invalid); offline" in caplog.text


def test_a_server_that_fails_during_the_run_is_waited_for_briefly(server, tmp_path, caplog):
    logger = WandbLogger(str(tmp_path))
    logger.finalize("success")
    assert not server.ended  # more is logged after training
    logger.finalize("failed")
    assert server.ended == [1]
    assert server.at_exit == [logger._end]  # the exit handler ends a run that did not fail
    assert server.modes == ["online"]
    assert (server.settings[0].init_timeout, server.settings[0].finish_timeout) == (20, 60)
    assert server.settings[0].finish_timeout_raises
    assert "W&B: not everything was uploaded in 60 s; all of it is in wandb/run-1-a, and" in caplog.text


def test_the_users_own_timeout_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")
    assert WandbLogger(str(tmp_path)).experiment is server
    assert "init_timeout" not in server.settings[0].model_fields_set
