"""Online compression: keep the coefficients of a signal current as its samples come in."""

import numpy as np

from ssm_core._checks import as_array, as_choice, as_int, as_positive
from ssm_core.hippo.legs_update import legs_wavefront
from ssm_core.hippo.measures import basis, transition
from ssm_core.lti import ContinuousSSM

# The weight alpha of the new state in each rule of the family (I - alpha h A) x_new = ...
_LEGS_RULES = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}


def project(u, measure, N, dt, method="bilinear", every=1, **measure_args):
    """Compress a signal online: the N coefficients after each sample.

    Sample k stands for the signal between t_{k-1} and t_k, with t_k = k dt. For ``legs`` the
    system is time-varying and each step costs O(N); it freezes 1/t at t_k - alpha dt, alpha being
    0, 1/2, 1 for euler, bilinear, backward_euler. With this choice the first coefficient is the
    exact running mean. The other measures are time-invariant: they are discretized once, and a
    step costs O(N^2).

    Args:
        u (float64):     signal, (L,)
        measure (str):   legs | legt | lagt | glagt | fout | chebt
        N (int):         number of coefficients, at least 1; even for ``fout``
        dt (float):      time between samples, > 0, in the units of theta. ``legs`` has no time
                         scale of its own: its coefficients do not depend on dt
        method (str):    for ``legs`` euler | bilinear | backward_euler, otherwise any method of
                         :func:`ssm_core.discretize.discretize` but gbt. Default bilinear: of
                         second order, where Euler's error is visible on smooth signals
        every (int):     keep the coefficients after each ``every``-th sample only, to save memory
                         (default 1: after each sample)
        **measure_args:  as :func:`ssm_core.hippo.transition`

    Returns:
        float64, (L // every, N): row i holds the coefficients after sample (i + 1) * every

    Raises:
        ValueError: wrong shape, non-finite samples, unknown measure or method, a value out of range
        TypeError:  an argument that the measure does not have

    Book: eq-projection, eq-hippo-ode; for ``legs`` eq-legs-projection, eq-legs-update and
    eq-legs-residual. Source: Gu et al., HiPPO (arXiv 2008.07669), section 2.4 and appendix E (the
    O(N) step).

    Example:
        >>> project([1.0, 2.0, 3.0], "legs", N=2, dt=1.0)[:, 0]
        array([1. , 1.5, 2. ])
    """
    u = as_array(u, "u", ("L",), real=True)
    N = as_int(N, "N")
    dt = as_positive(dt, "dt")
    every = as_int(every, "every")
    A, B = transition(measure, N, **measure_args)
    if measure == "legs":
        as_choice(method, "method", _LEGS_RULES)
        return legs_wavefront(u, _LEGS_RULES[method], N, every)
    system = ContinuousSSM(A, B, np.zeros((1, N)), np.zeros((1, 1))).discretize(dt, method)
    _, x = system.recurrence(u)
    return x[every - 1 :: every, :N]  # foh appends its last input to the state


def reconstruct(coefficients, measure, t, **measure_args):
    """The past that the coefficients remember, at chosen moments.

    Args:
        coefficients (float64):  (N,), or (K, N) for K states at once
        measure (str):           legs | legt | lagt | glagt | fout | chebt
        t (float64):             (T,) or a number: fractions of the past in [0, 1], 0 the oldest
                                 moment, 1 now. After k samples the middle of sample j = 0 ... k-1
                                 lies at (j + 1/2) / k of the past for ``legs``
        **measure_args:          theta, the length of the past in units of time (default 1; not
                                 for ``legs``); alpha and beta for ``glagt``

    Returns:
        float64, (T,) or (K, T); without the last axis where t is a number

    Raises:
        ValueError: wrong shape, unknown measure, t outside [0, 1]
        TypeError:  an argument that the measure does not have

    Book: eq-reconstruction. Source: Gu et al., HiPPO (arXiv 2008.07669), section 2.2.

    Example:
        >>> reconstruct([5.0, 0.0], "legs", [0.0, 0.5, 1.0])
        array([5., 5., 5.])
    """
    coefficients = as_array(coefficients, "coefficients", (..., "N"), real=True)
    if coefficients.ndim > 2:
        raise ValueError(f"coefficients has shape {coefficients.shape}, expected (N,) or (K, N)")
    moments = np.atleast_1d(t)
    past = coefficients @ basis(measure, coefficients.shape[-1], moments, **measure_args).T
    return past if np.ndim(t) else past[..., 0]
