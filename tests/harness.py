"""`train.py` with a kill at a chosen moment: python tests/harness.py OVERRIDES..., the moment in $KILL as JSON.

    {"at": "batch_end", "batch": 3}      after so many micro-batches since the start of the process
    {"at": "validation", "batch": 1}     in the middle of the first validation
    {"at": "validation_start", "batch": 2}   at the start of the second validation
    {"at": "saving", "number": 2}        while the second checkpoint is being written

With "sig": "SIGXFSZ" no file can grow over a megabyte from then on, as on a disk that is nearly full.

`python tests/harness.py --serve` imports everything once, then forks for each run that it is asked for on
standard input, since most of a small run's time is its imports.
"""

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytorch_lightning as pl

ROOT = Path(__file__).parents[1]


def kill() -> None:
    """Ends every process of the run at once, as a machine failure does."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


class Kill(pl.Callback):
    def __init__(self, at: str, batch: int = 0, sig: str = "SIGKILL", group: bool = False, **_) -> None:
        self.at, self.batch, self.sig, self.group, self.seen = at, batch, sig, group, 0

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self.batch:
            if self.sig == "SIGKILL":
                kill()
            elif self.sig == "SIGXFSZ":
                resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
            else:
                whom = -os.getpgid(0) if self.group else os.getpid()
                subprocess.run(["sh", "-c", f"kill -s {self.sig.removeprefix('SIG')} -- {whom}"])  # from outside

    def on_train_batch_end(self, *_) -> None:
        if self.at == "batch_end":
            self._count()

    def on_train_batch_start(self, *_) -> None:
        if self.at == "batch_start":
            self._count()

    def on_validation_start(self, *_) -> None:
        if self.at == "validation_start":
            self._count()

    def on_validation_batch_end(self, *_) -> None:
        if self.at == "validation":
            self._count()


def main(arguments: list[str], script: str = "train.py") -> None:
    """Runs train.py or another root script in this process, with a kill set up."""
    from boxwright import build

    spec = json.loads(os.environ.get("KILL", "null"))
    if spec is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        if spec["at"] == "saving":
            kill_while_saving(spec["number"])
        make_trainer = build.make_run_trainer

        def make_killed_trainer(cfg, run):
            trainer = make_trainer(cfg, run)
            trainer.callbacks.insert(0, Kill(**spec))  # before callbacks that save
            return trainer

        build.make_run_trainer = make_killed_trainer
    sys.argv = [__file__, *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def kill_while_saving(number: int) -> None:
    fsync, seen = os.fsync, 0

    def fail(descriptor: int) -> None:
        nonlocal seen
        if ".ckpt." in os.readlink(f"/proc/self/fd/{descriptor}"):
            seen += 1
            if seen == number:
                os.ftruncate(descriptor, 1000)
                kill()
        fsync(descriptor)

    os.fsync = fail


def serve() -> None:
    """Reads requests as lines of JSON (script, overrides, folder, env, log) and answers each with a line, its exit
    code.
    """
    import wandb  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(request: dict) -> None:
    """Runs a request in the forked process; never returns."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["env"])
    if request["path"] is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (request["path"], os.environ.get("PYTHONPATH"))))
        sys.path.insert(0, request["path"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        main(request["overrides"], request["script"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main(sys.argv[1:])
