"""What a run folder may contain: YAML without Python objects, text without code, known wrappers and environments.

The user's own folders are not trusted either, since commands download into them. What is refused here is read only with
`trust` (`--trust` on the command line), which may run code.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sb3_carracing.errors import UserError

WRAPPER_MODULES = (
    *("sb3_carracing.envs.wrappers", "gymnasium.wrappers", "rl_zoo3.wrappers", "sb3_contrib.common.wrappers"),
    *("stable_baselines3.common.atari_wrappers", "stable_baselines3.common.vec_env"),
)
"""Modules whose wrappers a run folder may name."""
_WRITE_FILES = {"RecordVideo", "VecVideoRecorder", "VecMonitor", "Monitor"}


class DataLoader(yaml.SafeLoader):
    """Reads the YAML that rl-zoo3 writes: knows the tags of ordered dicts, tuples and text and refuses all others."""


def _ordered_dict(loader: DataLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != 1:
        raise yaml.constructor.ConstructorError(None, None, "an OrderedDict must have pairs", node.start_mark)
    (pairs,) = loader.construct_sequence(node, deep=True)
    return dict(pairs)


def _tuple(loader: DataLoader, node: yaml.Node) -> tuple[Any, ...]:
    assert isinstance(node, yaml.SequenceNode)
    return tuple(loader.construct_sequence(node, deep=True))


def _text(loader: DataLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


def _refuse(loader: DataLoader, node: yaml.Node) -> Any:
    raise UserError(
        f"{loader.name} holds a Python object ({node.tag.removeprefix('tag:yaml.org,2002:')}), which is made only with "
        "trust=True (--trust), because that runs code"
    )


DataLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)
DataLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
for _name in ("str", "unicode"):
    DataLoader.add_constructor(f"tag:yaml.org,2002:python/{_name}", _text)
DataLoader.add_constructor(None, _refuse)


class RunLoader(DataLoader):
    """Reads YAML with any tag of a Python object, but ignores the tag and returns the plain content."""


def _content(loader: RunLoader, suffix: str, node: yaml.Node) -> Any:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else suffix


RunLoader.add_multi_constructor("tag:yaml.org,2002:python/", _content)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file of a run folder, or an empty one if there is no such file.

    Raises:
        UserError: the file is damaged or does not hold a mapping.
    """
    if not file.is_file():
        return {}
    try:
        content = yaml.load(file.read_text(), RunLoader)
    except (yaml.YAMLError, ValueError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold a mapping, got {type(content).__name__}")
    return content


def check_run_folder(folder: str | Path, trust: bool = False) -> None:
    """Check everything in a run folder except agents and running means, which their own readers check.

    Args:
        folder: holds <env-id>/config.yml and args.yml.
        trust: allow wrappers, environments and text of any kind.

    Raises:
        UserError: something is refused. The message names it.
    """
    for file in sorted(Path(folder).glob("*/*.yml")):
        content = read_yaml(file)
        if trust:
            continue
        for key in ("env_wrapper", "vec_env_wrapper"):
            check_wrappers(content.get(key), str(file))
        for key in ("normalize", "policy_kwargs", "monitor_kwargs", "replay_buffer_kwargs"):
            if isinstance(content.get(key), str):
                evaluate(content[key], f"{file}: {key}")
        check_env_id(content.get("env"), str(file))


def check_wrappers(entry: Any, file: str) -> None:
    """Raise `UserError` if the `env_wrapper` of a YAML file names a wrapper outside the list."""
    for item in entry if isinstance(entry, list | tuple) else [entry]:
        for path in item if isinstance(item, dict) else [item]:
            if path is not None:
                check_wrapper(str(path), file)


def check_wrapper(path: str, file: str) -> None:
    """Raise `UserError` if a dotted path names no wrapper of `WRAPPER_MODULES`, or one that writes files."""
    module, _, name = path.rpartition(".")
    if module not in WRAPPER_MODULES or not re.fullmatch(r"[A-Z]\w*", name) or name in _WRITE_FILES:
        raise UserError(
            f"{file} names the wrapper {path}, which is imported only with trust=True (--trust), because that runs its code"
        )


def check_env_id(env_id: Any, file: str) -> None:
    """Raise `UserError` if an environment id names a module to import."""
    if env_id is not None and ":" in str(env_id):
        raise UserError(
            f"{file} names the environment {env_id}, whose module is imported only with trust=True (--trust), because that "
            "runs its code"
        )


_OPERATIONS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def evaluate(text: str, what: str, modules: Iterable[str] = ("nn", "th.nn", "torch.nn", "th.optim", "torch.optim")) -> Any:
    """Return the value of a Python expression in rl-zoo3's files without running code.

    It may hold numbers, strings, lists, tuples, dicts, `dict(...)`, sums and products of numbers, and classes of torch.nn and
    torch.optim: `dict(net_arch=[64, 64], activation_fn=nn.ReLU)`.

    Raises:
        UserError: it holds anything else.
    """
    try:
        if len(text) > 10_000:
            raise ValueError("it is too long")
        return _value(ast.parse(text.strip(), mode="eval").body, tuple(modules))
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError, AttributeError) as error:
        raise UserError(
            f"{what} is the text {text!r:.120}, which is evaluated only if it is data such as dict(net_arch=[64, 64]), or "
            f"with trust=True (--trust): {error}"
        ) from error


def _value(node: ast.expr, modules: tuple[str, ...]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(item, modules) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key, modules): _value(item, modules) for key, item in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("a dict with ** is not plain data")
        return {str(keyword.arg): _value(keyword.value, modules) for keyword in node.keywords}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _number(node.operand, modules)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _number(node.left, modules), _number(node.right, modules)
        sign = _OPERATIONS[type(node.op)]
        return left + right if sign == "+" else left - right if sign == "-" else left * right if sign == "*" else left / right
    if isinstance(node, ast.Attribute):
        return _torch_class(ast.unparse(node), modules)
    raise ValueError(f"{ast.unparse(node)[:60]!r} is not plain data")


def _number(node: ast.expr, modules: tuple[str, ...]) -> Any:
    number = _value(node, modules)
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise ValueError(f"{ast.unparse(node)[:60]!r} is not a number")
    return number


def _torch_class(path: str, modules: tuple[str, ...]) -> type:
    import torch

    module, _, name = path.rpartition(".")
    found = getattr(torch.optim if module.endswith("optim") else torch.nn, name, None) if module in modules else None
    if not isinstance(found, type) or not issubclass(found, torch.nn.Module | torch.optim.Optimizer):
        raise ValueError(f"{path[:60]!r} is not a class of torch.nn or torch.optim")
    return found
