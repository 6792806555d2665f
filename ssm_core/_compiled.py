"""Compilation by Numba, which is optional: importing this module without it is an ImportError."""

from numba import njit


def compiled(**options):
    """Compile a function, and keep the code for the next process where a folder can be written."""
    def decorate(function):
        try:
            return njit(function, cache=True, **options)
        except RuntimeError:  # neither the package nor the user has such a folder
            return njit(function, **options)
    return decorate
