"""Expressions in guards and assigns: CEL, typed when a machine is loaded. The only door to it.

Names are qualified (`dice.attack`, `visits.HALL`) and declared with their types, so that an
unknown name or a type that does not fit is an error of the file, not of a turn. What is not
known yet (a payload before the event came) is left out of the activation: evaluation then
raises `NotKnown`, unless the rest decides (`true || dice.attack > 3` is true).

Source: github.com/google/cel-spec; the functions below are added to CEL's own.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from cel_expr_python import cel
from msgspec import Struct

from runtime.direct import Direct, EvaluationError, Function, NotKnown, Unsure, direct
from runtime.errors import EdgewiseError
from runtime.model import INT_MAX, INT_MIN, Expr

__all__ = [
    "CEL_WORDS",
    "SCOPE_WORDS",
    "Activation",
    "Batch",
    "CelType",
    "EvaluationError",
    "Expression",
    "ExpressionError",
    "Names",
    "NotKnown",
    "Token",
    "activation",
    "evaluate",
    "norm",
    "prepare",
    "tokens",
]

CelType = Literal["int", "float", "bool", "str", "set"]
MAX_SOURCE_CHARS = 2_000

SCOPE_WORDS = frozenset(
    {"payload", "option", "dice", "slots", "time", "session", "visits", "step", "turns_left", "output", "given"}
)
"""Names of the scope: no variable or member may hide them."""
CEL_WORDS = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
        "type",
        "int",
        "uint",
        "double",
        "bool",
        "string",
        "bytes",
        "list",
        "map",
        "dyn",
        "null_type",
        "timestamp",
        "duration",
        "has",
        "all",
        "exists",
        "exists_one",
        "filter",
        "size",
        "matches",
        "contains",
        "startsWith",
        "endsWith",
        "add",
        "remove",
        "min",
        "max",
        "clamp",
        "norm",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getFullYear",
        "getHours",
        "getMilliseconds",
        "getMinutes",
        "getMonth",
        "getSeconds",
        "google",
        "cel",
    ]
)
"""Names that CEL or our functions own: a variable of that name would break or hide expressions."""


class ExpressionError(EdgewiseError):
    """An expression that can't be compiled: `col` counts from 1 inside it."""

    def __init__(self, col: int, message: str) -> None:
        super().__init__(message)
        self.col = col
        self.message = message


class Expression(Struct, frozen=True):
    """A compiled expression: what it reads and what it gives.

    `names` are the declared names that it reads, in order. A literal of the YAML file (a number,
    a bool) has `program` None and its `constant`. `direct` gives the same value sooner, where there is one.
    """

    source: str
    type: CelType
    names: tuple[str, ...]
    program: Any = None
    constant: Any = None
    direct: Direct | None = None


