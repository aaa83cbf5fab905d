"""Dual Adversarial Training and the methods it is compared with: what is trained, evaluated and reported."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dat import losses, methods, models, sweep
    from dat.evaluation import evaluate
    from dat.methods.dat.generator import AmplitudeGenerator
    from dat.recipes.by_keyword import recipe
    from dat.training.from_python import train
    from dat.training.run import Run
    from dat.training.trained import load_model
    from dat.training.trainer import Trainer
    from dat_engine.errors import UserError

__all__ = [
    "AmplitudeGenerator",
    "Run",
    "Trainer",
    "UserError",
    "evaluate",
    "load_model",
    "losses",
    "methods",
    "models",
    "recipe",
    "sweep",
    "train",
]

# imported when first asked for: torch alone takes seconds, and `dat --help` needs none of it
_HOMES = {
    "AmplitudeGenerator": "dat.methods.dat.generator",
    "Run": "dat.training.run",
    "Trainer": "dat.training.trainer",
    "UserError": "dat_engine.errors",
    "evaluate": "dat.evaluation",
    "load_model": "dat.training.trained",
    "losses": "",
    "methods": "",
    "models": "",
    "recipe": "dat.recipes.by_keyword",
    "sweep": "",
    "train": "dat.training.from_python",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dat' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home), name) if home else import_module(f"dat.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
