"""Where two descriptions of an experiment part. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping


def first_unequal(found: object, expected: object, where: str = "") -> str | None:
    """The first place where two values made of JSON's types are not equal, in words; None where they are."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*found, *expected}, key=str):
            place = f"{where}.{key}" if where else str(key)
            if key not in found or key not in expected:
                return f"{place} is only in {'the run' if key in expected else 'the checkpoint'}"
            difference = first_unequal(found[key], expected[key], place)
            if difference is not None:
                return difference
        return None
    if found == expected:
        return None
    return f"{where or 'the identity'} is {_short(found)}, this run's is {_short(expected)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