def norm(text: str) -> str:
    """A spoken password as it is compared: NFKC, case-folded, without punctuation and spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if unicodedata.category(char)[0] in "LNM")


def _with(members: list[str], member: str) -> list[str]:
    return members if member in members else [*members, member]


def _without(members: list[str], member: str) -> list[str]:
    return [each for each in members if each != member]


_INT, _FLOAT, _STR = cel.Type.INT, cel.Type.DOUBLE, cel.Type.STRING
_SET = cel.Type.List(_STR)
_TYPES: dict[CelType, Any] = {"int": _INT, "float": _FLOAT, "bool": cel.Type.BOOL, "str": _STR, "set": _SET}
_RESULTS: dict[str, CelType] = {
    "INT": "int",
    "DOUBLE": "float",
    "BOOL": "bool",
    "STRING": "str",
    "LIST<STRING>": "set",
    "LIST<DYN>": "set",
}


def _overload(name: str, result: Any, parameters: list[Any], function: Any) -> Any:
    identity = f"{name}_{'_'.join(parameter.name() for parameter in parameters)}".lower()
    return cel.Overload(identity, return_type=result, parameters=parameters, impl=function)


def _declared(name: str, *overloads: tuple[Any, list[Any], Any]) -> Any:
    return cel.FunctionDecl(name, [_overload(name, *overload) for overload in overloads])


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


_FUNCTIONS = [
    _declared("add", (_SET, [_SET, _STR], _with)),
    _declared("remove", (_SET, [_SET, _STR], _without)),
    _declared("min", (_INT, [_INT, _INT], min), (_FLOAT, [_FLOAT, _FLOAT], min)),
    _declared("max", (_INT, [_INT, _INT], max), (_FLOAT, [_FLOAT, _FLOAT], max)),
    _declared("clamp", (_INT, [_INT, _INT, _INT], _clamp), (_FLOAT, [_FLOAT, _FLOAT, _FLOAT], _clamp)),
    _declared("norm", (_STR, [_STR], norm)),
]

_DIRECT: Mapping[str, tuple[Function, ...]] = {
    "add": (Function(("set", "str"), "set", lambda members, member: list(_with(members, member))),),
    "remove": (Function(("set", "str"), "set", _without),),
    "min": (Function(("int", "int"), "int", min),),
    "max": (Function(("int", "int"), "int", max),),
    "clamp": (Function(("int", "int", "int"), "int", _clamp),),
    "norm": (Function(("str",), "str", norm),),
    "size": (Function(("set",), "int", len), Function(("str",), "int", len)),
}
"""The functions that a direct expression may call."""

_GIVEN = re.compile(r"\bgiven\(\s*(payload\.[A-Za-z]\w*)\s*\)")
_TRIPLE = re.compile(r"\"{3}|'{3}")
_HAS = re.compile(r"\bhas\s*\(")
_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_NO_VALUE = re.compile(r'No value with name "([^"]+)"')
_TOKEN = re.compile(
    r"""(?P<string>[rR]?(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))"""
    r"|(?P<name>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)"
    r"|(?P<number>\d[\w.]*)"
    r"|(?P<operator>==|!=|<=|>=|&&|\|\||[-+*/%!<>?:.,()\[\]{}])"
)


class Batch(Struct, frozen=True):
    """Expressions evaluated in one call: ten times faster than one by one."""

    sources: tuple[str, ...]
    names: tuple[str, ...]
    program: Any


class Token(Struct, frozen=True):
    """A word of an expression; `col` counts from 1. A string's `text` is without its quotes."""

    kind: Literal["string", "name", "number", "operator"]
    text: str
    col: int


def tokens(source: str) -> Iterator[Token]:
    """The words of an expression, for what CEL's own types can't check."""
    for match in _TOKEN.finditer(source):
        kind, text = match.lastgroup, match.group()
        if kind == "string":
            text = text.lstrip("rR")[1:-1]
        elif kind == "name":
            text = re.sub(r"\s", "", text)
        yield Token(kind, text, match.start() + 1)  # type: ignore[arg-type]


class Names:
    """The names that expressions of one place may read, with their types."""

    def __init__(self, types: Mapping[str, CelType]) -> None:
        self.types = dict(types)
        self._env, self._compiled = _environment(tuple(sorted(self.types.items())))

    def compile(self, source: Expr) -> Expression:
        """Compile and type an expression; YAML numbers and bools are literals.

        Raises ExpressionError, with every name's spelling as it stands in the file.
        """
        if not isinstance(source, str):
            return _literal(source)
        if source not in self._compiled:
            self._compiled[source] = self._typed(source)
        return self._compiled[source]

    def _typed(self, source: str) -> Expression:
        program = self._program(source)
        result = program.return_type()
        kind = _RESULTS.get(result.name())
        if kind is None:
            raise ExpressionError(1, f"gives a {result.name().lower()}, which no variable can hold")
        return Expression(source, kind, tuple(self._read_by(source)), program, direct=self._direct(source))

    def _direct(self, source: str) -> Direct | None:
        rewritten = _rewritten(source)
        is_whole = not _TOKEN.sub("", rewritten).strip()
        return direct(list(tokens(rewritten)), self.types, _DIRECT) if is_whole else None

    def batch(self, expressions: Iterable[Expression]) -> Batch:
        """Those of these names' expressions that are CEL's alone as one list, to be evaluated in one call."""
        asked = {each.source: each for each in expressions if each.program is not None and each.direct is None}
        names = tuple(dict.fromkeys(name for each in asked.values() for name in each.names))
        listed = ", ".join(f"({_rewritten(source)})" for source in asked)
        return Batch(tuple(asked), names, self._env.compile(f"[{listed}]") if asked else None)

    def _program(self, source: str) -> Any:
        if len(source) > MAX_SOURCE_CHARS:
            raise ExpressionError(1, f"is longer than {MAX_SOURCE_CHARS} characters")
        if found := _TRIPLE.search(source):
            raise ExpressionError(found.start() + 1, "triple quotes are not part of the language: use one quote")
        if found := _HAS.search(source):
            raise ExpressionError(found.start() + 1, "has() is not part of the language: use given(payload.x)")
        try:
            return self._env.compile(_rewritten(source))
        except RuntimeError as error:
            raise _compile_error(str(error)) from None

    def _read_by(self, source: str) -> Iterator[str]:
        seen: set[str] = set()
        for token in tokens(_rewritten(source)):
            name = self._longest(token.text) if token.kind == "name" else None
            if name and name not in seen:
                seen.add(name)
                yield name

    def _longest(self, chain: str) -> str | None:
        parts = chain.split(".")
        prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((prefix for prefix in prefixes if prefix in self.types), None)


