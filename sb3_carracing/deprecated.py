"""Names that moved. The old ones work for one minor version, with a DeprecationWarning."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

_PIPELINES = ("WrapperCall", "Pipeline", "wrapper_calls", "import_by_path")
_ENVIRONMENTS = (
    *("RawScore", "PipelineEnv", "pipeline_env", "env_spec", "is_car_racing", "STOCK_ID", "FAST_ID"),
    *("Renderer", "EnvFactory", "VecWrapper"),
)
# Old module -> old name -> (new module, new name).
_MOVED = {
    "runs": {
        **{name: ("pipelines", name) for name in _PIPELINES},
        **{name: ("agents", name) for name in ("ALGORITHMS", "check_algorithm")},
        "load_agent": ("agents", "read_agent"),
    },
    "agents": {"load_agent": ("agents", "read_agent")},
    "evaluation": {
        **{name: ("pipelines", name) for name in _ENVIRONMENTS},
        **{name: ("agents", name) for name in ("Agent", "RandomPolicy")},
        **{name: ("cli.agent_options", name) for name in ("add_agent_arguments", "open_agent")},
        **{name: ("cli.evaluate", name) for name in ("main", "results_table")},
    },
    "callbacks": {"wrap_alike": ("pipelines", "wrap_alike")},
    "plotting": {"main": ("cli.plot", "main"), **{name: ("curves", name) for name in ("Panel", "AVERAGED_EPISODES")}},
    "recording": {
        "main": ("cli.record", "main"),
        "preview_main": ("cli.preview", "main"),
        "split_pictures": ("recording", "split_images"),
    },
}


def old_names(module: str) -> Callable[[str], Any]:
    """Return a `__getattr__` (PEP 562) for a module whose names have moved elsewhere.

    Args:
        module: the module's `__name__`.
    """
    package, _, room = module.partition(".")

    def find_moved(name: str) -> Any:
        if name not in _MOVED[room]:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new_module, new_name = _MOVED[room][name]
        warnings.warn(f"{module}.{name} is now {package}.{new_module}.{new_name}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(f"{package}.{new_module}"), new_name)

    return find_moved
