"""The package as a whole: what importing it loads, and the checks all modules share."""

import ast
import fractions
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import ssm_core
from ssm_core import _checks

ROOT = pathlib.Path(__file__).parents[1]

HEAVY = ("torch", "triton", "matplotlib", "scipy", "numba")


def loaded_by(statements):
    """The modules loaded after running statements in a fresh interpreter."""
    code = f"import sys, json\n{statements}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy():
    loaded = loaded_by("import ssm_core")
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith("ssm_core.")]


@pytest.mark.parametrize("names", ["rnn, discretize, convolution, lti", "hippo"])
def test_the_numerical_modules_load_no_torch(names):
    loaded = loaded_by(f"from ssm_core import {names}")
    assert not loaded & {"torch", "triton", "matplotlib"}


def test_modules_are_attributes_when_asked_for():
    statements = (
        "import ssm_core\nassert dir(ssm_core) == sorted([*ssm_core.__all__, '__version__'])\n"
        "assert 'ssm_core.lti' not in sys.modules\nssm_core.lti.DiscreteSSM"
    )
    assert "ssm_core.lti" in loaded_by(statements)


def test_each_module_imports_only_those_before_it():
    order = ["rnn", "discretize", "convolution", "lti"]
    for i, name in enumerate(order):
        loaded = loaded_by(f"import ssm_core.{name}")
        assert not loaded & {f"ssm_core.{later}" for later in order[i + 1 :]}


ROOMS = "ssm_core", "ssm_book", "benchmarks", "experiments", "tools"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room):
    """Imports inside functions count too."""
    later = ROOMS[ROOMS.index(room) + 1 :]
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & set(later), path


def test_discretize_is_the_module():
    assert ssm_core.discretize.discretize.__module__ == "ssm_core.discretize"


def test_unknown_names():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ssm_core.nothing  # noqa: B018


def test_version():
    assert ssm_core.__version__.count(".") == 2


# the checks


@pytest.mark.parametrize("value", [1, 1.5, True, [1, 2], np.float32(2), np.arange(3, dtype="i2")])
def test_real_numbers_become_float64(value):
    assert _checks.as_array(value, "x").dtype == np.float64


def test_complex_numbers_become_complex128():
    assert _checks.as_array(np.complex64(1j), "x").dtype == np.complex128
    with pytest.raises(TypeError, match="x is complex"):
        _checks.as_array(1j, "x", real=True)


def test_what_numpy_cannot_read_is_named():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("call detach() first")

    with pytest.raises(TypeError, match="x is a Tensor that NumPy cannot read: call detach"):
        _checks.as_array(Tensor(), "x")
    with pytest.raises(TypeError, match="dt is "):
        _checks.as_real(Tensor(), "dt")
    with pytest.raises(TypeError, match=r"x has dtype object \(Fraction\), expected numbers"):
        _checks.as_array(fractions.Fraction(1, 3), "x")
    with pytest.raises(ValueError, match="x holds inf, expected finite"):
        _checks.as_array(np.longdouble("1e4000"), "x")


def test_a_mask_is_not_dropped():
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    for value in (masked, [masked, masked], np.ma.masked):
        with pytest.raises(ValueError, match=r"x has [12] masked entries, expected none"):
            _checks.as_array(value, "x")
    with pytest.raises(TypeError, match="dt is masked"):
        _checks.as_real(np.ma.masked, "dt")
    assert type(_checks.as_array(np.ma.masked_array([1.0]), "x")) is np.ndarray


def test_equal_names_mean_equal_lengths():
    assert _checks.as_array(np.ones((2, 3, 2)), "x", ("N", "M", "N")).shape == (2, 3, 2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 3\), expected \(N, M, N\)"):
        _checks.as_array(np.ones((2, 3, 3)), "x", ("N", "M", "N"))
    with pytest.raises(ValueError, match=r"expected \(..., 2\)"):
        _checks.as_array(np.ones((4, 3)), "x", (..., 2))
    assert _checks.as_array(np.ones((5, 4, 2)), "x", (..., 2)).ndim == 3


def test_the_first_bad_number_is_named():
    with pytest.raises(ValueError, match=r"x holds nan at index \(1, 0\), expected finite"):
        _checks.as_array([[1, 2], [np.nan, np.inf]], "x")
    with pytest.raises(ValueError, match="x holds inf, expected finite"):
        _checks.as_array(np.inf, "x")


def test_numbers_in_bounds():
    assert _checks.as_real(np.float32(0.5), "x", low=0, high=1) == 0.5
    assert _checks.as_real(np.array([2]), "x") == 2.0
    with pytest.raises(ValueError, match="x is -1, expected a finite number of at least 0"):
        _checks.as_real(-1, "x", low=0)
    with pytest.raises(ValueError, match="x is 2, expected a finite number of at most 1"):
        _checks.as_real(2, "x", high=1)
    with pytest.raises(TypeError, match="x is a list, expected a real number"):
        _checks.as_real([[1.0], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]], "x")
    assert _checks.as_int(np.int32(3), "n") == 3
    with pytest.raises(ValueError, match="n is 1, expected an integer of at least 2"):
        _checks.as_int(1, "n", low=2)


def test_signals_have_time_first():
    assert _checks.as_signal([1, 2, 3], "u", 1).shape == (3, 1)
    with pytest.raises(ValueError, match=r"u has shape \(3,\), expected \(L, 2\)$"):
        _checks.as_signal([1, 2, 3], "u", 2)
    with pytest.raises(ValueError, match=r"expected \(4, 1\) or \(4,\)"):
        _checks.as_signal([1, 2, 3], "u", 1, length=4)


def test_choices_and_generators():
    assert _checks.as_choice("a", "kind", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="kind is 'c', expected one of: a, b"):
        _checks.as_choice("c", "kind", ("a", "b"))
    rng = np.random.default_rng(0)
    assert _checks.as_generator(rng) is rng
    assert _checks.as_generator(7).random() == np.random.default_rng(7).random()
    with pytest.raises(ValueError, match="rng is -1"):
        _checks.as_generator(-1)


def test_without_a_folder_for_compiled_code_it_is_compiled_anew(monkeypatch):
    _compiled = pytest.importorskip("ssm_core._compiled")

    def nowhere(function):
        raise RuntimeError("cannot cache function: no locator available for file")

    monkeypatch.setattr(_compiled, "_OptionalCache", nowhere)
    assert _compiled.compiled()(lambda x: x + 1)(1) == 2
