"""The jobs of a sweep: what they have in common, the command of each, and how their processes end."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from boxwright.config.files import CONF
from boxwright.config.resolvers import register_resolvers
from boxwright.runs.folder import keep_failure
from boxwright.runs.jobs import JobError, _command, _end_if_signalled, _follow, _results
from boxwright.runs.sweep import Sweep


@pytest.fixture(autouse=True)
def _in_hydra() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def started(*overrides: str) -> tuple[DictConfig, Sweep]:
    """The config of `train.py -m OVERRIDES` once `Sweep` has seen it."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    cfg = hydra.compose_config("train", list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    sweep = Sweep()
    sweep.on_multirun_start(cfg, config_name="train")
    return cfg, sweep


def jobs(cfg: DictConfig, *overrides: str) -> DictConfig:
    """The config of one job of a sweep that has started."""
    return GlobalHydra.instance().config_loader().load_sweep_config(cfg, [*overrides])


def test_only_what_is_swept_is_in_a_jobs_folder():
    cfg, sweep = started("data.resize=400,500", "data.root=/data/coco", "trainer.max_steps=10", "seed=0,1")
    job = jobs(cfg, "data.resize=500", "data.root=/data/coco", "trainer.max_steps=10", "seed=1")
    assert job.hydra.sweep.dir == "runs/sweeps/fcos-coco"
    assert job.hydra.sweep.subdir == "data.resize=500,seed=1"
    assert sweep._total == 4


def test_a_sweep_of_one_value_is_named_as_in_a_longer_one():
    cfg, _ = started("data.resize=900", "data.root=/data/coco", "trainer.devices=8")
    job = jobs(cfg, "data.resize=900", "data.root=/data/coco", "trainer.devices=8")
    assert job.hydra.sweep.subdir == "data.resize=900"


def test_swept_devices_are_in_a_jobs_folder():
    cfg, _ = started("trainer.devices=1,2")
    assert jobs(cfg, "trainer.devices=2").hydra.sweep.subdir == "trainer.devices=2"


def test_jobs_of_several_models_share_name_folder_and_group():
    cfg, _ = started("model=fcos,retinanet", "data.resize=400,500")
    assert cfg.name == "fcos-coco+retinanet-coco"
    assert "name='fcos-coco+retinanet-coco'" in cfg.hydra.overrides.task
    job = jobs(cfg, *cfg.hydra.overrides.task[2:], "model=retinanet", "data.resize=500")
    assert job.hydra.sweep.dir == "runs/sweeps/fcos-coco+retinanet-coco"
    assert job.logger.wandb.group == "fcos-coco+retinanet-coco"


def test_a_given_name_or_one_that_all_jobs_share_is_kept():
    assert started("model=fcos,retinanet", "name=mine")[0].name == "mine"
    cfg, _ = started("model=fcos", "data.resize=400,500")
    assert not any(line.startswith("name") for line in cfg.hydra.overrides.task)


@pytest.mark.parametrize("override", ["resume=last", "name=a,b"])
def test_settings_that_jobs_cannot_have_are_refused_before_the_first_job(override, capsys):
    with pytest.raises(SystemExit) as stop:
        started("data.resize=400,500", override)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"{override}: ")


def test_torchrun_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(SystemExit):
        started("data.resize=400,500")
    assert "without torchrun" in capsys.readouterr().err


def test_a_jobs_command_is_that_of_a_single_run_in_its_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "data.resize=400,500", "--config-dir=more"])
    cfg, _ = started("data.resize=400,500", "hydra.verbose=true")
    job = jobs(cfg, "data.resize=500")
    command = _command(job.hydra, tmp_path / "it's here")
    assert command[1:] == [
        os.path.abspath("train.py"), "--config-dir=more", "data.resize=500", "hydra.verbose=true",
        rf"hydra.run.dir='{tmp_path}/it\'s here'",
    ]  # fmt: skip


def test_a_failure_is_reported_and_hidden_from_hydra(capsys):
    cfg, sweep = started("data.resize=400,500")
    job = jobs(cfg, "data.resize=500")
    OmegaConf.update(job, "hydra.mode", "MULTIRUN", force_add=True)
    OmegaConf.update(job, "hydra.job.num", 1, force_add=True)
    returned = JobReturn(status=JobStatus.FAILED)
    returned.return_value = JobError("no memory")
    sweep.on_job_end(job, returned)
    assert returned.return_value != returned.return_value  # nan, which optimizing sweepers treat as a failure
    assert "job 2 of 2: data.resize=500 failed: no memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({"score": 0.25}, "val/AP_large 25.00 %"),
        ({"score": -1.0}, "val/AP_large -"),
        ({"score": 0.25, "score_of": "val/AP"}, "val/AP 25.00 %"),
    ],
)
def test_a_finished_job_reports_its_score_and_metric(results, said, tmp_path, capsys):
    cfg, sweep = started("data.resize=400,500", "callbacks.checkpoints.monitor=val/AP_large")
    job = jobs(cfg, "data.resize=500", "callbacks.checkpoints.monitor=val/AP_large")
    OmegaConf.update(job, "hydra.mode", "MULTIRUN", force_add=True)
    OmegaConf.update(job, "hydra.job.num", 1, force_add=True)
    OmegaConf.update(job, "hydra.runtime.output_dir", str(tmp_path), force_add=True)
    (tmp_path / "finished.json").write_text(json.dumps(results))
    sweep.on_job_start(job)
    returned = JobReturn(status=JobStatus.COMPLETED)
    returned.return_value = results["score"]
    sweep.on_job_end(job, returned)
    assert capsys.readouterr().out.endswith(f"is finished already: {said}\n")


def follow(script: str) -> tuple[int, int | None]:
    return _follow([sys.executable, "-c", script])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_job_is_sent_the_signal_and_its_exit_code_is_awaited(signum, code, tmp_path):
    ready = tmp_path / "ready"
    handler = f"signal.signal({int(signum)}, lambda *_: sys.exit({code}))"
    script = f"import pathlib, signal, sys, time; {handler}; pathlib.Path({str(ready)!r}).touch(); time.sleep(20)"

    def send() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send)
    before = signal.getsignal(signum)
    sender.start()
    assert follow(script) == (code, signum)
    sender.join()
    assert signal.getsignal(signum) == before
    with pytest.raises(SystemExit) as stop:
        _end_if_signalled(code, signum)
    assert stop.value.code == code


def test_nothing_of_a_failed_job_stays_behind(tmp_path):
    file = tmp_path / "pid"
    left = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])"
    code, told = follow(
        f"import pathlib, subprocess, sys; p = {left}; pathlib.Path({str(file)!r}).write_text(str(p.pid)); sys.exit(3)"
    )
    assert (code, told) == (3, None)
    for _ in range(200):
        if not is_at_work(int(file.read_text())):
            return
        time.sleep(0.01)
    pytest.fail("a process of the job is still at work")


def is_at_work(pid: int) -> bool:
    """Whether a process runs; an ended one may remain as a zombie until its exit code is read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_that_was_killed_failed_by_that_signal(tmp_path):
    with pytest.raises(JobError, match=r"killed by SIGKILL.*memory"):
        _results(tmp_path, -signal.SIGKILL)
    assert "SIGKILL" in json.loads((tmp_path / "failed.json").read_text())["reason"]


def test_the_reason_that_a_job_gave_itself_is_kept(tmp_path):
    keep_failure(tmp_path, "the loss is not finite")
    with pytest.raises(JobError, match="not finite"):
        _results(tmp_path, 1)
