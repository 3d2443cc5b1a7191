"""Untrusted JSON documents of an image.

Every document passes `parse_json` and `typed`, so one set of rules applies to all: at most `MAX_DEPTH` levels, UTF-8
without a byte order mark, no duplicate keys, no NaN, integers only where integers belong. The caller bounds the number
of bytes. As in Go, which writes and reads most of these documents, a null member counts as absent, and the case of a
member's name does not matter. This module does not know what the members mean.
"""

import json
import re
import threading
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from ocifs.errors import InvalidImageError, LimitError, printable

MAX_DEPTH = 64
"""No document of the specification has more than about ten levels; Python's own parser fails at about a thousand."""

T = TypeVar("T")

_LEARNING = threading.Lock()
"""msgspec compiles a type when it first meets it, and crashes if two threads do that at once."""

# Strings are skipped whole. The pattern is possessive and accepts a missing end, so the scan is linear on any input.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def shown(text: str, limit: int = 200) -> str:
    """Return a string of a document for a message: one printable line of bounded length."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return printable(cut.encode("utf-8", "backslashreplace"))


def decode(data: bytes, kind: type[T], name: str, *, sets: frozenset[str] = frozenset()) -> T:
    """Parse JSON text as a value of the msgspec type `kind`; `name` names the document in errors.

    `sets` are the names of members that are sets: their own members count even if the value is null.

    Raises:
        LimitError: It is nested too deeply.
        InvalidImageError: It is not unambiguous JSON, or a member is missing or of another type.
    """
    return typed(parse_json(data, name, sets=sets), kind, name)


def parse_json(data: bytes, name: str, *, sets: frozenset[str] = frozenset()) -> object:
    """Parse JSON text into dicts, lists and scalars; raises as `decode`."""
    _check_depth(data, name)
    try:
        text = data.decode("utf-8")
        value: object = json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
        if "\\u" in text:  # json accepts lone surrogates, which cannot be encoded again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise InvalidImageError(f"{name} is not valid JSON: {shown(str(error))}") from error
    return _without_nulls(value, sets) if "null" in text else value


def typed(value: object, kind: type[T], name: str) -> T:
    """Convert a value from `parse_json` to the msgspec type `kind`; raises as `decode`."""
    members = canonical(value, kind, name)
    try:
        with _LEARNING:
            return msgspec.convert(members, kind, dec_hook=_string_type)
    except msgspec.ValidationError as error:
        raise InvalidImageError(f"{name} is malformed: {shown(str(error))}") from error


def canonical(value: object, kind: Any, name: str) -> object:
    """Rename the members of the objects in a JSON value to the names in the msgspec type `kind`.

    Go's encoding/json ignores the case of a member's name, so documents of some tools have `config` for `Config`. Keys
    of maps, such as labels, stay as they are.

    Raises:
        InvalidImageError: A member occurs twice, in two cases: programs differ in which one they use.
    """
    try:
        return _renamed(value, _type_info(kind))
    except ValueError as error:
        raise InvalidImageError(f"{name} is malformed: {shown(str(error))}") from None


_type_info = lru_cache(inspect.type_info)
_ANY = inspect.AnyType()


@lru_cache
def _fields(kind: type[Any]) -> dict[str, tuple[str, inspect.Type]]:
    """Return (name, type) of the members of a struct, keyed by the name and by its lower case."""
    struct = inspect.type_info(kind)
    named = (
        [(field.encode_name, field.type) for field in struct.fields] if isinstance(struct, inspect.StructType) else []
    )
    return {name.casefold(): (name, type_) for name, type_ in named} | {name: (name, type_) for name, type_ in named}


def _renamed(value: object, kind: inspect.Type) -> object:
    match kind, value:
        case inspect.StructType(), dict():
            fields = _fields(kind.cls)
            members: dict[str, object] = {}
            for key, member in value.items():
                own, type_ = fields.get(key) or fields.get(key.casefold()) or (key, _ANY)
                if own in members:
                    raise ValueError(f"key '{own}' occurs twice in one object, in different cases")
                members[own] = _renamed(member, type_) if isinstance(member, dict | list) else member
            return members
        case inspect.DictType(), dict():
            return {key: _renamed(member, kind.value_type) for key, member in value.items()}
        case ((inspect.ListType() | inspect.VarTupleType()), list()):
            return [_renamed(item, kind.item_type) for item in value]
        case inspect.UnionType(), dict():  # a struct, or None
            return _renamed(value, next(each for each in kind.types if not isinstance(each, inspect.NoneType)))
    return value


def _check_depth(data: bytes, name: str) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(data):
        if (start := token[0]) in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise LimitError(f"{name} is nested more than {MAX_DEPTH} levels deep")
        elif start in (b"]", b"}"):
            depth -= 1


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"key '{key}' occurs twice in one object")
        members[key] = value
    return members


def _without_nulls(value: object, sets: frozenset[str]) -> object:
    """Remove null members from a value, whose depth has been checked."""
    if isinstance(value, list):
        return [_without_nulls(each, sets) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: dict(member) if key in sets and isinstance(member, dict) else _without_nulls(member, sets)
        for key, member in value.items()
        if member is not None
    }


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _string_type(kind: type[Any], value: object) -> object:
    """Construct a `Digest` or another string type that checks itself."""
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value)
