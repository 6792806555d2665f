"""Signals to remember, compress and filter; tasks that need a memory; digits; a novel.

=========================== ====================================================================
:func:`oil_prices`          real: daily spot price of crude oil, 1986 to 2019
:func:`handwritten_digits`  real: small images of digits that 13 people wrote
:func:`novel`               real: the characters of a novel, 1813
:func:`random_walk_prices`  synthetic: a price that moves by chance alone
:func:`smooth_signal`       synthetic: a few sines and bumps that a handful of numbers describe
:func:`rough_signal`        synthetic: noise of any roughness, from white to smooth
:func:`band_limited_noise`  synthetic: noise without any frequency above a cutoff
:func:`selective_copying`   task: repeat the tokens that are scattered among blanks
:func:`induction_heads`     task: say what followed the trigger the last time
:func:`associative_recall`  task: say which value came with a key
=========================== ====================================================================

Beside them :func:`measurements`: the times, sizes and training runs that the chapters show.

A task returns ``inputs`` (batch, L) and ``targets`` (batch, K), both integer tokens: a model reads the
inputs, and its outputs at the last K positions are compared with the targets.

Nothing is downloaded. Every synthetic signal and task takes a ``seed``: the same seed gives the same
numbers, up to the last bits of the elementary functions of a platform, for as long as NumPy keeps
the stream of its default generator. A ``numpy.random.Generator`` is accepted in its place.
"""

from __future__ import annotations

from ssm_book.data.files import handwritten_digits, novel, oil_prices
from ssm_book.data.measured import measurements
from ssm_book.data.signals import (
    band_limited_noise,
    random_walk_prices,
    rough_signal,
    smooth_signal,
)
from ssm_book.data.tasks import associative_recall, induction_heads, selective_copying

__all__ = [
    "associative_recall",
    "band_limited_noise",
    "handwritten_digits",
    "induction_heads",
    "measurements",
    "novel",
    "oil_prices",
    "random_walk_prices",
    "rough_signal",
    "selective_copying",
    "smooth_signal",
]
