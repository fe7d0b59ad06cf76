"""Reads what somebody wrote into a struct, and tells every mistake with its key, what was found and what to write.

Lists count from 1.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

NOT_NEGATIVE: Final = (0.0, math.inf)
FROM_1: Final = (1.0, math.inf)


def read(described: Any, kind: type[T], where: str, wrong: list[str], *, known: Collection[str] = ()) -> T | None:
    """None after adding to `wrong`. `known` are the keys to be named where one is unknown, if not the struct's."""
    if not isinstance(described, Mapping):
        wrong.append(f"{where}: expected a mapping of keys, found {shown(described)}")
        return None
    types = typing.get_type_hints(kind)
    before = len(wrong)
    given = {}
    for key, value in described.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in types:
            wrong.append(f"{place}: unknown key{nearest(str(key), known or types)}")
        else:
            given[key] = _value(value, types[key], place, wrong)
    if len(wrong) > before:
        return None
    try:
        return kind(**given)
    except (ValueError, OverflowError) as mistake:
        wrong.append(f"{where}: {mistake}" if where else str(mistake))
        return None


def between(thing: msgspec.Struct, **ranges: tuple[float, float]) -> None:
    """Raises ValueError naming every key whose value, where it is given, is beyond its range."""
    wrong = []
    for key, (least, most) in ranges.items():
        value = getattr(thing, key)
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            wanted = f"at least {least:g} and finite" if most == math.inf else f"from {least:g} to {most:g}"
            wrong.append(f"{key} is {wanted}, found {value:g}")
    if wrong:
        raise ValueError("; ".join(wrong))


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean x?`, or all there are."""
    found = get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {found[0]}?" if found else f"; there are {', '.join(sorted(known))}"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _value(value: Any, kind: Any, place: str, wrong: list[str]) -> Any:
    struct = next((one for one in (kind, *typing.get_args(kind)) if _is_struct(one)), None)
    if struct is not None and typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            wrong.append(f"{place}: expected a list, found {shown(value)}")
            return ()
        return tuple(read(one, struct, f"{place}[{number}]", wrong) for number, one in enumerate(value, 1))
    if struct is not None and value is not None:
        return read(value, struct, place, wrong)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as mistake:
        told = str(mistake).split(" - at ")[0]
        wrong.append(f"{place}: {told[:1].lower()}{told[1:]}, found {shown(value)}")
        return None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
