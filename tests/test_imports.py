"""Who may import whom, read from the sources, and what `import sb3_carracing` loads."""

import ast
import importlib
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
    helpers = {"__init__", "checks", "errors", "files", "system", "deprecated"}
    tools = [f"sb3_carracing.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem not in helpers]
    assert not importers("sb3_carracing.zoo", *tools) & room("ppo", "envs")


def test_plotting_needs_helpers_only() -> None:
    helpers = {"curves", "deprecated", "errors", "files", "logs", "run_safety"}
    found = imports(PACKAGE / "plotting.py") | imports(PACKAGE / "curves.py")
    assert {name.split(".")[1] for name in found if name.startswith("sb3_carracing.")} <= helpers


def test_evaluation_is_built_in_one_order() -> None:
    """Each of the four imports only those named before it, and none reaches into the command line."""
    order = ("pipelines", "agents", "runs", "evaluation")
    users = ("callbacks", "drives", "recording", "cockpit", "plotting", "report", "cli", "zoo")
    for place, name in enumerate(order):
        assert f"{name}.py" not in importers(*(f"sb3_carracing.{other}" for other in (*order[place + 1 :], *users))), name


def module_name(path: Path) -> str:
    return ".".join(["sb3_carracing", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Return for each module of the package the modules of it that it imports, also inside functions."""
    names = {module_name(path): path for path in MODULES}
    # The longest module that an imported name begins with is the one that is loaded for it; `import a.b` in `a` itself
    # is how a package loads its own parts.
    return {
        module: {
            found
            for name in imports(path)
            if (found := next((n for n in (name, name.rpartition(".")[0]) if n in names), None)) and found != module
        }
        for module, path in names.items()
    }


def test_nothing_is_imported_in_a_circle() -> None:
    graph = import_graph()
    # The package's __init__ only loads things on demand, but for registration.
    graph["sb3_carracing"] = {"sb3_carracing.envs.registration"}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for imported in sorted(graph[module]):
                visit(imported, (*path, module))
            finished.add(module)

    for module in sorted(graph):
        visit(module, ())


LONGEST_MODULE = 400  # lines
LONG_MODULES = {
    "ppo/beta_ppo.py": "the whole algorithm, read from top to bottom",
}
"""Modules above `LONGEST_MODULE` lines, each with the reason."""

LONG_FUNCTIONS = {
    "ppo/beta_ppo.py:BetaPPO.__init__": "PPO's 27 arguments, handed on by name",
}
"""Functions above 60 lines, each with the reason."""


def functions(path: Path) -> dict[str, int]:
    """Return the length in lines of every function and method of a file, by its dotted name."""
    found: dict[str, int] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    assert child.end_lineno is not None
                    found[inner] = child.end_lineno - child.lineno + 1
            visit(child, inner)

    visit(ast.parse(path.read_text()), "")
    return found


def test_no_module_is_too_long() -> None:
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name for name, length in lengths.items() if length > LONGEST_MODULE} <= set(LONG_MODULES)


def test_no_function_is_too_long() -> None:
    long = {
        f"{path.relative_to(PACKAGE).as_posix()}:{name}"
        for path in MODULES
        for name, length in functions(path).items()
        if length > 60
    }
    assert long <= set(LONG_FUNCTIONS)


def test_only_the_command_line_parses_arguments() -> None:
    # rl-zoo3's scripts take their arguments from argparse themselves.
    assert importers("argparse") <= room("cli", "zoo")


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


def test_public_names_are_listed_before_they_are_loaded() -> None:
    from sb3_carracing.loading import load_agent

    assert {*sb3_carracing.__all__} <= {*dir(sb3_carracing)}
    assert sb3_carracing.load_agent is load_agent


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'sb3_carracing' has no attribute 'AlphaPPO'"):
        _ = sb3_carracing.AlphaPPO


def test_moved_names_still_work_and_say_where_they_are() -> None:
    from sb3_carracing import evaluation
    from sb3_carracing.deprecated import _MOVED

    for room, names in _MOVED.items():
        for name, (module, new_name) in names.items():
            old = importlib.import_module(f"sb3_carracing.{room}")
            new = getattr(importlib.import_module(f"sb3_carracing.{module}"), new_name)
            if name in vars(old):  # the module uses the name itself
                assert getattr(old, name) is new
                continue
            with pytest.warns(DeprecationWarning, match=f"{room}.{name} is now sb3_carracing.{module}.{new_name}"):
                assert getattr(old, name) is new
    with pytest.raises(AttributeError, match=r"'sb3_carracing.evaluation' has no attribute 'evaluated'"):
        _ = evaluation.evaluated
