"""Checks of arguments at the boundary of the library.

Every public function calls these first and then trusts its arguments. A check returns the
argument in the one form that the rest of the code works with (an array in float64 or
complex128, a plain ``int`` or ``float``), or raises an error that names the argument, says what
came and what is expected: ``TypeError`` for the wrong kind of thing, ``ValueError`` for the right
kind with a wrong value or shape.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Array",
    "RealArray",
    "as_array",
    "as_choice",
    "as_dynamics",
    "as_flag",
    "as_generator",
    "as_int",
    "as_positive",
    "as_real",
    "as_signal",
    "as_square",
    "as_state_space",
    "as_step_range",
    "as_times",
    "finite_result",
    "read_only",
    "without_warnings",
]

Array = NDArray[Any]  # float64, or complex128 where an argument is complex
RealArray = NDArray[np.float64]

_Function = TypeVar("_Function", bound=Callable[..., Any])


@overload
def as_array(
    value: ArrayLike, name: str, shape: Sequence[Any] | None = None, *, real: Literal[True]
) -> RealArray: ...


@overload
def as_array(
    value: ArrayLike, name: str, shape: Sequence[Any] | None = None, *, real: bool = False
) -> Array: ...


def as_array(
    value: ArrayLike, name: str, shape: Sequence[Any] | None = None, *, real: bool = False
) -> Array:
    """Return ``value`` as a finite array in float64, or complex128 where it is complex.

    Any dtype of numbers, byte order, layout and subclass is converted. A mask is never dropped in
    silence: a masked array is accepted only if nothing in it is masked.

    Args:
        value: anything NumPy reads as an array of numbers.
        name: what the caller calls this argument.
        shape: the shape expected, one entry an axis: an int is required, a string such as ``"N"``
            names an axis of any length of at least 1. Equal strings mean equal lengths. ``...``
            in front allows any leading axes. ``None`` accepts every shape.
        real: refuse complex numbers.

    Raises:
        TypeError: not an array of numbers, or complex where real numbers are expected.
        ValueError: wrong shape, masked entries, or a NaN or an infinity in it.
    """
    if count := _masked_entries(value):
        raise ValueError(f"{name} has {count} masked entries, expected none: fill or drop them")
    try:
        x = np.asarray(value)
    except ValueError as error:  # ragged nested lists
        raise ValueError(f"{name} is not a rectangular array of numbers: {error}") from None
    except (TypeError, RuntimeError) as error:  # a tensor that requires a gradient or lies on a GPU
        kind = type(value).__name__
        raise TypeError(f"{name} is a {kind} that NumPy cannot read: {error}") from None
    if x.dtype.kind not in "biufc":
        kind = f"dtype {x.dtype}" + (f" ({type(value).__name__})" if x.dtype.kind == "O" else "")
        raise TypeError(f"{name} has {kind}, expected numbers (float64 or complex128)")
    if real and x.dtype.kind == "c":
        raise TypeError(f"{name} is complex ({x.dtype}), expected real numbers")
    with np.errstate(all="ignore"):  # what float64 cannot hold becomes inf, and is refused below
        x = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64, copy=False)
    if shape is not None and not _fits(x.shape, tuple(shape)):
        raise ValueError(f"{name} has shape {x.shape}, expected {_spell(shape)}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds {_first_bad(x)}, expected finite numbers")
    return x


def as_signal(
    value: ArrayLike, name: str, channels: int, *, length: int | None = None, real: bool = False
) -> Array:
    """Return a signal as an array of shape (L, channels); (L,) is accepted for one channel.

    Args:
        value: samples in time order, (L, channels), or (L,) where ``channels`` is 1.
        name: what the caller calls this argument.
        channels: numbers at each sample.
        length: the length L that is required, if it is.
        real: refuse complex numbers.
    """
    x = as_array(value, name, real=real)
    L = "L" if length is None else length
    wanted = [(L, channels)] + ([(L,)] if channels == 1 else [])
    if not any(_fits(x.shape, shape) for shape in wanted):
        expected = " or ".join(map(_spell, wanted))
        raise ValueError(f"{name} has shape {x.shape}, expected {expected}")
    return x.reshape(len(x), channels)


def as_times(value: ArrayLike, name: str) -> RealArray:
    """Return times (L,) that increase; if they do not, the error says how to mend them."""
    t = as_array(value, name, ("L",), real=True)
    bad = np.flatnonzero(np.diff(t) <= 0)
    if len(bad):
        k = int(bad[0])
        if t[k + 1] == t[k]:
            fact = f"indices {k} and {k + 1} both hold {t[k]:.17g}"
            mend = (
                "keep one sample of each time, the last with "
                f"keep = np.append(np.diff({name}) > 0, True), or replace them by their mean"
            )
        else:
            fact = f"{t[k]:.17g} at index {k} is followed by {t[k + 1]:.17g}"
            mend = f'sort the samples by order = np.argsort({name}, kind="stable")'
        raise ValueError(
            f"{name} does not increase everywhere: {fact}, expected increasing times; {mend}"
        )
    return t


def as_state_space(
    A: ArrayLike, B: ArrayLike, C: ArrayLike, D: ArrayLike | None
) -> tuple[Array, Array, Array, Array]:
    """Return A (N, N), B (N, M), C (P, N), D (P, M) as arrays that fit each other.

    Short forms are accepted where they have one meaning: a scalar A, B or C where N = 1; a column
    B as (N,) and a row C as (N,), of one input and one output; B as (M,) where N = 1. D may be
    None or the number 0, which mean zeros, or (P,) or (M,) where there is one input or output.
    """
    A, B = as_dynamics(A, B)
    C = _as_matrix(C, "C", "P", len(A))  # (P, N)
    shape = len(C), B.shape[1]
    D = as_array(0 if D is None else D, "D")
    if D.ndim == 0 and D == 0:
        return A, B, C, np.zeros(shape)
    return A, B, C, _as_matrix(D, "D", *shape)


def as_dynamics(A: ArrayLike, B: ArrayLike) -> tuple[Array, Array]:
    """Return A (N, N) and B (N, M); short forms as in :func:`as_state_space`."""
    A = as_square(A, "A")
    return A, _as_matrix(B, "B", len(A), "M")


def as_square(value: ArrayLike, name: str) -> Array:
    """Return a square matrix (N, N); a scalar is accepted for N = 1."""
    return _as_matrix(value, name, "N", "N")


def _as_matrix(value: ArrayLike, name: str, rows: int | str, columns: int | str) -> Array:
    """A matrix (rows, columns), also from a scalar or (n,) where a side of the matrix is 1."""
    x = as_array(value, name)
    if x.ndim == 2 and _fits(x.shape, (rows, columns)):
        return x
    if x.ndim < 2:
        for shape in ((x.size, 1), (1, x.size)):  # a column first: B is one where N = M = 1 too
            if _fits(shape, (rows, columns)):
                return x.reshape(shape)
    raise ValueError(f"{name} has shape {x.shape}, expected {_spell((rows, columns))}")


def as_real(value: Any, name: str, *, low: float | None = None, high: float | None = None) -> float:
    """Return one finite real number as a float, from ``low`` to ``high``, ends included."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} is {value!r}, expected a real number")
    try:
        x = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        x = np.empty(0)
    if x.dtype.kind not in "iuf" or x.size != 1 or _masked_entries(value):
        raise TypeError(f"{name} is {_short(value)}, expected a real number")
    number = float(x.reshape(()))
    bounds = (
        f" of at least {low:g}"
        if low is not None and high is None
        else f" of at most {high:g}"
        if high is not None and low is None
        else f" from {low:g} to {high:g}"
        if low is not None
        else ""
    )
    inside = (low is None or number >= low) and (high is None or number <= high)
    if not np.isfinite(number) or not inside:
        raise ValueError(f"{name} is {number:g}, expected a finite number{bounds}")
    return number


