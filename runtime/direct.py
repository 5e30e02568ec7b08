"""Expressions without CEL's machinery: the part of the language whose meaning leaves no doubt, fifty times as fast.

An expression that has names, whole numbers, texts, comparisons, `in`, `&&`, `||`, `!`, `?:`, `+`, `-`,
`*` and a few functions alone becomes Python closures. What else there is stays CEL's, and so does
every value that CEL would not take as it stands (`Unsure`): an overflow, a value of another type.
Nothing of a designer's text is ever run as code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runtime.errors import EdgewiseError
from runtime.model import INT_MAX, INT_MIN

if TYPE_CHECKING:
    from runtime.expression import Token

Values = Mapping[str, Any]
Value = Callable[[Values], Any]
"""Gives an expression's value from those of its names. Raises NotKnown, Unsure."""

_KINDS: Mapping[str, type] = {"int": int, "bool": bool, "str": str, "set": list}
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_EQUALS = {"==": operator.eq, "!=": operator.ne}
_COMPARISONS = _ORDERS | _EQUALS
_SUMS = {"+": operator.add, "-": operator.sub}
_PRODUCTS = {"*": operator.mul}
_METHODS: Mapping[str, Callable[[str, str], bool]] = {
    "contains": str.__contains__,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
}
_NOT_THERE = object()


class EvaluationError(EdgewiseError):
    """An expression that errs while it runs: division by zero, overflow, no finite number."""


class NotKnown(EvaluationError):
    """An expression that reads a name without a value yet: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not known yet")
        self.name = name


class Unsure(Exception):
    """CEL is to say what this comes to."""


class Function(Struct, frozen=True):
    """A function that takes values of some kinds, and the kind that it gives."""

    takes: tuple[str, ...]
    gives: str
    run: Callable[..., Any]


class Asked(Struct, frozen=True):
    """What must be so for an expression to be true: the text that `name` holds is `text`, or what that names."""

    name: str
    text: str
    is_name: bool


class Direct(Struct, frozen=True):
    """An expression as closures, and what it asks first of a text, where it does."""

    value: Value
    asked: Asked | None


class _Part(Struct, frozen=True):
    """A part of an expression: the kind of its value (int, bool, str, set), and how it is found.

    `name` is set where it is a name alone, `literal` where it is a number, a text or a bool.
    """

    kind: str
    value: Value
    name: str | None = None
    literal: Any = None
    asked: Asked | None = None


class _NotDirectError(Exception):
    """An expression that is CEL's alone."""


def direct(
    words: Sequence[Token], types: Mapping[str, str], functions: Mapping[str, Sequence[Function]]
) -> Direct | None:
    """An expression as Python closures; None where it has parts that are CEL's alone.

    It must have passed CEL's own check with the same names.
    """
    reader = _Reader(words, types, functions)
    try:
        part = reader.choice()
    except _NotDirectError:
        return None
    return Direct(part.value, part.asked) if reader.is_done else None


