"""`compile=true` compiles only the forward pass of training steps, with the numbers of the uncompiled one."""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composing import MODELS, built, composed, random_batch
from tiers import slow_but

from boxwright.build import check_compiler
from boxwright.config.errors import ConfigError
from lit_modules.callbacks.compiled import Compiled, compile_options

TRAINER: Any = SimpleNamespace()


@pytest.fixture(autouse=True)
def _no_graphs_of_others() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("model", slow_but(of=[name for name in MODELS if name != "classifier"]))
def test_a_compiled_step_has_the_numbers_of_an_uncompiled_one(model: str) -> None:
    """The graph is traced as usual, but run by torch's own operators, so that no compiler adds rounding."""
    module = built(composed(f"model={model}", "model/backbone=resnet18", "data=shapes", "data.num_classes=1"))
    module.train()
    batch = random_batch(2, 1)
    callback = Compiled(backend="eager")
    callback.on_fit_start(TRAINER, module)
    seen: list[dict[str, float]] = []
    for compiles in (False, True):
        torch.manual_seed(0)
        module.zero_grad()
        if compiles:
            callback.on_train_batch_start(TRAINER, module, batch, 0)
            assert all("forward" in vars(part) for part in module.network.children())
        losses = module.losses(module.forward_batch(batch), batch)
        total = torch.stack(list(losses.values())).sum()
        callback.on_before_backward(TRAINER, module, total)
        total.backward()
        gradients = [p.grad.norm() for p in module.network.parameters() if p.grad is not None]
        seen.append({k: v.item() for k, v in losses.items()} | {"gradient": torch.stack(gradients).norm().item()})
    assert seen[1] == pytest.approx(seen[0], rel=1e-6)
    assert not any("forward" in vars(part) for part in module.network.children())


def test_a_run_that_fails_leaves_the_network_as_it_was() -> None:
    module = built(composed("model=fcos", "model/backbone=resnet18", "data=shapes"))
    callback = Compiled(backend="eager")
    callback.on_fit_start(TRAINER, module)
    callback.on_train_batch_start(TRAINER, module, random_batch(1, 1), 0)
    callback.on_exception(TRAINER, module, ValueError())
    assert not any("forward" in vars(part) for part in module.network.children())


def test_kernels_of_one_instruction_set_are_never_used_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored afterwards

    def folder(capability: str, limit: str = "") -> str:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        compile_options()
        return os.environ["TORCHINDUCTOR_CACHE_DIR"]

    assert len({folder("AVX512"), folder("AVX2"), folder("AVX512", "AVX2")}) == 3
    assert folder("AVX2") == folder("AVX2")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "the user's own")
    compile_options()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "the user's own"


def test_without_a_compiler_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found in cpp.cxx: ('g++',)")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(
        ConfigError, match=r"compile=true: .* for cpu here \(No working C\+\+ compiler .* leave out compile"
    ):
        check_compiler(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ and /proc")
def test_signals_to_all_processes_do_not_reach_the_compiler(tmp_path: Path) -> None:
    """Schedulers and Ctrl-C signal all processes, possibly while a compiler works."""
    script = """
        import os, signal, threading, time
        from pathlib import Path
        import torch
        from lit_modules.callbacks.compiled import signals_wait
        from boxwright.build import check_compiler

        def compiles():
            for process in Path("/proc").glob("[0-9]*/stat"):
                try:
                    name, _, rest = process.read_text().partition("(")[2].rpartition(")")[::1]
                except OSError:
                    continue
                if name == "cc1plus" and int(rest.split()[2]) == os.getpgrp():
                    return True
            return False

        def signal_all():
            while not compiles():
                time.sleep(0.01)
            os.killpg(0, signal.SIGTERM)
            os.killpg(0, signal.SIGINT)
            print("sent", flush=True)

        told = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: told.append(signal.Signals(number).name))
        check_compiler(torch.device("cpu"))
        threading.Thread(target=signal_all, daemon=True).start()
        with signals_wait():
            print(torch.compile(lambda x: (x.sin() * 2).cos())(torch.zeros(9)).sum().item(), flush=True)
        print(*sorted(told))
    """
    source = str(Path(__file__).parents[2] / "src")
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": source}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=env, capture_output=True, text=True, start_new_session=True
    )
    assert ran.stdout.split("\n")[:3] == ["sent", "9.0", "SIGINT SIGTERM"], ran.stdout + ran.stderr
