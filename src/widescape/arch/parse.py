"""Architectures from text, without running it."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from widescape.arch.base import Layer

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_PRESETS = ("fc", "default_network", "cnn_vec", "cnn_gap", "myrtle", "resnet", "wide_resnet")
_LONGEST = 20_000
_LARGEST = 1e15
_DEEPEST = 10_000


def from_text(text: str) -> Layer:
    """The network that a text describes: what `repr` prints, or a call such as ``fc(3, 512, 10, activation=Relu())``.

    Only the names of this room, numbers with arithmetic between them, words, tuples, True, False and None are
    understood; nothing is executed. Networks with functions of their own (`Activation`) have no text.

    Args:
        text: one expression.

    Raises:
        ValueError: it is not an expression of this kind, or it describes no network; names the part.
        and whatever a layer raises about its arguments.

    Example:
        >>> from widescape import arch
        >>> net = arch.fc(depth=1, width=8, n_out=2, activation=arch.Erf(), w_std=2**0.5)
        >>> from_text(repr(net)) == net
        True
        >>> len(from_text("fc(2, 16, 1, activation=Relu(), w_std=2**0.5)").layers)
        6
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise ValueError(f"an architecture is described by a text of at most {_LONGEST} characters.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:80]!r} is no expression: {error}") from error
    if not isinstance(value, Layer):
        raise ValueError(f"{text[:80]!r} describes {type(value).__name__} and no network; write for instance fc(...).")
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(part) for part in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        operation, left, right = _ARITHMETIC[type(node.op)], _number(node.left), _number(node.right)
        try:
            size = operation(float(left), float(right))  # before whole numbers grow without bound
            if isinstance(size, complex) or not abs(size) <= _LARGEST:
                raise ValueError(f"{ast.unparse(node)[:80]!r} is too large, or no real number.")
            return operation(left, right)
        except OverflowError as error:
            raise ValueError(f"{ast.unparse(node)[:80]!r} is too large.") from error
        except ArithmeticError as error:
            raise ValueError(f"{ast.unparse(node)[:80]!r}: {error}") from error
    if isinstance(node, ast.Call):
        return _call(node)
    raise ValueError(f"{ast.unparse(node)[:80]!r} is not understood; use layers, numbers, words, tuples, None.")


def _number(node: ast.expr) -> float:
    value = _value(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)[:80]!r} is no number.")
    return value


def _call(node: ast.Call) -> Any:
    from widescape import arch

    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    made = getattr(arch, name, None) if name in arch.__all__ else None
    is_layer = isinstance(made, type) and issubclass(made, Layer)
    if made is None or not (is_layer or name in _PRESETS):
        raise ValueError(f"there is no layer or preset {name!r} in widescape.arch.")
    if any(keyword.arg is None for keyword in node.keywords) or any(isinstance(a, ast.Starred) for a in node.args):
        raise ValueError(f"{ast.unparse(node)[:80]!r}: * and ** are not understood.")
    arguments = [_value(argument) for argument in node.args]
    keywords = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    depth = keywords.get("depth", arguments[0] if arguments else 0)
    if name in _PRESETS and isinstance(depth, int | float) and depth > _DEEPEST:
        raise ValueError(f"a depth of {depth} is more than {_DEEPEST}.")
    try:
        return made(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"{ast.unparse(node)[:80]!r}: {error}") from error
