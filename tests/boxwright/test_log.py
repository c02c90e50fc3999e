"""Printing when the reader of the output has ended, as in `train.py | head`."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from boxwright.runs.jobs import print_once
from boxwright.runs.log import Console, end_with_reader


def without_reader(do: Callable[[], object], folder: Path) -> tuple[int, str]:
    """The exit code of a process whose standard output nobody reads, and its standard error."""
    read, write = os.pipe()
    os.close(read)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(write, 1)
            os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            do()
            sys.stdout.flush()
            sys.stderr.flush()
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), (folder / "stderr").read_text()


def test_a_run_continues_silently(tmp_path):
    def log_and_print() -> None:
        log = logging.Logger("run")
        log.addHandler(Console())
        for line in range(3):
            log.info("line %d", line)
            print_once("job")

    assert without_reader(log_and_print, tmp_path) == (0, "")


def test_a_script_that_only_prints_ends_silently(tmp_path):
    def print_help() -> None:
        end_with_reader()
        print("help", flush=True)

    assert without_reader(print_help, tmp_path) == (-13, "")
