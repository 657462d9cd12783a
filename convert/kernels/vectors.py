"""SIMD vectors for compiled functions: numbers side by side, which operators take all at once.

LLVM's own vectorizer is left nothing to guess: it unrolls short loops before it looks at them. A
vector that is wider than the processor's registers takes several. Operators take a vector and a
vector or a number, as scalar code would; comparisons give vectors of bool, for select.

Import this only where numba is installed.
"""

# ruff: noqa: ARG001 - an intrinsic's arguments are given to the function that it returns

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.extending import models, register_model

types: Any = numba.types  # numba has type hints for a part only
extending: Any = numba.extending

ELEMENTS = {types.float32: ir.FloatType(), types.int32: ir.IntType(32), types.bool_: ir.IntType(1)}
INDEX = ir.IntType(32)


class Vector(types.Type):  # type: ignore[misc]
    """So many numbers of float32, int32 or bool."""

    def __init__(self, element: Any, count: int) -> None:
        self.element, self.count = element, count
        super().__init__(name=f"vector of {count} {element}")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _ir(kind))  # type: ignore[no-untyped-call]


def _ir(kind: Vector) -> Any:
    return ir.VectorType(ELEMENTS[kind.element], kind.count)


def _filled(builder: Any, number: Any, count: int) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(INDEX, 0))
    zeros = ir.Constant(ir.VectorType(INDEX, count), [0] * count)
    return builder.shuffle_vector(first, nothing, zeros)


