"""Dual Adversarial Training and the methods it is compared with: what is trained, evaluated and reported."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dat import losses, models
    from dat.evaluation import evaluate
    from dat.methods.dat.generator import AmplitudeGenerator

__all__ = ["AmplitudeGenerator", "evaluate", "losses", "models"]

# imported when first asked for: torch alone takes seconds, and `dat --help` needs none of it
_HOMES = {"AmplitudeGenerator": "dat.methods.dat.generator", "evaluate": "dat.evaluation", "losses": "", "models": ""}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dat' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home), name) if home else import_module(f"dat.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
