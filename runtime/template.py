"""The only door to Jinja2: what a designer may write in a template, and rendering it within bounds.

A template is a text with holes, not a program. What may stand in it is an allow-list of syntax,
filters and tests; everything else is refused when the file is read, with its line and column.
What is left is cheap, and is metered all the same: a loop's rounds and every value that a filter
or an operator makes are paid from one budget, and the output is counted while it is generated.

Includes are spliced into the syntax tree as a scope of their own: nothing is loaded while a
template renders, and a fault in an include is found when the prompt is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from io import StringIO
from traceback import walk_tb
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2 import Template as Compiled
from jinja2.compiler import CodeGenerator, Frame
from jinja2.idtracking import VAR_LOAD_RESOLVE
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer
from msgspec import Struct, structs

from runtime import filters, quoting
from runtime.budget import MAX_CHARS, Budget, PromptError
from runtime.source import ROLE_LINE, Flaw, Places, Read, Source

ROUND = 100
"""The price of one round of a loop, beside one for each part of its body: at most 10,000 rounds."""
MAX_LOOPS = 2
"""How deep loops may be nested."""
MAX_DEPTH = 48
"""How deep a template's syntax may be nested."""
MAX_INCLUDES = 64
"""How many includes one message may hold, those inside includes counted."""
MAX_NUMBER = 10**18
"""The largest factor of a product."""

_WORK = "%work"  # no template can spell this name
_COUNTED = "%counted"
_JOINED = "~"


class Template(Struct, frozen=True):
    """A compiled template; `names` are the inputs that it and its includes read, `reads` what they read of them."""

    source: Source
    names: frozenset[str]
    includes: frozenset[str]
    compiled: Any
    reads: tuple[Read, ...] = ()


# --- what a template may hold ---

_ALLOWED = frozenset({
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.With, nodes.Include,
    nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.CondExpr, nodes.Filter,
    nodes.Test, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Concat,
    nodes.Keyword, nodes.Pow, nodes.Mod, nodes.Call, nodes.Scope,
})  # fmt: skip

_REFUSED: Mapping[type[nodes.Node], tuple[str, str]] = {
    nodes.Import: ("import", 'Use `{% include "machine/_part.md" %}` for shared text.'),
    nodes.FromImport: ("from", 'Use `{% include "machine/_part.md" %}` for shared text.'),
    nodes.Extends: ("extends", 'Use `{% include "machine/_part.md" %}` for shared text.'),
    nodes.Block: ("block", "Write the text in place."),
    nodes.Macro: ("macro", "Write the text in place, or include a file."),
    nodes.CallBlock: ("call", "Write the text in place, or include a file."),
    nodes.FilterBlock: ("filter", "Put the filter behind the value: `{{ value | filter }}`."),
    nodes.AssignBlock: ("set", "Give `set` a value: `{% set name = value %}`."),
    nodes.ScopedEvalContextModifier: ("autoescape", "Prompts are plain text: drop it."),
}  # fmt: skip

_OWN_NAMES = frozenset({"self", "super", "caller", "varargs", "kwargs"})
_LOOP = frozenset(["index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem"])
_TESTS = frozenset([
    "defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence",
    "iterable", "true", "false", "even", "odd", "divisibleby", "in", "eq", "equalto", "ne", "lt", "lessthan", "le",
    "gt", "greaterthan", "ge", "==", "!=", "<", "<=", ">", ">=",
])  # fmt: skip


