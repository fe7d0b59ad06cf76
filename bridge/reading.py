"""Reads what somebody wrote: YAML, and from it a struct. Every mistake is told with its key or line, what was found
and what to write.

Lists count from 1. A key that stands twice, and a number that is none, or has no end, are mistakes wherever they stand.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeVar

import msgspec
import yaml

T = TypeVar("T", bound=msgspec.Struct)
Loader = type[yaml.SafeLoader] | type[yaml.BaseLoader]

NOT_NEGATIVE: Final = (0.0, math.inf)
FROM_1: Final = (1.0, math.inf)
_CLOSE_CODES: Final = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}  # RFC 6455 section 7.4, and IANA's


def read(written: Any, kind: type[T], where: str, wrong: list[str], *, known: Collection[str] = ()) -> T | None:
    """None after adding to `wrong`. `known` are the keys that may stand here, if not the struct's."""
    place = f"{where}: " if where else ""
    if not isinstance(written, Mapping):
        wrong.append(f"{place}expected a mapping of keys, found {shown(written)}")
        return None
    types = typing.get_type_hints(kind)
    fields = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    before = len(wrong)
    given = {}
    for key, value in written.items():
        inner = f"{where}.{key}" if where else str(key)
        if key not in fields or (known and key not in known):
            wrong.append(f"{inner}: unknown key{nearest(str(key), known or fields)}")
        else:
            given[fields[key]] = _value(value, types[fields[key]], inner, wrong)
    if len(wrong) > before:
        return None
    try:
        return kind(**given)
    except (TypeError, ValueError, OverflowError) as mistake:
        wrong.append(f"{place}{mistake}")
        return None


def parse(text: str, source: str, loader: Loader = yaml.SafeLoader) -> tuple[Any, list[str]]:
    """What a YAML text holds, and its keys that are written twice in one mapping, which YAML readers let pass: the last
    would win.

    Raises ValueError for a text that is none, holds itself or is nested too deeply. What is wrong is told with the
    `source` and the line, and does not quote the text, which may hold a secret.
    """
    try:
        root = yaml.compose(text, Loader=loader)
        twice = [
            f"{source}, line {line}: {key} is written twice. Keep one" for line, key in _repeated(root, set(), set())
        ]
        return yaml.load(text, Loader=loader), twice
    except RecursionError:
        raise ValueError(f"{source}: not YAML: it is nested too deeply. Mend it") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{source}, line {mark.line + 1}" if mark is not None else source
        raise ValueError(f"{where}: not YAML: {problem or 'it holds characters no text has'}. Mend the line") from None
    except (ValueError, LookupError, AttributeError):  # of the constructors; PyYAML lets them out as they are
        why = "it holds a date or a number that is none. Mend it, or put it in quotes"
        raise ValueError(f"{source}: not YAML: {why}") from None


def between(thing: msgspec.Struct, **ranges: tuple[float, float]) -> None:
    """Raises ValueError naming every key whose value, where it is given, is beyond its range."""
    wrong = []
    for key, (least, most) in ranges.items():
        value = getattr(thing, key)
        if value is not None and not least <= value <= most:
            lowest = "not negative" if least == 0 else f"at least {least:g}"
            wanted = lowest if most == math.inf else f"from {least:g} to {most:g}"
            wrong.append(f"{key} is {wanted}, found {value:g}")
    if wrong:
        raise ValueError("; ".join(wrong))


def sure_of_close_code(key: str, code: int | None) -> None:
    """Raises ValueError for a code no close frame may carry."""
    if code is not None and code not in _CLOSE_CODES:
        raise ValueError(f"{key}: {code} is no code to close with; 1000 to 1003, 1007 to 1014 and 3000 to 4999 are")


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean x?`, or all there are."""
    found = get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {found[0]}?" if found else f"; there are {', '.join(sorted(known))}"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _value(value: Any, kind: Any, where: str, wrong: list[str]) -> Any:
    struct = next((one for one in (kind, *typing.get_args(kind)) if _is_struct(one)), None)
    if struct is not None and typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            wrong.append(f"{where}: expected a list, found {shown(value)}")
            return ()
        return tuple(read(one, struct, f"{where}[{number}]", wrong) for number, one in enumerate(value, 1))
    if struct is not None and value is not None:
        return read(value, struct, where, wrong)
    endless = list(_endless(value, where))
    wrong += endless
    if endless:
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as mistake:
        if words := choices(kind):
            wrong.append(f"{where}: write {words}, found {shown(value)}")
            return None
        told = str(mistake).split(" - at ")[0]
        wrong.append(f"{where}: {told[:1].lower()}{told[1:]}, found {shown(value)}")
        return None


def choices(kind: Any) -> str:
    """The words a key may have, where it may have those only."""
    if typing.get_origin(kind) is not Literal:
        return ""
    return " or ".join(one for one in typing.get_args(kind) if one)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _endless(value: Any, where: str) -> Iterator[str]:
    """What is a number for YAML and for nobody else, however deep."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: {value} is no number to reckon with; write one that is finite"
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _endless(one, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value, 1):
            yield from _endless(one, f"{where}[{number}]")


def _repeated(node: yaml.Node | None, met: set[int], around: set[int]) -> Iterator[tuple[int, str]]:
    """(line, key). What is referred to again, by an anchor, is told once; `around` are the nodes this one stands in."""
    if node is None:
        return
    if id(node) in met:
        if id(node) in around:
            raise yaml.MarkedYAMLError(problem="an anchor holds itself", problem_mark=node.start_mark)
        return
    met.add(id(node))
    around.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    yield key.start_mark.line + 1, key.value
                keys.add(key.value)
            yield from _repeated(value, met, around)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, met, around)
    around.discard(id(node))