def as_positive(value: Any, name: str) -> float:
    """Return one finite real number above zero as a float: a step dt, a window theta."""
    number = as_real(value, name)
    if number <= 0:
        raise ValueError(f"{name} is {number:g}, expected a number above 0")
    return number


def as_int(value: Any, name: str, *, low: int = 1) -> int:
    """Return an integer of at least ``low``: a state size N, a length L."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {_short(value)}, expected an integer") from None
    if number < low:
        raise ValueError(f"{name} is {number}, expected an integer of at least {low}")
    return number


def as_flag(value: Any, name: str) -> bool:
    """Return ``value`` if it is True or False; 1, "no" and the like are refused."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected True or False")
    return value


def as_step_range(dt_min: Any, dt_max: Any) -> tuple[float, float]:
    """Return the smallest and the largest step that a layer starts with, in order and above zero."""
    dt_min, dt_max = as_positive(dt_min, "dt_min"), as_positive(dt_max, "dt_max")
    if dt_min > dt_max:
        raise ValueError(f"dt_min is {dt_min:g}, expected at most dt_max, {dt_max:g}")
    return dt_min, dt_max


def as_choice(value: Any, name: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of the names in ``choices``."""
    choices = tuple(choices)
    if not isinstance(value, str):
        raise TypeError(f"{name} is {_short(value)}, expected one of: {', '.join(choices)}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of: {', '.join(choices)}")
    return value


def as_generator(value: Any, name: str = "rng") -> np.random.Generator:
    """Return a NumPy random generator: the one given, or a new one from an integer seed."""
    if isinstance(value, np.random.Generator):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        return np.random.default_rng(as_int(value, name, low=0))
    raise TypeError(f"{name} is {_short(value)}, expected a numpy.random.Generator or a seed")


def finite_result(x: Array, what: str, why: str = "the system grows without bound") -> Array:
    """Return ``x``, or say at which index a result of finite arguments left float64's range."""
    bad = ~np.isfinite(x)
    if bad.any():
        index = int(np.argwhere(bad)[0][0])
        raise OverflowError(f"{what} leaves the range of float64 at index {index}: {why}")
    return x


def read_only(x: Array) -> Array:
    """Return a copy of ``x`` that cannot be written to."""
    x = x.copy()
    x.flags.writeable = False
    return x


def without_warnings(function: _Function) -> _Function:
    """Run a function that checks its own result in silence, whatever its caller has set.

    Under ``np.errstate(all="raise")`` an underflow to zero must not stop a right result, and an
    overflow is reported by :func:`finite_result`, which says where it happened.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _masked_entries(value: Any) -> int:
    """How many entries are masked in an array, or in the arrays of a nested list."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.ma.count_masked(value))
    if isinstance(value, (list, tuple)):
        return sum(map(_masked_entries, value))
    return 0


def _fits(shape: tuple[int, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether a shape is the wanted one; equal names stand for equal lengths."""
    if wanted and wanted[0] is ...:
        wanted = wanted[1:]
        if len(shape) < len(wanted) or 0 in shape:
            return False
        shape = shape[len(shape) - len(wanted) :]
    if len(shape) != len(wanted):
        return False
    lengths: dict[str, int] = {}
    for have, want in zip(shape, wanted):
        if isinstance(want, str):
            if have < 1 or lengths.setdefault(want, have) != have:
                return False
        elif have != want:
            return False
    return True


def _spell(shape: Sequence[Any]) -> str:
    """A shape in words: (3, M), (..., L), (L,)."""
    axes = ["..." if axis is ... else str(axis) for axis in shape]
    return f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"


def _first_bad(x: np.ndarray) -> str:
    """The first NaN or infinity in x and where it is."""
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
    return f"{x[index]} at index {index}" if index else f"{x[()]}"


def _short(value: Any) -> str:
    """A value for an error message: its repr, or its type where that is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