def _rewritten(source: str) -> str:
    """`given(payload.x)` as a name of its own, as long as before, so that columns stay true."""
    return _GIVEN.sub(lambda match: f"given.{match.group(1)}".ljust(len(match.group())), source)


def _literal(value: Expr) -> Expression:
    if isinstance(value, bool):
        return Expression(str(value).lower(), "bool", (), constant=value)
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise ExpressionError(1, "does not fit in 64 bits")
        return Expression(str(value), "int", (), constant=value)
    number = float(value)
    if not math.isfinite(number):
        raise ExpressionError(1, "is not a finite number")
    return Expression(repr(number), "float", (), constant=number)


def _compile_error(text: str) -> ExpressionError:
    if "recursion" in text:
        return ExpressionError(1, "is too deep or too long: put a part of it into a variable")
    found = _ERROR.search(text)
    if found is None:
        return ExpressionError(1, text.splitlines()[0])
    message = found.group(3).removesuffix(" (in container '')")
    return ExpressionError(max(1, int(found.group(2))), message)


@lru_cache(maxsize=512)
def _environment(types: tuple[tuple[str, CelType], ...]) -> tuple[Any, dict[str, Expression]]:
    """CEL's environment for some names, and what was compiled in it: the check and the machine compile the same."""
    return cel.NewEnv(variables={name: _TYPES[kind] for name, kind in types}, functions=_FUNCTIONS), {}


class Activation(Struct, frozen=True):
    """Values for evaluation, and what was found with them: an expression is evaluated once."""

    values: Mapping[str, Any]
    found: dict[str, Any] = {}


def activation(values: Mapping[str, Any]) -> Activation:
    """Bind values to qualified names; a name left out is not known yet."""
    return Activation(values, {})


def evaluate(expression: Expression, known: Activation) -> Any:
    """The expression's value: bool, int, float, str, or a list of str for a set.

    Raises NotKnown where it reads a name without a value and the rest doesn't decide, and
    EvaluationError where it errs.
    """
    if expression.direct is not None:
        try:
            return expression.direct.value(known.values)
        except Unsure:
            pass
    if expression.program is None:
        return expression.constant
    source, found = expression.source, known.found
    if source not in found:
        found[source] = _evaluated(expression, known.values)
    value = found[source]
    if isinstance(value, EvaluationError):
        raise value.with_traceback(None)
    return value


def prepare(batch: Batch, known: Activation) -> None:
    """Evaluate a batch ahead. Where one errs the list has no value: then each is left to itself."""
    if batch.program is None:
        return
    result = batch.program.eval(data={name: known.values[name] for name in batch.names if name in known.values})
    if result.type() != cel.Type.ERROR:
        known.found.update(zip(batch.sources, result.plain_value(), strict=True))


def _evaluated(expression: Expression, values: Mapping[str, Any]) -> Any:
    """The value, or the error: the library gives errors as values or as RuntimeErrors.

    Only the names that it reads are bound: binding a whole scope costs ten times as much.
    """
    read = {name: values[name] for name in expression.names if name in values}
    try:
        result = expression.program.eval(data=read)
    except RuntimeError as error:
        return _evaluation_error(str(error))
    if result.type() == cel.Type.ERROR:
        return _evaluation_error(str(result.value()))
    value = result.plain_value()
    if isinstance(value, float) and not math.isfinite(value):
        return EvaluationError(f"{expression.source} is no finite number")
    return value


def _evaluation_error(text: str) -> EvaluationError:
    found = _NO_VALUE.search(text)
    return NotKnown(found.group(1)) if found else EvaluationError(text.partition(": ")[2] or text)
