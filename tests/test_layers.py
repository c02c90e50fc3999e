"""Imports run in one direction, so that each package can be read without the ones above it."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
MODULES = sorted(SRC.rglob("*.py"))
DETECTORS = {file.stem for file in (ROOT / "conf" / "model").glob("*.yaml")}

MAY_IMPORT = {
    "detectors": set(),
    "evaluation": set(),
    "datamodules": {"evaluation.truth", "evaluation.files", "evaluation.errors", "evaluation.wording"},
    "reports": {"evaluation"},
    "lit_modules": {"detectors", "datamodules.batch", "evaluation", "reports"},
    "boxwright": {"detectors", "datamodules", "evaluation", "reports", "lit_modules"},
}
PACKAGES = tuple(MAY_IMPORT)

FRAMEWORKS = {"pytorch_lightning", "hydra", "omegaconf", "wandb", "rich", "matplotlib"}
NEVER = {
    "detectors": FRAMEWORKS,
    "evaluation": FRAMEWORKS,
    "datamodules": {"hydra", "omegaconf", "wandb", "matplotlib"},
    "reports": {"pytorch_lightning", "hydra", "omegaconf", "wandb"},
    "lit_modules": {"hydra", "omegaconf"},
    "boxwright": set(),
}

LIGHT = (
    "boxwright.config", "boxwright.runs", "boxwright.frame", "boxwright.predict.sources", "boxwright.zoo.catalogue",
    "boxwright.zoo.names", "boxwright.zoo.address", "boxwright.push.command",
)  # fmt: skip
"""Modules that are imported before a config is checked, so they must import fast."""


def imports(file: Path) -> set[str]:
    """Modules that a file imports: at its top, in functions, and for type checking alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names | ({str(node.module)} if names - NAMES.keys() else set())
    return found


def name(file: Path) -> str:
    return ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name(file): file for file in MODULES}


def imported_modules(file: Path) -> set[str]:
    """This project's modules among the imports of a file."""
    return {module for module in imports(file) if module in NAMES and NAMES[module] != file}


def test_every_package_has_modules():
    assert {name(file).split(".")[0] for file in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_run_one_way(file):
    package = name(file).split(".")[0]
    allowed = MAY_IMPORT[package] | {package}
    for module in imports(file):
        top = module.split(".")[0]
        assert top not in NEVER[package], f"{name(file)} imports {module}, which {package} must not know"
        if top in PACKAGES:
            assert any(module == ok or module.startswith(f"{ok}.") for ok in allowed), (
                f"{name(file)} imports {module}; {package} may import {sorted(allowed)}"
            )


def test_no_module_imports_itself_by_way_of_others():
    """Imports for type checking and inside functions count as well."""
    arrows = {module: imported_modules(file) for module, file in NAMES.items()}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in finished:
            for other in arrows[module]:
                visit(other, (*path, module))
            finished.add(module)

    for module in arrows:
        visit(module, ())


SCRIPTS = {file.stem for file in ROOT.glob("*.py")}


@pytest.mark.parametrize("file", [f for f in MODULES if f.parent.parent == SRC / "boxwright"], ids=name)
def test_folders_of_scripts_never_import_one_another(file):
    own = file.parent.name
    for module in imported_modules(file):
        parts = module.split(".")
        if parts[0] == "boxwright" and len(parts) > 2:
            assert parts[1] == own or parts[1] not in SCRIPTS, f"{name(file)} imports {module}"


def built_on(detector):
    """The other detectors whose networks a detector extends, as the two stages of one paper do."""
    module = import_module(f"detectors.{detector}")
    own = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    return {
        base.__module__.split(".")[1] for x in own for base in x.__mro__ if base.__module__.startswith("detectors.")
    }


@pytest.mark.parametrize("file", [f for f in MODULES if f.stem in DETECTORS], ids=name)
def test_detectors_never_import_one_another_except_those_that_they_extend(file):
    for module in imports(file):
        parts = module.split(".")
        if parts[0] in ("detectors", "lit_modules") and len(parts) > 1:
            assert parts[1] not in DETECTORS - {file.stem} - built_on(file.stem)


@pytest.mark.parametrize("file", [*MODULES, *ROOT.glob("*.py")], ids=lambda f: f.name)
def test_one_lightning_only(file):
    assert "lightning" not in {module.split(".")[0] for module in imports(file)}


def test_nothing_foreign_shadows_the_packages_from_another_folder(tmp_path):
    command = f"import {', '.join(PACKAGES)}; print(*[p.__file__ for p in ({', '.join(PACKAGES)})])"
    printed = subprocess.check_output([sys.executable, "-c", command], cwd=tmp_path, text=True).split()
    assert printed == [str(SRC / package / "__init__.py") for package in PACKAGES]


def test_a_config_is_checked_without_heavy_imports():
    light = [module for module in NAMES if module.startswith(LIGHT)]
    command = f"import {', '.join(light)}, sys; print(sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", command], text=True).strip() == "[]"