class _Environment(ImmutableSandboxedEnvironment):
    """Reads plain values only: keys of maps, items of lists, and the harmless part of `loop`."""

    intercepted_binops = frozenset({"+", "*"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A map's value, or a loop's; no Python attribute is ever read."""
        if isinstance(obj, dict | Mapping):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        return self._missing(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item of a list, text or map."""
        try:
            return obj[argument]
        except (TypeError, LookupError):
            return self._missing(obj, argument)

    def _missing(self, obj: Any, name: Any) -> Undefined:
        if isinstance(obj, Undefined):
            str(obj)  # says what is undefined
        return self.undefined(obj=obj, name=name)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+` on two numbers or two texts, `*` on two numbers of sane size."""
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            return self.binop_table[operator](left, right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            if operator == "*" and max(abs(left), abs(right)) > MAX_NUMBER:
                raise PromptError("a product of so large numbers has no place in a prompt.")
            return self.binop_table[operator](left, right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            context.parent[_WORK].spend(len(left) + len(right))
            return quoting.like(left + right, left, right)
        kinds = f"{type(left).__name__} {operator} {type(right).__name__}"
        raise PromptError(f"`{kinds}` can't be: `+` joins two texts or adds numbers. Use `~` to join other values.")


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | Mapping) else 1


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def metered(context: Context, value: Any, *args: Any, **named: Any) -> Any:
        spend = context.parent[_WORK].spend
        spend(_size(value))
        result = function(value, *args, **named)
        spend(_size(result))
        if result is filters.NOTHING:
            return _ENVIRONMENT.undefined("the list is empty")
        return quoting.like(result, value, *args, *named.values())

    return metered


@pass_context
def _counted(context: Context, values: Any, price: int) -> Any:
    context.parent[_WORK].spend(len(values) * price)
    return values


def _spoken(value: Any) -> Any:
    return value if type(value) is str else quoting.held("" if value is None else value)


@pass_context
def _default(_context: Context, value: Any, otherwise: Any = "", boolean: Any = False) -> Any:  # noqa: FBT002 - Jinja's
    return otherwise if isinstance(value, Undefined) or (boolean and not value) else value


def _environment() -> _Environment:
    environment = _Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_spoken,
        autoescape=False,
        auto_reload=False,
        cache_size=0,
    )
    environment.globals.clear()
    environment.filters.clear()
    environment.filters.update({name: _metered(function) for name, function in filters.FILTERS.items()})
    environment.filters.update({"default": _default, "d": _default})
    environment.filters.update({_COUNTED: _counted, _JOINED: _metered(filters.joined)})
    environment.tests = {name: TESTS[name] for name in _TESTS}
    return environment


_ENVIRONMENT = _environment()
FILTERS = frozenset(name for name in _ENVIRONMENT.filters if name.isidentifier())
"""The filters that a template may use."""


# --- vetting ---


def _near(word: str, words: frozenset[str]) -> str:
    close = difflib.get_close_matches(word, sorted(words), 1, 0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def _is_literal(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(_is_literal(item) for item in node.items)
    if isinstance(node, nodes.Dict):
        return all(_is_literal(pair.key) and _is_literal(pair.value) for pair in node.items)
    return isinstance(node, nodes.Const) or (isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const))


Judged = tuple[str, str, str]
"""What a check finds: the word to point at, a code, a message."""


def _judge_filter(node: nodes.Filter) -> Iterator[Judged]:
    if node.name not in FILTERS:
        near = _near(node.name, FILTERS) or f" Filters: {', '.join(sorted(FILTERS))}."
        yield node.name, "E422", f"no filter '{node.name}' in prompts.{near}"
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        yield node.name, "E421", f"`*` in the arguments of '{node.name}' is not part of prompts. Write them out."


def _judge_test(node: nodes.Test) -> Iterator[Judged]:
    if node.name not in _TESTS:
        yield node.name, "E422", f"no test '{node.name}' in prompts.{_near(node.name, _TESTS)}"


def _judge_name(node: nodes.Name) -> Iterator[Judged]:
    if node.name.startswith("_") or node.name in _OWN_NAMES:
        yield node.name, "E424", f"'{node.name}' is not a name for prompts. Use a declared input."


def _judge_attribute(node: nodes.Getattr | nodes.Getitem) -> Iterator[Judged]:
    name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", "")
    if isinstance(name, str) and name.startswith("_"):
        word = name if isinstance(node, nodes.Getattr) else "["
        yield word, "E424", f"'{name}' begins with '_', which a prompt may not read. Use a declared input's keys."


def _judge_call(node: nodes.Call) -> Iterator[Judged]:
    if isinstance(node.node, nodes.Getattr):
        name = node.node.attr
        mend = f"Write `| {name}`." if name in FILTERS else "Use a filter: " + ", ".join(sorted(FILTERS)) + "."
        yield name, "E421", f"a prompt can't call `.{name}()`. {mend}"
    else:
        name = node.node.name if isinstance(node.node, nodes.Name) else "("
        yield name, "E421", f"a prompt can't call `{name}(…)`. Pass what is needed as an input, or use a filter."


def _judge_operator(node: nodes.BinExpr) -> Iterator[Judged]:
    sides = (node.left, node.right)
    if isinstance(node, nodes.Pow | nodes.Mod):
        mend = "Use `~` to join texts and `is divisibleby(n)` for remainders."
        yield node.operator, "E423", f"`{node.operator}` is not part of prompts. {mend}"
    elif isinstance(node, nodes.Mul) and any(_is_textual(side) for side in sides):
        yield "*", "E423", "`*` on a text or list is not part of prompts: it multiplies numbers only."
    elif isinstance(node, nodes.Add) and any(isinstance(side, nodes.List | nodes.Tuple) for side in sides):
        yield "+", "E423", "`+` on lists is not part of prompts. Loop over one after the other."


def _is_textual(node: nodes.Node) -> bool:
    is_text = isinstance(node, nodes.Const) and isinstance(node.value, str)
    return is_text or isinstance(node, nodes.List | nodes.Tuple | nodes.Concat | nodes.TemplateData)


def _judge_literal(node: nodes.List | nodes.Tuple | nodes.Dict) -> Iterator[Judged]:
    if getattr(node, "ctx", "load") == "load" and not _is_literal(node):
        yield "[", "E421", "a list or map in a prompt holds constants only. Use the values by their names."


def _judge_include(node: nodes.Include) -> Iterator[Judged]:
    if not isinstance(node.template, nodes.Const) or not isinstance(node.template.value, str):
        yield "include", "E426", 'an include\'s name must be a plain text: `{% include "machine/_part.md" %}`.'
    elif node.ignore_missing or not node.with_context:
        yield "include", "E421", "`ignore missing` and `without context` are not part of prompts. Drop the words."


def _judge_loop(node: nodes.For) -> Iterator[Judged]:
    if node.recursive:
        yield "recursive", "E421", "a recursive loop is not part of prompts. Drop the word."


_JUDGES: Mapping[type[nodes.Node], Callable[[Any], Iterator[Judged]]] = {
    nodes.Filter: _judge_filter,
    nodes.Test: _judge_test,
    nodes.Name: _judge_name,
    nodes.Getattr: _judge_attribute,
    nodes.Getitem: _judge_attribute,
    nodes.Call: _judge_call,
    nodes.Pow: _judge_operator,
    nodes.Mod: _judge_operator,
    nodes.Mul: _judge_operator,
    nodes.Add: _judge_operator,
    nodes.List: _judge_literal,
    nodes.Tuple: _judge_literal,
    nodes.Dict: _judge_literal,
    nodes.Include: _judge_include,
    nodes.For: _judge_loop,
}


def _judge(node: nodes.Node) -> Iterator[Judged]:
    kind = type(node)
    if kind in _REFUSED:
        word, mend = _REFUSED[kind]
        yield word, "E421", f"`{{% {word} %}}` is not part of prompts. {mend}"
    elif kind not in _ALLOWED:
        yield "", "E421", f"{kind.__name__} is not part of prompts."
    elif kind in _JUDGES:
        yield from _JUDGES[kind](node)


def _vet(tree: nodes.Template, places: Places, loops: int) -> Iterator[Flaw]:
    """Every flaw of one file's syntax tree; `loops` = how many loops the file is included in."""
    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, loops)]
    while stack:
        node, depth, around = stack.pop()
        if depth > MAX_DEPTH:
            yield places.flaw(node.lineno, "", "E420", f"the template is nested deeper than {MAX_DEPTH}. Simplify it.")
            return
        for word, code, message in _judge(node):
            yield places.flaw(node.lineno or 1, word, code, message)
        if isinstance(node, nodes.For):
            around += 1
            if around > MAX_LOOPS:
                yield places.flaw(
                    node.lineno, "for", "E425", "loops are nested deeper than two. Flatten the inner one."
                )
        stack += [(child, depth + 1, around) for child in node.iter_child_nodes()]


# --- what a template reads of its inputs ---

_Key = tuple[str, str]
_ASKING = frozenset({"default", "d", "defined", "undefined"})


def _key_of(node: nodes.Node) -> _Key | None:
    """`option.text` and `option["text"]` as (option, text)."""
    if not isinstance(node, nodes.Getattr | nodes.Getitem) or not isinstance(node.node, nodes.Name):
        return None
    key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
    return (node.node.name, key) if isinstance(key, str) else None


def _member_of(node: nodes.Node) -> tuple[_Key, str] | None:
    """`"x" in changes` as ((changes, x), in)."""
    if not isinstance(node, nodes.Compare) or not isinstance(node.expr, nodes.Const) or len(node.ops) != 1:
        return None
    operand, key = node.ops[0], node.expr.value
    if operand.op not in {"in", "notin"} or not isinstance(operand.expr, nodes.Name) or not isinstance(key, str):
        return None
    return (operand.expr.name, key), operand.op


def _there(test: nodes.Node | None, *, holds: bool) -> frozenset[_Key]:
    """The keys that are there where a test holds, or fails."""
    if isinstance(test, nodes.Not):
        return _there(test.node, holds=not holds)
    if isinstance(test, nodes.And if holds else nodes.Or):
        return _there(test.left, holds=holds) | _there(test.right, holds=holds)
    if isinstance(test, nodes.Test) and test.name == ("defined" if holds else "undefined"):
        key = _key_of(test.node)
        return frozenset([key]) if key else frozenset()
    member = _member_of(test) if test is not None else None
    return frozenset([member[0]]) if member and member[1] == ("in" if holds else "notin") else frozenset()


def _branches(node: nodes.Node) -> Iterator[tuple[nodes.Node, frozenset[_Key], bool]]:
    """A node's parts, each with the keys that are there in it, and whether it may miss the one that it reads."""
    if isinstance(node, nodes.If):
        yield node.test, frozenset(), False
        yield from ((part, _there(node.test, holds=True), False) for part in node.body)
        yield from ((part, _there(node.test, holds=False), False) for part in (*node.elif_, *node.else_))
    elif isinstance(node, nodes.CondExpr):
        yield node.test, frozenset(), False
        yield node.expr1, _there(node.test, holds=True), False
        if node.expr2 is not None:
            yield node.expr2, _there(node.test, holds=False), False
    elif isinstance(node, nodes.And | nodes.Or):
        yield node.left, frozenset(), False
        yield node.right, _there(node.left, holds=isinstance(node, nodes.And)), False
    else:
        asked = node.node if isinstance(node, nodes.Filter | nodes.Test) and node.name in _ASKING else None
        yield from ((child, frozenset(), child is asked) for child in node.iter_child_nodes())


def _reads(tree: nodes.Template, places: Places, include: str) -> Iterator[Read]:
    """Every key of an input that one file reads; names that the file sets itself are no inputs."""
    own = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    stack: list[tuple[nodes.Node, frozenset[_Key], bool]] = [(tree, frozenset(), False)]
    while stack:
        node, there, may_miss = stack.pop()
        member = _member_of(node)
        key = member[0] if member else _key_of(node)
        if key and key[0] not in own:
            name, word = key
            at = places.flaw(node.lineno, f"{name}.{word}" if isinstance(node, nodes.Getattr) else name, "", "")
            is_sure = not member and not may_miss and key not in there
            yield Read(name, word, is_sure, include, at.line - places.source.line + 1, at.col)
        stack += [(part, there | more, asks) for part, more, asks in _branches(node)]


# --- from text to tree to template ---


class _Reader:
    """Reads one message's template and its includes, collecting every flaw."""

    def __init__(self, includes: Mapping[str, str], folder: str) -> None:
        self.includes, self.folder = includes, folder
        self.flaws: list[Flaw] = []
        self.used: list[str] = []
        self.reads: list[Read] = []

    def tree(self, source: Source, chain: tuple[str, ...] = (), loops: int = 0) -> nodes.Template | None:
        """The vetted tree with includes spliced in; None where a flaw is in the way."""
        places = Places(source)
        tree = self._parsed(source, places)
        if tree is None:
            return None
        flaws = sorted(_vet(tree, places, loops))
        self.flaws += flaws
        if flaws:
            return None
        self.reads += _reads(tree, places, chain[-1] if chain else "")
        return _Rewriter(self, places, chain, loops).rewritten(tree)

    def _parsed(self, source: Source, places: Places) -> nodes.Template | None:
        if len(source.text) > MAX_CHARS:
            self.flaws.append(
                places.flaw(1, "", "E420", f"the text is longer than {MAX_CHARS:,} code points. Shorten it.")
            )
            return None
        try:
            return _ENVIRONMENT.parse(source.text)
        except TemplateSyntaxError as error:
            self.flaws.append(_syntax_flaw(error, places))
        except (RecursionError, MemoryError, ValueError, OverflowError):
            self.flaws.append(places.flaw(1, "", "E420", "the template can't be read: nested too deep. Simplify it."))
        return None

    def included(self, node: nodes.Include, places: Places, chain: tuple[str, ...], loops: int) -> list[nodes.Node]:
        """The nodes of an included file, at the line of the tag."""
        name = str(node.template.as_const())
        flaw = self._include_flaw(name, chain)
        if flaw:
            self.flaws.append(places.flaw(node.lineno, "include", *flaw))
            return []
        self.used.append(name)
        source = Source(self.folder + name, self.includes[name].strip("\r\n") + "\n")
        self.flaws += _role_lines(source)
        tree = self.tree(source, (*chain, name), loops)
        return _at_line(tree, node.lineno).body if tree else []

    def _include_flaw(self, name: str, chain: tuple[str, ...]) -> tuple[str, str] | None:
        if name not in self.includes:
            near = _near(name, frozenset(self.includes)) or " Paths start below the prompts folder."
            return "E426", f"no include '{name}'.{near}"
        if name in chain:
            return "E427", f"includes go in a circle: {' → '.join((*chain, name))}. Drop one of them."
        if len(self.used) >= MAX_INCLUDES:
            return "E427", f"more than {MAX_INCLUDES} includes in one message. Join some of them."
        return None


class _Rewriter(NodeTransformer):
    """Puts the meters in: loops count their rounds, `~` pays, includes become scopes."""

    def __init__(self, reader: _Reader, places: Places, chain: tuple[str, ...], loops: int) -> None:
        self.reader, self.places, self.chain, self.loops = reader, places, chain, loops

    def rewritten(self, tree: nodes.Template) -> nodes.Template:
        """The tree, changed in place."""
        self.generic_visit(tree)
        return tree

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name for it
        self.loops += 1
        self.generic_visit(node)
        self.loops -= 1
        price = ROUND + sum(1 for child in node.body for _ in child.find_all(nodes.Node))
        node.iter = _filter(node.iter, _COUNTED, [nodes.Const(price)])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name for it
        self.generic_visit(node)
        return _filter(node.nodes[0], _JOINED, list(node.nodes[1:]))

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:  # noqa: N802 - Jinja's name for it
        self.generic_visit(node)
        node.expr2 = node.expr2 or nodes.Const("", lineno=node.lineno)
        return node

    def visit_Include(self, node: nodes.Include) -> nodes.Node:  # noqa: N802 - Jinja's name for it
        body = self.reader.included(node, self.places, self.chain, self.loops)
        return nodes.Scope(body, lineno=node.lineno)


def _filter(node: nodes.Node, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, args, [], None, None, lineno=node.lineno)


def _at_line(tree: nodes.Template, lineno: int) -> nodes.Template:
    for node in tree.find_all(nodes.Node):
        node.lineno = lineno
    return tree


def _syntax_flaw(error: TemplateSyntaxError, places: Places) -> Flaw:
    message = error.message or "broken syntax"
    got = re.search(r"(?:got|unknown tag|unexpected) '([^']+)'", message)
    unclosed = "end of template" in message or "Missing end of" in message
    hint = " A block must close before the next role line and the end of the file." if unclosed else ""
    return places.flaw(error.lineno, got.group(1) if got else "", "E420", message.rstrip(".") + "." + hint)


def _role_lines(source: Source) -> Iterator[Flaw]:
    for match in ROLE_LINE.finditer(source.text):
        line = source.text.count("\n", 0, match.start()) + 1
        message = f"`{match.group().strip()}` is plain text in an include. Role lines stand in the prompt itself."
        yield Flaw(source.file, line, 1, "W420", message)


class _Generator(CodeGenerator):
    """Writes a template's code and notes the inputs that it reads, in one walk: Jinja's `meta` takes a second one."""

    def __init__(self, file: str) -> None:
        self.code = StringIO()
        super().__init__(_ENVIRONMENT, file, file, self.code)
        self.names: set[str] = set()

    def enter_frame(self, frame: Frame) -> None:
        """Note what a block of code looks up from outside."""
        super().enter_frame(frame)
        loads = frame.symbols.loads.values()
        self.names.update(name for action, name in loads if action == VAR_LOAD_RESOLVE and name)


def compile_template(
    source: Source, includes: Mapping[str, str], folder: str = "prompts/"
) -> tuple[Template | None, list[Flaw]]:
    """Compile a template; None where a fault is among the flaws.

    `includes` maps the paths that an include may name to texts; `folder` is put before them in flaws.
    """
    flawless = _flawless(source.text, tuple(sorted(includes.items())))
    return (structs.replace(flawless, source=source), []) if flawless else _compiled(source, includes, folder)


@lru_cache(maxsize=2048)
def _flawless(text: str, includes: tuple[tuple[str, str], ...]) -> Template | None:
    """A template without any flaw, wherever it stands: prompts share messages, and are read again after a check."""
    compiled, flaws = _compiled(Source("", text), dict(includes), "")
    return None if flaws else compiled


def _compiled(source: Source, includes: Mapping[str, str], folder: str) -> tuple[Template | None, list[Flaw]]:
    reader = _Reader(includes, folder)
    tree = reader.tree(source)
    if tree is None or any(flaw.code.startswith("E") for flaw in reader.flaws):
        return None, reader.flaws
    generator = _Generator(source.file)
    try:
        tree.set_environment(_ENVIRONMENT)
        generator.visit(tree)
        code = compile(generator.code.getvalue(), source.file, "exec")
    except (TemplateError, SyntaxError, RecursionError, MemoryError) as error:
        flaw = Places(source).flaw(getattr(error, "lineno", None) or 1, "", "E420", f"{error}. Simplify the template.")
        return None, [*reader.flaws, flaw]
    compiled = Compiled.from_code(_ENVIRONMENT, code, {})
    names, used = frozenset(generator.names), frozenset(reader.used)
    reads = tuple(sorted(set(reader.reads), key=lambda read: (read.include, read.line, read.col, read.key)))
    return Template(source, names, used, compiled, reads), reader.flaws


_BROKEN = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
"""What Python raises where a template does to a value what can't be done to it."""


def render_template(template: Template, inputs: Mapping[str, Any], budget: Budget) -> str:
    """The text. Raises PromptError for an undefined value, a wrong type, or too much of anything."""
    context = template.compiled.new_context({**inputs, _WORK: budget}, shared=True)
    chunks, chars = [], 0
    try:
        for chunk in template.compiled.root_render_func(context):
            chunks.append(chunk)
            if (chars := chars + len(chunk)) > budget.chars:
                break
        budget.emit(chars)
    except (PromptError, TemplateError, *_BROKEN) as error:
        message = error.message if isinstance(error, PromptError) else str(error)
        raise PromptError(message or "broken", file=template.source.file, line=_line_of(error, template)) from error
    return "".join(chunks)


def _line_of(error: BaseException, template: Template) -> int:
    """The line in the file where rendering failed: the deepest frame of the compiled template."""
    compiled: Compiled = template.compiled
    line = 1
    for frame, lineno in walk_tb(error.__traceback__):
        if frame.f_globals.get("__jinja_template__") is compiled:
            line = compiled.get_corresponding_lineno(lineno)
    return template.source.line + line - 1