class _Reader:
    """Reads CEL's grammar from the loosest operator down to names and literals."""

    def __init__(
        self, words: Sequence[Token], types: Mapping[str, str], functions: Mapping[str, Sequence[Function]]
    ) -> None:
        self.words, self.types, self.functions = words, types, functions
        self.at = 0

    @property
    def is_done(self) -> bool:
        """Whether all words were read."""
        return self.at == len(self.words)

    def sees(self, *texts: str) -> bool:
        """Whether the next word is one of these operators; strings never are."""
        return not self.is_done and self.words[self.at].text in texts and self.words[self.at].kind != "string"

    def next(self) -> Token:
        """The next word."""
        if self.is_done:
            raise _NotDirectError
        self.at += 1
        return self.words[self.at - 1]

    def expect(self, text: str) -> None:
        """Pass over a sign."""
        if not self.sees(text):
            raise _NotDirectError
        self.at += 1

    def choice(self) -> _Part:
        """`a ? b : c`."""
        test = self.either()
        if not self.sees("?"):
            return test
        self.next()
        one = self.choice()
        self.expect(":")
        other = self.choice()
        if test.kind != "bool" or one.kind != other.kind:
            raise _NotDirectError
        return _Part(one.kind, _choice(test.value, one.value, other.value))

    def either(self) -> _Part:
        """`a || b`."""
        return self._row("||", self.both, decides=True)

    def both(self) -> _Part:
        """`a && b`."""
        return self._row("&&", self.relation, decides=False)

    def _row(self, sign: str, member: Callable[[], _Part], *, decides: bool) -> _Part:
        parts = [member()]
        while self.sees(sign):
            self.next()
            parts.append(member())
        if len(parts) == 1:
            return parts[0]
        if any(part.kind != "bool" for part in parts):
            raise _NotDirectError
        asked = None if decides else parts[0].asked
        return _Part("bool", _decided([part.value for part in parts], decides=decides), asked=asked)

    def relation(self) -> _Part:
        """`a < b`, `a == b`, `a in b`; one alone."""
        left = self.sum()
        if not self.sees(*_ORDERS, *_EQUALS, "in"):
            return left
        sign = self.next().text
        right = self.sum()
        kinds = (left.kind, right.kind)
        if sign == "in" and kinds == ("str", "set"):
            return _Part("bool", _compared(_is_in, left, right))
        if (sign in _ORDERS and kinds == ("int", "int")) or (
            sign in _EQUALS and kinds[0] == kinds[1] and kinds[0] != "set"
        ):
            asked = _asked(left, right) if sign == "==" else None
            return _Part("bool", _compared(_COMPARISONS[sign], left, right), asked=asked)
        raise _NotDirectError

    def sum(self) -> _Part:
        """`a + b - c`."""
        return self._reckoned(_SUMS, self.product)

    def product(self) -> _Part:
        """`a * b`."""
        return self._reckoned(_PRODUCTS, self.turned)

    def _reckoned(self, signs: Mapping[str, Callable[[int, int], int]], member: Callable[[], _Part]) -> _Part:
        part = member()
        while self.sees(*signs):
            sign = self.next().text
            other = member()
            if (part.kind, other.kind) != ("int", "int"):
                raise _NotDirectError
            part = _Part("int", _bounded(signs[sign], part.value, other.value))
        return part

    def turned(self) -> _Part:
        """`!a`."""
        if not self.sees("!"):
            return self.member()
        self.next()
        part = self.turned()
        if part.kind != "bool":
            raise _NotDirectError
        return _Part("bool", _negated(part.value))

    def member(self) -> _Part:
        """A value, and what is asked of it: `a.contains(b)`."""
        part = self.value()
        while self.sees("."):
            self.next()
            part = self.asked(part, self.next().text)
        return part

    def asked(self, part: _Part, method: str) -> _Part:
        """What a method says of a text."""
        arguments = self.arguments()
        if method not in _METHODS or [part.kind, *(each.kind for each in arguments)] != ["str", "str"]:
            raise _NotDirectError
        return _Part("bool", _applied(_METHODS[method], part.value, arguments[0].value))

    def value(self) -> _Part:
        """A name, a literal, a call, or an expression in parentheses."""
        word = self.next()
        if word.kind == "string":
            return _text(word.text)
        if word.kind == "number":
            return _number(word.text)
        if word.kind == "name":
            return self.named(word.text)
        if word.text == "[":
            return self.listed()
        if word.text != "(":
            raise _NotDirectError
        part = self.choice()
        self.expect(")")
        return part

    def named(self, text: str) -> _Part:
        """What a word stands for: `true`, a declared name, one with a method, a function."""
        if text in ("true", "false"):
            return _literal(text == "true", "bool")
        if text in self.types and not self.sees("("):
            return _read(text, self.types[text])
        name, _, method = text.rpartition(".")
        if name in self.types and method in _METHODS:
            return self.asked(_read(name, self.types[name]), method)
        return self.called(text)

    def called(self, name: str) -> _Part:
        """What a function gives."""
        if name not in self.functions:
            raise _NotDirectError
        given = self.arguments()
        kinds = tuple(each.kind for each in given)
        function = next((each for each in self.functions[name] if each.takes == kinds), None)
        if function is None:
            raise _NotDirectError
        return _Part(function.gives, _called(function.run, [each.value for each in given]))

    def arguments(self) -> list[_Part]:
        """What stands in a call's parentheses; never nothing."""
        self.expect("(")
        parts = [self.choice()]
        while self.sees(","):
            self.next()
            parts.append(self.choice())
        self.expect(")")
        return parts

    def listed(self) -> _Part:
        """A list of texts."""
        texts = [self._literal()]
        while self.sees(","):
            self.next()
            texts.append(self._literal())
        self.expect("]")
        return _Part("set", lambda _: list(texts))

    def _literal(self) -> str:
        word = self.next()
        if word.kind != "string" or "\\" in word.text:
            raise _NotDirectError
        return word.text


