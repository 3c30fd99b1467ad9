"""Reward and terminal expressions over named terms: one definition for logs and simulator.

The text is parsed to a syntax tree and interpreted with numpy over all ticks at once; `eval` is
never called, and only the operators and functions below exist. Every value is a matrix (T, d), so
that a term and a number per tick never mix up their axes; reductions return (T, 1).
"""

import ast
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl_contract.errors import InputError, nearest

Array = NDArray[Any]


def _reduction(function: Callable[..., Array], pair: Callable[..., Array] | None = None) -> Any:
    def call(*arguments: Array) -> Array:
        if pair is not None and len(arguments) == 2:
            return pair(*arguments)
        return function(arguments[0], axis=-1, keepdims=True)

    return call


FUNCTIONS: dict[str, tuple[Callable[..., Array], tuple[int, ...]]] = {
    "min": (_reduction(np.min, np.minimum), (1, 2)),
    "max": (_reduction(np.max, np.maximum), (1, 2)),
    "sum": (_reduction(np.sum), (1,)),
    "mean": (_reduction(np.mean), (1,)),
    "any": (_reduction(np.any), (1,)),
    "all": (_reduction(np.all), (1,)),
    "norm": (_reduction(np.linalg.norm), (1,)),
    "abs": (np.abs, (1,)),
    "sqrt": (np.sqrt, (1,)),
    "exp": (np.exp, (1,)),
    "log": (np.log, (1,)),
    "sin": (np.sin, (1,)),
    "cos": (np.cos, (1,)),
    "tanh": (np.tanh, (1,)),
    "atan2": (np.arctan2, (2,)),
    "hypot": (np.hypot, (2,)),
    "clip": (np.clip, (3,)),
    "where": (np.where, (3,)),
}
"""Function by name, with the numbers of arguments it takes."""
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: np.logical_not,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
}


@dataclass(frozen=True)
class Expression:
    """A checked expression, ready to evaluate."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    where: str
    """Its key in the robot file."""

    def __call__(self, terms: Mapping[str, Array]) -> Array:
        """Evaluate on terms (T, d) to (T,).

        Raises InputError where a vector is left over, or terms of other lengths are combined.
        """
        ticks = next(iter(terms.values())).shape[0]
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused by the caller
                value = _evaluate(self.tree, terms)
        except ValueError as error:
            raise InputError(
                f"{self.where}: '{self.text}' combines terms of other lengths: {error}."
            ) from error
        if value.shape[-1] != 1:
            raise InputError(
                f"{self.where}: '{self.text}' gives {value.shape[-1]} numbers per tick, not one. "
                "Reduce the term (min, max, sum, mean, any, all, norm) or name one part (scan_0)."
            )
        return np.broadcast_to(value, (ticks, 1))[:, 0]


def parse(text: str, allowed: frozenset[str], where: str) -> Expression:
    """Parse and check an expression against the allowed names.

    Raises InputError naming `where`, the part that is not allowed, and the nearest name.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        names = frozenset(_check(tree, allowed, where))
    except SyntaxError as error:
        raise InputError(f"{where}: '{text}' is not an expression: {error.msg}.") from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{where}: '{text[:60]}...' is nested too deep.") from error
    return Expression(text, tree, names, where)


def _check(node: ast.AST, allowed: frozenset[str], where: str) -> set[str]:
    """Return the names used below `node`, refusing any syntax that is not arithmetic."""
    match node:
        case ast.Name(id=name):
            if name not in allowed:
                raise InputError(f"{where}: unknown name '{name}'.{nearest(name, allowed)}")
            return {name}
        case ast.Constant(value=bool() | int() | float() as value):
            if abs(value) > sys.float_info.max:
                raise InputError(f"{where}: a number is larger than {sys.float_info.max:.1e}.")
            return set()
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise InputError(f"{where}: unknown function '{name}'.{nearest(name, FUNCTIONS)}")
            if len(arguments) not in FUNCTIONS[name][1]:
                counts = " or ".join(map(str, FUNCTIONS[name][1]))
                raise InputError(f"{where}: '{name}' takes {counts} arguments.")
            return _check_all(arguments, allowed, where)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _check_all([left, right], allowed, where)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _check(operand, allowed, where)
        case ast.BoolOp(values=values):
            return _check_all(values, allowed, where)
        case ast.Compare(left=left, ops=ops, comparators=right_hand) if all(
            type(op) in _OPERATORS for op in ops
        ):
            return _check_all([left, *right_hand], allowed, where)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _check_all([test, body, orelse], allowed, where)
        case _:
            part = ast.unparse(node)
            raise InputError(
                f"{where}: '{part}' is not allowed. An expression has numbers, term names, "
                f"arithmetic, comparisons, and/or/not, and {', '.join(sorted(FUNCTIONS))}."
            )


def _check_all(nodes: list[ast.expr], allowed: frozenset[str], where: str) -> set[str]:
    return set().union(*(_check(node, allowed, where) for node in nodes))


def _evaluate(node: ast.AST, terms: Mapping[str, Array]) -> Any:
    match node:
        case ast.Name(id=name):
            return terms[name]
        case ast.Constant(value=value):
            return np.full((1, 1), value, np.float64)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name][0](*(_number(argument, terms) for argument in arguments))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_number(left, terms), _number(right, terms))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_number(operand, terms))
        case ast.BoolOp(op=op, values=values):
            results = [_evaluate(value, terms) for value in values]
            return _chain(_OPERATORS[type(op)], results)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [_evaluate(side, terms) for side in [left, *comparators]]
            pairs = zip(ops, sides, sides[1:], strict=False)
            return _chain(np.logical_and, [_OPERATORS[type(op)](a, b) for op, a, b in pairs])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return np.where(*(_evaluate(part, terms) for part in (test, body, orelse)))
    raise TypeError(f"unchecked node {ast.dump(node)}")


def _number(node: ast.AST, terms: Mapping[str, Array]) -> Array:
    """Evaluate an operand of arithmetic; a comparison counts as 0 or 1 (numpy refuses -bool)."""
    return np.asarray(_evaluate(node, terms), np.float64)


def _chain(function: Callable[..., Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result
