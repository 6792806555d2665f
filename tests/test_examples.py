"""Examples in docstrings run as a reader pastes them: into an interpreter that has nothing imported."""

import doctest
import importlib
import inspect
import pkgutil
import sys

import pytest

import ssm_book
import ssm_core

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules(package):
    """The package and its modules that import here; kernels need a package that may be missing."""
    names = [package.__name__] + [
        info.name
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not info.name.endswith("__main__")
    ]
    for name in names:
        try:
            yield importlib.import_module(name)
        except ImportError as error:
            if error.name is None or error.name.startswith(("ssm_core", "ssm_book")):
                raise


MODULES = [*modules(ssm_core), *modules(ssm_book)]
EXAMPLES = {
    test.name: test
    for module in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={})
    if test.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_pasted(name, capsys):
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(EXAMPLES[name])
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    assert runner.failures == 0, capsys.readouterr().out


def public_objects():
    """Functions and classes that the rooms of the library offer: what their ``__all__`` names."""
    for module in modules(ssm_core):
        if module.__name__.count(".") == 1 and not module.__name__.startswith("ssm_core._"):
            for name in module.__all__:
                value = getattr(module, name)
                if inspect.isfunction(value) or inspect.isclass(value):
                    yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(
    "value", [pytest.param(value, id=name) for name, value in public_objects()]
)
def test_public_objects_have_an_example(value):
    assert ">>> " in inspect.getdoc(value)