def _text(text: str) -> _Part:
    if "\\" in text:
        raise _NotDirectError
    return _literal(text, "str")


def _number(text: str) -> _Part:
    is_plain = text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")
    if not is_plain or int(text) > INT_MAX:
        raise _NotDirectError
    return _literal(int(text), "int")


def _literal(value: Any, kind: str) -> _Part:
    return _Part(kind, lambda _: value, literal=value)


def _read(name: str, kind: str) -> _Part:
    wanted = _KINDS.get(kind)
    if wanted is None:
        raise _NotDirectError

    def read(values: Values) -> Any:
        value = values.get(name, _NOT_THERE)
        if type(value) is wanted:
            return value
        if value is _NOT_THERE:
            raise NotKnown(name)
        raise Unsure

    return _Part(kind, read, name=name)


def _choice(test: Value, one: Value, other: Value) -> Value:
    return lambda values: one(values) if test(values) else other(values)


def _decided(parts: list[Value], *, decides: bool) -> Value:
    """What one part decides; where none does, the others' word, or what the first of them misses."""

    def decided(values: Values) -> Any:
        # Once over: a second look at the parts would double with every level of a nested guard.
        missing = None
        for part in parts:
            try:
                if part(values) is decides:
                    return decides
            except NotKnown as found:
                missing = missing or found.name
        if missing is None:
            return not decides
        raise NotKnown(missing)

    return decided


def _negated(part: Value) -> Value:
    return lambda values: not part(values)


def _is_in(member: str, members: list[str]) -> bool:
    return member in members


def _asked(left: _Part, right: _Part) -> Asked | None:
    text = right.name or right.literal
    is_told = left.kind == "str" and left.name is not None and text is not None
    return Asked(left.name or "", text, right.name is not None) if is_told else None


def _compared(compare: Callable[[Any, Any], bool], left: _Part, right: _Part) -> Value:
    """A comparison; of a name with a name or a literal in one step, since most guards are made of those."""
    careful = _applied(compare, left.value, right.value)
    if left.name is None or (right.name is None and right.literal is None):
        return careful
    one, kind, literal = left.name, _KINDS[left.kind], right.literal
    other, other_kind = right.name or "", _KINDS[right.kind]

    def with_name(values: Values) -> Any:
        value, against = values.get(one), values.get(other)
        if type(value) is kind and type(against) is other_kind:
            return compare(value, against)
        return careful(values)

    def with_literal(values: Values) -> Any:
        value = values.get(one)
        return compare(value, literal) if type(value) is kind else careful(values)

    return with_name if other else with_literal


def _applied(function: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    return lambda values: function(left(values), right(values))


def _bounded(function: Callable[[int, int], int], left: Value, right: Value) -> Value:
    def bounded(values: Values) -> int:
        result = function(left(values), right(values))
        if INT_MIN <= result <= INT_MAX:
            return result
        raise Unsure

    return bounded


def _called(function: Callable[..., Any], arguments: list[Value]) -> Value:
    return lambda values: function(*[argument(values) for argument in arguments])
