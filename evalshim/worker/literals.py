"""Data is data: what VLMEvalKit evaluates as Python is read as a literal here."""

import ast
import builtins
import math
import operator
import sys
import types

_ARITHMETIC = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}  # fmt: skip
_NUMERIC = ("abs", "divmod", "max", "min", "pow", "round", "sum")
_MOST_ITEMS = 1_000_000
_MOST_BITS = 14_000  # of a number that can still be written: 4,300 digits


def read_cells_as_literals():
    """Take `eval` from upstream (0.0.20), whose `istype` and `toliststr` use it on each cell of
    a data file, and whose metrics on answers and predictions: a cell that was code ran."""
    plain = builtins.eval

    def evaluated(source, globals=None, locals=None, /):
        caller = sys._getframe(1)
        module = caller.f_globals.get("__name__", "")
        if module.partition(".")[0] == "vlmeval":
            return value(source, caller.f_globals)
        if module == "sympy.parsing.sympy_parser":
            globals = _of_formulas(source, globals)
        if globals is None:
            globals, locals = caller.f_globals, caller.f_locals if locals is None else locals
        return plain(source, globals, globals if locals is None else locals)

    builtins.eval = evaluated


def _of_formulas(source, names):
    """What a formula may name: parse_expr (sympy 1.14) offers `open` and `__import__` as well,
    and some of upstream's graders give it answers and predictions."""
    if isinstance(source, str) and "__" in source:
        raise SyntaxError("not a formula")
    return {
        "__builtins__": {},
        **{
            name: found
            for name, found in names.items()
            if name != "__builtins__"
            and (not isinstance(found, types.BuiltinFunctionType) or name in _NUMERIC)
        },
    }


def value(source, names=None):
    """The value of a literal, in which numbers may be reckoned with: `[1, 2]`, `3/4`.

    Args:
        names: What names and `math.pi` may mean, if it is a number.

    Raises:
        TypeError, SyntaxError, NameError, ValueError: as `eval` of something that is none.
    """
    if not isinstance(source, str):
        raise TypeError("eval() arg 1 must be a string")
    if source.count(",") > _MOST_ITEMS:  # a tree of so many would fill the memory
        raise ValueError("too long a literal")
    try:
        return _value(ast.parse(source.lstrip(" \t"), mode="eval").body, names or {})
    except (RecursionError, MemoryError) as error:
        raise ValueError("too deep for a literal") from error


def _value(node, names):
    if isinstance(node, ast.Constant):
        return _small(node.value)
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, names) for item in node.elts)
    if isinstance(node, ast.List):
        return [_value(item, names) for item in node.elts]
    if isinstance(node, ast.Set):
        return {_value(item, names) for item in node.elts}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _value(k, names): _value(v, names) for k, v in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        operand = _number(node.operand, names)
        return operand if isinstance(node.op, ast.UAdd) else -operand
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _number(node.left, names), _number(node.right, names)
        whole = isinstance(left, int) and isinstance(right, int)
        if isinstance(node.op, ast.Pow) and whole and left.bit_length() * right > _MOST_BITS:
            raise ValueError("too large a number")
        return _small(_ARITHMETIC[type(node.op)](left, right))
    if isinstance(node, ast.Name):
        found = names.get(node.id)
        if not isinstance(found, (int, float)):
            raise NameError(f"name {node.id!r} is not defined")
        return found
    # `math.pi`, which BMMR's grader (0.0.20) writes into answers.
    if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "math":
        found = getattr(math, node.attr, None)
        if isinstance(found, float):
            return found
    raise ValueError(f"not a literal: {type(node).__name__}")


def _number(node, names):
    found = _value(node, names)
    if isinstance(found, (int, float, complex)):
        return found
    raise TypeError(f"not a number: {type(found).__name__}")


def _small(found):
    if isinstance(found, int) and found.bit_length() > _MOST_BITS:
        raise ValueError("too large a number")
    return found
