"""Every public function and method says what it takes and what it returns."""

import inspect

import pytest

from tests.test_examples import public_objects


def callables(value):
    """A function itself; of a class what is called by its users, with its constructor."""
    if inspect.isfunction(value):
        return [value]
    methods = [
        member
        for name, member in vars(value).items()
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_"))
    ]
    return [method for method in methods if method.__module__ == value.__module__]


@pytest.mark.parametrize(
    "value", [pytest.param(value, id=name) for name, value in public_objects()]
)
def test_public_signatures_are_annotated(value):
    for function in callables(value):
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        first = 0 if inspect.isfunction(value) else 1  # self
        bare = [p.name for p in parameters[first:] if p.annotation is p.empty]
        assert not bare, f"{function.__qualname__}: {', '.join(bare)} without a type"
        if function.__name__ != "__init__":
            assert signature.return_annotation is not signature.empty, function.__qualname__
