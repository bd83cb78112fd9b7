"""Who may import whom, read from the sources, and what `import sb3_carracing` loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_carracing

PACKAGE = Path(sb3_carracing.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, also those inside functions; relative ones made absolute."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = ("sb3_carracing", *path.relative_to(PACKAGE).parts[:-1])
            base = ".".join(here[: len(here) - node.level + 1]) + "." if node.level else ""
            module = f"{base}{node.module or ''}".rstrip(".")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def importers(*targets: str) -> set[str]:
    """Return the files, relative to the package, that import one of the modules or something inside it."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(name == target or name.startswith(f"{target}.") for name in imports(path) for target in targets)
    }


def room(*folders: str) -> set[str]:
    return {path.relative_to(PACKAGE).as_posix() for path in MODULES if path.relative_to(PACKAGE).parts[0] in folders}


def test_the_rooms_are_where_they_are_looked_for() -> None:
    for folder in ("ppo", "envs", "vec_env", "zoo"):
        assert len(room(folder)) > 1, folder
    assert "ppo/beta_ppo.py" in importers("torch", "stable_baselines3")


def test_learner_and_environments_do_not_know_each_other() -> None:
    assert not importers("sb3_carracing.envs") & room("ppo")
    assert not importers("sb3_carracing.ppo") & room("envs")


def test_environments_need_no_torch() -> None:
    assert not importers("torch") & room("envs")


def test_renderer_knows_neither_physics_nor_gymnasium() -> None:
    assert "envs/fast/renderer.py" not in importers("Box2D", "gymnasium", "sb3_carracing.envs.car_racing")


def test_only_zoo_imports_rl_zoo3_and_optuna() -> None:
    assert importers("rl_zoo3", "optuna") <= room("zoo")


def test_learner_and_environments_do_not_reach_up() -> None:
    """Neither imports the tools around them."""
    helpers = {"__init__", "checks", "errors", "files", "system"}
    tools = [f"sb3_carracing.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem not in helpers]
    assert not importers("sb3_carracing.zoo", *tools) & room("ppo", "envs")


def test_plotting_needs_nothing_of_ours() -> None:
    if not (PACKAGE / "plotting.py").exists():
        pytest.skip("no plotting.py")
    assert not [name for name in imports(PACKAGE / "plotting.py") if name.startswith("sb3_carracing")]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_no_torch_and_registers_the_ids() -> None:
    out = run_python(
        "import sys, sb3_carracing, gymnasium\n"
        "print([m for m in ('torch', 'stable_baselines3', 'rl_zoo3', 'pygame', 'cv2', 'matplotlib') if m in sys.modules])\n"
        "print([i for i in gymnasium.registry if i.startswith('CarRacing')])\n"
    ).splitlines()
    assert out[0] == "[]"
    for env_id in ("CarRacingFast-v3", "CarRacingBlog-v3", "CarRacingIurin-v3"):
        assert env_id in out[1]


def test_beta_ppo_is_loaded_when_asked_for() -> None:
    out = run_python(
        "import sys; from sb3_carracing import BetaPPO\n"
        "print(BetaPPO.__module__, 'torch' in sys.modules, 'rl_zoo3' in sys.modules, 'optuna' in sys.modules)\n"
    )
    assert out.split() == ["sb3_carracing.ppo.beta_ppo", "True", "False", "False"]


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'sb3_carracing' has no attribute 'AlphaPPO'"):
        _ = sb3_carracing.AlphaPPO
