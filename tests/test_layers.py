"""Imports run one way, so that each package can be read without the ones above it."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PACKAGES = ("detectors", "datamodules", "evaluation", "lit_modules")
MODULES = sorted(SRC.rglob("*.py"))
DETECTORS = {file.stem for file in (ROOT / "conf" / "model").glob("*.yaml")}

MAY_IMPORT = {
    "detectors": set(),
    "evaluation": set(),
    "datamodules": {"evaluation.truth"},
    "lit_modules": {"detectors", "datamodules.batch", "evaluation"},
}

ALONE_MAY_IMPORT = {  # a picture is read and sized exactly as in validation
    "lit_modules.prediction": {"datamodules.dataset", "datamodules.images", "datamodules.transforms"},
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def name(file: Path) -> str:
    return str(file.relative_to(SRC).with_suffix("")).replace("/", ".")


def test_every_package_has_modules():
    assert {name(file).split(".")[0] for file in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_run_one_way(file):
    package = name(file).split(".")[0]
    allowed = MAY_IMPORT[package] | {package} | ALONE_MAY_IMPORT.get(name(file), set())
    for module in imports(file):
        if module.split(".")[0] in PACKAGES:
            assert any(module == ok or module.startswith(f"{ok}.") or ok.startswith(f"{module}.") for ok in allowed), (
                f"{name(file)} imports {module}; {package} may import {sorted(allowed)}"
            )


def built_on(detector):
    """The other detectors whose networks its own extends, as the two halves of one paper do."""
    module = import_module(f"detectors.{detector}")
    own = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    return {
        base.__module__.split(".")[1] for x in own for base in x.__mro__ if base.__module__.startswith("detectors.")
    }


@pytest.mark.parametrize("file", [f for f in MODULES if f.stem in DETECTORS], ids=name)
def test_detectors_never_import_one_another_but_what_they_are_built_on(file):
    for module in imports(file):
        parts = module.split(".")
        if parts[0] in ("detectors", "lit_modules") and len(parts) > 1:
            assert parts[1] not in DETECTORS - {file.stem} - built_on(file.stem)


@pytest.mark.parametrize("file", [f for f in MODULES if name(f).split(".")[0] in ("detectors", "evaluation")], ids=name)
def test_detectors_and_evaluation_know_no_framework(file):
    tops = {module.split(".")[0] for module in imports(file)}
    assert not tops & {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"}


@pytest.mark.parametrize("file", [*MODULES, *ROOT.glob("*.py")], ids=lambda f: f.name)
def test_one_lightning_only(file):
    assert "lightning" not in {module.split(".")[0] for module in imports(file)}


def test_nothing_foreign_shadows_the_packages_from_another_folder(tmp_path):
    command = f"import {', '.join(PACKAGES)}; print(*[p.__file__ for p in ({', '.join(PACKAGES)})])"
    printed = subprocess.check_output([sys.executable, "-c", command], cwd=tmp_path, text=True).split()
    assert printed == [str(SRC / package / "__init__.py") for package in PACKAGES]


def test_a_config_is_checked_without_heavy_imports():
    command = "import lit_modules.runs, lit_modules.settings, sys; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", command], text=True).strip() == "[]"
