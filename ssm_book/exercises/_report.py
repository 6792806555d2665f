"""What every check says: why an answer is wrong, or that it is right."""

import numpy as np


def expect(condition, why):
    """Stop with ``why`` unless ``condition`` holds."""
    if not condition:
        raise AssertionError(why)


def expect_close(name, got, want, why, rtol=1e-8, atol=1e-10):
    """Stop unless ``got`` has the shape and, to rounding, the values of ``want``.

    ``why`` says what usually leads to a wrong value here.
    """
    expect(got is not None, f"{name} is None: did you forget to return it?")
    got, want = np.asarray(got), np.asarray(want)
    expect(got.shape == want.shape, f"{name} has shape {got.shape}; expected {want.shape}.")
    expect(np.all(np.isfinite(got)), f"{name} is not finite everywhere. {why}")
    if not np.allclose(got, want, rtol=rtol, atol=atol):
        error = float(np.max(np.abs(got - want)))
        raise AssertionError(f"{name} is off by up to {error:.3g}. {why}")


def returned(answer, name):
    """The answer, unless the function returned nothing."""
    expect(answer is not None, f"{name} returns None: did you forget to return the result?")
    return answer


def reason(got, want, hints, why):
    """The hint that belongs to a wrong answer, or ``why``; hints are pairs (wrong answer, hint)."""
    for wrong, hint in hints:
        if (
            np.shape(got) == np.shape(wrong)
            and np.allclose(got, wrong)
            and not np.allclose(wrong, want)
        ):
            return hint
    return why


def passed(what):
    """Say what was right, on a terminal of any encoding."""
    try:
        print(f"✓ {what}")
    except UnicodeEncodeError:  # cp1252, say, which has neither the sign nor Greek letters
        print("OK:", what.encode("ascii", "namereplace").decode("ascii"))
