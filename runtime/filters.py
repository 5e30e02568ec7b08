"""The filters that a template may use: the few that tell a value, none that could make a huge one.

Each takes and gives plain values. They are like Jinja's of the same name, except that lists come
as lists, and `truncate` cuts by code points. What would grow beyond bounds is refused before it
is made; the meter around them (in `template`) counts what they give.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_CHARS = 65_536
"""The longest text that a filter makes, in code points."""
MAX_WIDTH = 1_000
"""The largest `batch`, and the deepest `indent` in columns."""
MAX_DIGITS = 10
"""The finest `round`, in digits behind (or before) the point."""


class _Nothing:
    """What `first`, `last`, `min` and `max` find in an empty list."""


NOTHING = _Nothing()
"""Given by a filter that finds nothing; the template turns it into an undefined value."""


def _bounded(number: Any, low: int, high: int, what: str) -> int:
    if not isinstance(number, int) or not low <= number <= high:
        message = f"{what} must be a whole number from {low} to {high}, not {number!r}"
        raise ValueError(message)
    return number


def _texts(values: Iterable[Any]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _short_enough(chars: int) -> None:
    if chars > MAX_CHARS:
        message = f"the text would grow longer than {MAX_CHARS:,} code points"
        raise ValueError(message)


def joined(*values: Any) -> str:
    """The values one after the other: `a ~ b`."""
    texts = _texts(values)
    _short_enough(sum(map(len, texts)))
    return "".join(texts)


def _plucked(values: Iterable[Any], attribute: str | None) -> list[Any]:
    return list(values) if attribute is None else [value[attribute] for value in values]


def _join(values: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    texts, d = _texts(_plucked(values, attribute)), str(d)
    _short_enough(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    if not old:
        message = "`replace` needs a text to look for"
        raise ValueError(message)
    text = str(text)
    found = text.count(old)
    _short_enough(len(text) + (found if count < 0 else min(count, found)) * (len(new) - len(old)))
    return text.replace(old, new, count)


def _truncate(text: str, length: int = 255, end: str = "…") -> str:
    text = str(text)
    if len(text) <= _bounded(length, 0, MAX_CHARS, "`truncate`"):
        return text
    return text[: max(length - len(end), 0)].rstrip() + end


def _batch(values: Iterable[Any], size: int) -> list[list[Any]]:
    items, size = list(values), _bounded(size, 1, MAX_WIDTH, "`batch`")
    return [items[start : start + size] for start in range(0, len(items), size)]


def _indent(text: str, width: int = 4, first: bool = False) -> str:  # noqa: FBT001, FBT002 - as Jinja has it
    margin = " " * _bounded(width, 0, MAX_WIDTH, "`indent`")
    text = str(text)
    _short_enough(len(text) + len(margin) * (text.count("\n") + 1))
    indented = text.replace("\n", "\n" + margin)
    return margin + indented if first else indented


def _round(number: float, precision: int = 0) -> float:
    return round(number, _bounded(precision, -MAX_DIGITS, MAX_DIGITS, "`round`"))


def _order(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def _sort(values: Iterable[Any], reverse: bool = False, attribute: str | None = None) -> list[Any]:  # noqa: FBT001, FBT002
    key = _order if attribute is None else lambda value: _order(value[attribute])
    return sorted(values, key=key, reverse=bool(reverse))


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _edge(choose: Callable[[list[Any]], Any]) -> Callable[[Iterable[Any]], Any]:
    def chosen(values: Iterable[Any]) -> Any:
        items = list(values)
        return choose(items) if items else NOTHING

    return chosen


def _number(kind: type[int | float]) -> Callable[..., float]:
    def converted(value: Any, default: float = 0) -> float:
        try:
            return kind(float(value)) if isinstance(value, str) else kind(value)
        except (ValueError, OverflowError):
            return kind(default)

    return converted


def _map(values: Iterable[Any], attribute: str) -> list[Any]:
    return _plucked(values, attribute)


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        message = f"`items` and `dictsort` want a map, not {type(value).__name__}"
        raise TypeError(message)
    return list(value.items())


def _reverse(values: Any) -> Any:
    return values[::-1] if isinstance(values, str) else list(values)[::-1]


def _unique(values: Iterable[Any]) -> list[Any]:
    return list({_tojson(value): value for value in values}.values())


FILTERS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "batch": _batch,
    "capitalize": lambda text: str(text).capitalize(),
    "count": len,
    "dictsort": lambda value: sorted(_items(value)),
    "first": _edge(lambda items: items[0]),
    "float": _number(float),
    "indent": _indent,
    "int": _number(int),
    "items": _items,
    "join": _join,
    "last": _edge(lambda items: items[-1]),
    "length": len,
    "list": list,
    "lower": lambda text: str(text).lower(),
    "map": _map,
    "max": _edge(max),
    "min": _edge(min),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "sort": _sort,
    "string": lambda value: "" if value is None else str(value),
    "title": lambda text: str(text).title(),
    "tojson": _tojson,
    "trim": lambda text: str(text).strip(),
    "truncate": _truncate,
    "unique": _unique,
    "upper": lambda text: str(text).upper(),
}
"""Filter by name. `default` and `d` stand in `template`: they alone may meet an undefined value."""