def _operation(function: Any, emit: Callable[..., Any], result: Any = None) -> None:
    """Let a function of two numbers take vectors; emit(builder, element, a, b) computes it."""

    def kind_of(*operands: Any) -> Vector:
        return next(one for one in operands if isinstance(one, Vector))

    def given(_context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            if not isinstance(a, Vector) and not isinstance(b, Vector):
                return None
            kind = kind_of(a, b)
            return Vector(result or kind.element, kind.count)

        return typer

    extending.type_callable(function)(given)

    def lower(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        kind = kind_of(*signature.args)
        wide = []
        for one, value in zip(signature.args, operands, strict=True):
            if not isinstance(one, Vector):
                number = context.cast(builder, value, one, kind.element)
                value = _filled(builder, number, kind.count)
            wide.append(value)
        return emit(builder, kind.element, *wide)

    for operands in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        extending.lower_builtin(function, *operands)(lower)


def _either(floating: str, whole: str) -> Callable[..., Any]:
    def emit(builder: Any, element: Any, a: Any, b: Any) -> Any:
        return getattr(builder, floating if element == types.float32 else whole)(a, b)

    return emit


def _compare(sign: str) -> Callable[..., Any]:
    def emit(builder: Any, element: Any, a: Any, b: Any) -> Any:
        if element != types.float32:
            return builder.icmp_signed(sign, a, b)
        return (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, a, b)

    return emit


def _extreme(sign: str) -> Callable[..., Any]:
    def emit(builder: Any, element: Any, a: Any, b: Any) -> Any:
        return builder.select(_compare(sign)(builder, element, a, b), a, b)

    return emit


for _functions, _names in (
    ((operator.add, operator.iadd), ("fadd", "add")),
    ((operator.sub,), ("fsub", "sub")),
    ((operator.mul,), ("fmul", "mul")),
    ((operator.truediv,), ("fdiv", "fdiv")),
    ((operator.and_, operator.iand), ("and_", "and_")),
    ((operator.or_, operator.ior), ("or_", "or_")),
    ((operator.xor,), ("xor", "xor")),
    ((operator.lshift,), ("shl", "shl")),
    ((operator.rshift,), ("ashr", "ashr")),
):
    for _function in _functions:
        _operation(_function, _either(*_names))
for _function, _sign in (
    *((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")),
    *((operator.eq, "=="), (operator.ne, "!=")),
):
    _operation(_function, _compare(_sign), types.bool_)
_operation(min, _extreme("<"))
_operation(max, _extreme(">"))


def _abs(_context: Any) -> Any:
    return lambda vector: vector if isinstance(vector, Vector) else None


def _lower_abs(_context: Any, builder: Any, signature: Any, operands: Any) -> Any:
    return builder.call(_llvm(builder, "fabs", signature.args[0]), operands)


extending.type_callable(abs)(_abs)
extending.lower_builtin(abs, Vector)(_lower_abs)


def _llvm(builder: Any, name: str, vector: Vector, result: Any = None) -> Any:
    """LLVM's own function of that name for vectors, which gives another or the result."""
    kind = _ir(vector)
    full = f"llvm.{name}.v{vector.count}{'f' if vector.element == types.float32 else 'i'}32"
    function = ir.FunctionType(result or kind, [kind])
    return cgutils.get_or_insert_function(builder.module, function, full)  # type: ignore[no-untyped-call]


def _address(context: Any, builder: Any, array: Any, value: Any, index: Any, kind: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _as_float32(builder: Any, value: Any, array: Any, kind: Any) -> Any:
    """What was read of an array: BF16 bits are widened."""
    if array.dtype != types.uint16:
        return value
    wide = ir.VectorType(ir.IntType(32), kind.count)
    sixteen = ir.Constant(wide, [16] * kind.count)
    return builder.bitcast(builder.shl(builder.zext(value, wide), sixteen), kind)


def _emitted(function: Callable[..., Any]) -> Any:
    """A function for compiled code whose LLVM code we write; numbers written out are literals."""
    return extending.intrinsic(prefer_literal=True)(function)


@_emitted
def stack(_context: Any, count: Any) -> Any:
    """Space for so many float32 on the calling function's stack, for carray."""

    def generate(_target: Any, builder: Any, _signature: Any, _operands: Any) -> Any:
        numbers = ir.ArrayType(ir.FloatType(), count.literal_value)
        space: Any = cgutils.alloca_once(builder, numbers)  # type: ignore[no-untyped-call]
        space.align = 64
        return builder.bitcast(space, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(count), generate


@_emitted
def load(_context: Any, array: Any, index: Any, count: Any) -> Any:
    """So many float32 from the index on, counted over all of a contiguous array; BF16 from bits."""
    kind = Vector(types.float32, count.literal_value)

    def generate(context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        number = context.get_value_type(array.dtype)
        stored = ir.VectorType(number, kind.count)
        at = _address(context, builder, array, operands[0], operands[1], stored)
        value = builder.load(at, align=array.dtype.bitwidth // 8)
        return _as_float32(builder, value, array, _ir(kind))

    return kind(array, types.intp, count), generate


@_emitted
def column(_context: Any, array: Any, index: Any, stride: Any, count: Any) -> Any:
    """The same, one of so many."""
    kind = Vector(types.float32, count.literal_value)

    def generate(context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        number = context.get_value_type(array.dtype)
        at = _address(context, builder, array, operands[0], operands[1], number)
        value = ir.Constant(ir.VectorType(number, kind.count), ir.Undefined)
        for place in range(kind.count):
            one = builder.load(at)
            value = builder.insert_element(value, one, ir.Constant(INDEX, place))
            at = builder.gep(at, [operands[2]])
        return _as_float32(builder, value, array, _ir(kind))

    return kind(array, types.intp, types.intp, count), generate


@_emitted
def store(_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Put numbers in an array of their type, or whole ones in one of bytes."""

    def generate(context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        value, size = operands[2], array.dtype.bitwidth // 8
        if size == 1:
            value = builder.trunc(value, ir.VectorType(ir.IntType(8), vector.count))
        at = _address(context, builder, array, operands[0], operands[1], value.type)
        builder.store(value, at, align=size)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@_emitted
def filled(_context: Any, number: Any, count: Any) -> Any:
    """So many times the same number."""

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return _filled(builder, operands[0], count.literal_value)

    return Vector(number, count.literal_value)(number, count), generate


@_emitted
def select(_context: Any, where: Any, vector: Any, other: Any) -> Any:
    """The vector's numbers where that is true, elsewhere the other's."""

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return builder.select(*operands)

    return vector(where, vector, other), generate


@_emitted
def part(_context: Any, vector: Any, first: Any, count: Any) -> Any:
    """So many of a vector's numbers, from the first on."""

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        places = range(first.literal_value, first.literal_value + count.literal_value)
        mask = ir.Constant(ir.VectorType(INDEX, len(places)), list(places))
        return builder.shuffle_vector(operands[0], operands[0], mask)

    return Vector(vector.element, count.literal_value)(vector, first, count), generate


@_emitted
def bits_of(_context: Any, vector: Any) -> Any:
    """The bits of float32 as int32."""
    kind = Vector(types.int32, vector.count)

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return builder.bitcast(operands[0], _ir(kind))

    return kind(vector), generate


@_emitted
def whole(_context: Any, vector: Any) -> Any:
    """float32 as int32, rounded towards zero."""
    kind = Vector(types.int32, vector.count)

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return builder.fptosi(operands[0], _ir(kind))

    return kind(vector), generate


@_emitted
def roots(_context: Any, vector: Any) -> Any:
    """The square roots."""

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return builder.call(_llvm(builder, "sqrt", vector), operands)

    return vector(vector), generate


@_emitted
def largest(_context: Any, vector: Any) -> Any:
    """The largest of int32."""

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        reduce = _llvm(builder, "vector.reduce.smax", vector, ir.IntType(32))
        return builder.call(reduce, operands)

    return types.int32(vector), generate


@_emitted
def flags(_context: Any, vector: Any) -> Any:
    """A vector of at most 64 bool as the bits of a number, the first the lowest."""

    def generate(_target: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        number = builder.bitcast(operands[0], ir.IntType(vector.count))
        return builder.zext(number, ir.IntType(64)) if vector.count < 64 else number

    return types.uint64(vector), generate
