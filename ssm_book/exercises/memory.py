"""Checks for the chapter on memory."""

import numpy as np
from scipy.linalg import solve_discrete_are
from scipy.signal import lfilter
from scipy.special import eval_legendre

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_average",
    "check_gain",
    "check_learn_weight",
    "check_merge",
    "check_numbers_needed",
    "check_part_mean",
    "check_shortest_window",
    "check_weight",
]


def check_weight(weight):
    """Check ``weight(half_life, dt) -> alpha`` of an exponential moving average."""
    for half_life, dt in ((1.0, 1.0), (20.0, 1.0), (5.0, 0.25), (3.0, 7.0)):
        got = _number(weight(half_life, dt), "weight")
        hints = (
            (
                1 - np.exp(-dt / half_life),
                "That takes the half-life for the time constant: after "
                "it the weight has fallen to 1/e, not to a half.",
            ),
            (2 / (half_life / dt + 1), "That takes the half-life for the span."),
            (0.5 ** (dt / half_life), "That is 1 - alpha, by which each step multiplies the past."),
            (1 - 0.5 ** (1 / half_life), "The half-life is a time: it lasts half_life / dt steps."),
            (np.log(2) * dt / half_life, "That is Euler's approximation, good for small dt only."),
        )
        why = "After half_life / dt steps, (1 - alpha) to that power must be 1/2."
        why = reason(got, (1 - 0.5 ** (dt / half_life)), hints, why)
        steps = half_life / dt
        expect(
            0 < got < 1 and np.isclose((1 - got) ** steps, 0.5),
            f"weight({half_life:g}, {dt:g}) is {got:.6g}. {why}",
        )
    passed("the weight halves in one half-life, whatever the step")


def check_average(average):
    """Check ``average(prices, times, tau) -> y``: the moving average on uneven times."""
    rng = np.random.default_rng(5)
    for L, tau in ((2, 1.0), (40, 3.0), (200, 30.0)):
        times = np.cumsum(rng.choice([0.5, 1.0, 3.0, 4.0], L)) + 100.0
        prices = 50 + np.cumsum(rng.standard_normal(L))
        steps = np.diff(times)
        want = _held(prices, steps, tau)
        got = average(prices.copy(), times.copy(), tau)
        same = "All steps get the same weight; each has a length of its own."
        hints = (
            (_held(prices, np.ones(L - 1), tau), same),
            (_held(prices, np.full(L - 1, steps.mean()), tau), same),
            (
                _held(prices, np.r_[steps[1:], steps[-1:]], tau),
                "Each price gets the weight of the gap after it; it holds during the gap before it.",
            ),
            (
                _recurrence(prices, steps / tau),
                "step / tau is Euler's rule; the exact weight is 1 - exp(-step / tau).",
            ),
            (
                _recurrence(prices, np.exp(-steps / tau)),
                "exp(-step / tau) is the weight of the old average, not of the new price.",
            ),
            (
                want - prices[0] * np.exp(-(times - times[0]) / tau),
                "The average starts at zero; it should start with the first price.",
            ),
        )
        why = "Between two times the distance to the new price shrinks by exp(-step / tau)."
        expect_close("average(prices, times, tau)", got, want, reason(got, want, hints, why))
    passed("the average on uneven times")


def check_shortest_window(shortest_window):
    """Check ``shortest_window(alpha, low, high, error) -> W``."""
    cases = (
        (0.02, 10.0, 145.0, 0.01),
        (0.5, 0.0, 1.0, 0.2),
        (0.1, -3.0, 3.0, 1e-6),
        (0.3, 100.0, 101.0, 0.4),
        (0.3, 1.0, 2.0, 0.6),
        (0.3, 1.0, 2.0, 2.5),
    )
    for alpha, low, high, error in cases:

        def unavoidable(W, alpha=alpha, spread=high - low):
            return (1 - alpha) ** W * spread / 2

        got = _number(shortest_window(alpha, low, high, error), "shortest_window")
        expect(
            got == round(got) and got >= 0,
            f"shortest_window returns {got:g}; a window has a whole number of samples, and "
            "none is enough where half of the range is within the error.",
        )
        call = f"shortest_window({alpha:g}, {low:g}, {high:g}, {error:g})"
        if unavoidable(got) > error:
            why = f"for W = {got:g} two histories that agree in the window force an error of "
            why += f"{unavoidable(got):.3g}; the error allowed is {error:g}."
        else:
            whole = np.ceil(np.log(error / (high - low)) / np.log(1 - alpha))
            why = f"W = {got - 1:g} is enough as well."
            if got == whole:
                why += " A guess in the middle of the range is wrong by half of it at most."
        right = unavoidable(got) <= error and (got == 0 or unavoidable(got - 1) > error)
        expect(right, f"{call} is {got:g}: {why}")
    passed("no function of a shorter window is good enough, and one of this window is")


def check_numbers_needed(numbers_needed):
    """Check ``numbers_needed(u, error) -> N``: coefficients until a polynomial fits well enough."""
    t = (np.arange(2000) + 0.5) / 2000
    rng = np.random.default_rng(9)
    cases = (
        (np.sin(2 * np.pi * 5 * t), 0.01),
        (np.cos(2 * np.pi * 8.3 * t + 1), 1e-3),
        (3 + np.cumsum(rng.standard_normal(2000)), 0.3),
    )
    for u, error in cases:
        got = _number(numbers_needed(u.copy(), error), "numbers_needed")
        errors = _polynomial_errors(u, 120)  # with 1, 2, ... coefficients
        want = 1 + int(np.argmax(errors <= error))
        if got == want:
            continue
        if got == want - 1 and got >= 1:
            why = f"N counts coefficients from 1: the polynomial has degree N - 1 = {want - 1}."
        elif got == 1 + int(np.argmax(errors * u.std() <= error)):
            why = "error is in standard deviations of u: divide by u.std()."
        elif got == 1 + int(np.argmax(errors**2 <= error)):
            why = "That is the mean square; take its root."
        elif 1 <= got == round(got) <= len(errors):
            why = (
                f"With {got:.0f} coefficients the best polynomial has the error "
                f"{errors[int(got) - 1]:.3g}, and {error:g} is asked for."
            )
        else:
            why = "N is a whole number, at least 1."
        expect(False, f"numbers_needed(u, {error:g}) is {got:g}. {why}")
    passed("the smallest number of coefficients, for smooth signals and for a rough one")


def check_part_mean(part_mean):
    """Check ``part_mean(N, start, stop) -> c`` (N,): the row that reads a mean off a LegS state."""
    for N, start, stop in ((1, 0.2, 0.7), (5, 0.0, 1.0), (6, 0.1, 0.4), (64, 0.75, 1.0)):
        got = np.asarray(returned(part_mean(N, start, stop), "part_mean"), dtype=float)
        got = got[0] if got.shape == (1, N) else got
        want = _part_mean(N, start, stop)
        n = np.arange(N)
        hints = (
            (want * (stop - start), "That is the integral; a mean is divided by stop - start."),
            (
                want / np.sqrt(2 * n + 1),
                "The basis of LegS is sqrt(2n + 1) P_n(2t - 1): the factor is missing.",
            ),
            (
                _part_mean(N, 1 - stop, 1 - start),
                "Your past runs backwards: 0 is the oldest moment and 1 is now.",
            ),
            (
                np.sqrt(2 * n + 1) * eval_legendre(n, start + stop - 1),
                "That is the value in the middle of the part, not the mean over it.",
            ),
            (
                _part_mean(N, (start + 1) / 2, (stop + 1) / 2),
                "P_n lives on [-1, 1] and the past on [0, 1]: use P_n(2t - 1).",
            ),
        )
        why = "Entry n is the mean of basis function n between start and stop."
        expect_close(
            f"part_mean({N}, {start}, {stop})",
            got,
            want,
            reason(got, want, hints, why),
            rtol=1e-7,
            atol=1e-8,
        )
    passed("a row of C for any part of the past")


def check_gain(gain):
    """Check ``gain(drift, noise) -> alpha``: where Kalman's gain for a drifting level settles."""
    for drift, noise in ((1.0, 1.0), (0.1, 1.0), (0.3, 2.0), (5.0, 0.5)):
        got = _number(gain(drift, noise), "gain")
        want = _steady_gain(drift**2, noise**2)
        hints = (
            (_steady_gain(drift, noise), "drift and noise are standard deviations; square them."),
            (_steady_gain(noise**2, drift**2), "drift and noise have changed places."),
            (
                drift**2 / (drift**2 + noise**2),
                "That is the first step from a level that is known "
                "exactly; the error of the old estimate is missing.",
            ),
            (want**2 / (1 - want), "That is (drift / noise)²; solve for alpha."),
            (1 - want, "That is 1 - alpha, the weight of the old estimate."),
            (
                2 * want,
                "That is twice too large: the derivative of each square has a factor 2, and "
                "they cancel.",
            ),
        )
        why = (
            "In the steady state V = (1 - alpha) (V + drift²) and "
            "alpha = (V + drift²) / (V + drift² + noise²)."
        )
        expect_close(
            f"gain({drift:g}, {noise:g})", got, want, reason(got, want, hints, why), rtol=1e-6
        )
    passed("the weight at which Kalman's gain settles")


def check_learn_weight(learn_weight):
    """Check ``learn_weight(u) -> alpha``: the average that forecasts the next sample best."""
    rng = np.random.default_rng(8)
    for drift, noise, L in ((1.0, 1.0, 400), (0.1, 1.0, 2000), (0.5, 0.2, 300)):
        u = 10 + drift * np.cumsum(rng.standard_normal(L)) + noise * rng.standard_normal(L)
        got = _number(learn_weight(u.copy()), "learn_weight")
        expect(
            0 < got <= 1, f"learn_weight returns {got:g}, expected a weight above 0 and at most 1."
        )
        want = _best_weight(u)
        hints = (
            (_best_weight(u, start=0.0), "Your average starts at zero; it should start with u[0]."),
            (_best_weight(u, ahead=2), "That forecasts two samples ahead: y[k - 1] predicts u[k]."),
            (1 - want, "That is 1 - alpha, the weight of the past."),
            (1.0, "The average of u[:k + 1] contains u[k]: compare u[1:] with y[:-1]."),
        )
        why = (
            "Minimize np.mean((u[1:] - y[:-1]) ** 2) over alpha, where y is the average that "
            "starts with u[0]."
        )
        if _forecast_error(got, u) > 1.0001 * _forecast_error(want, u):
            near = [word for wrong, word in hints if abs(got - wrong) < 0.002 < abs(want - wrong)]
            expect(False, f"learn_weight(u) is {got:.4g}. {near[0] if near else why}")
    passed("no other weight forecasts the next sample better")


def check_merge(merge):
    """Check ``merge(first, second, share) -> coefficients`` of two LegS memories in a row."""
    rng = np.random.default_rng(6)
    for N, share in ((4, 0.3), (1, 0.25), (9, 0.5), (32, 0.8)):
        # Parts that no memory of size N holds: polynomials of a higher degree on each side.
        parts = rng.standard_normal((2, N + 5)) / (1 + np.arange(N + 5))
        first, second = parts[:, :N]
        want = _merge(*parts, share)[:N]
        got = merge(first.copy(), second.copy(), share)
        hints = (
            (
                share * first + (1 - share) * second,
                "That averages the two; a coefficient of a part is not one of the whole, since its "
                "polynomial lives on the part alone.",
            ),
            (_merge(parts[1], parts[0], share)[:N], "The two parts have changed places."),
            (_merge(*parts, 1 - share)[:N], "share is the fraction that the first part makes up."),
            (
                _merge(*parts, share, lengths=(1, 1))[:N],
                "Time runs faster in a part than in the whole: "
                "each integral gets the length of its part as a factor.",
            ),
        )
        why = (
            "Coefficient n is the integral of the signal times p_n over the whole. Each part of "
            "it follows from that part's own polynomial."
        )
        expect_close(
            f"merge(first, second, {share})",
            got,
            want,
            reason(got, want, hints, why),
            rtol=1e-7,
            atol=1e-9,
        )
    passed("two memories merged without loss")


# --- independent truths -------------------------------------------------------------------------


def _held(prices, steps, tau):
    """The average as one weighted sum for each time, without a recurrence."""
    since = np.r_[0.0, np.cumsum(steps)]
    weights = np.r_[1.0, 1 - np.exp(-steps / tau)]
    fade = np.exp(-np.maximum(since[:, None] - since, 0) / tau)
    return np.tril(fade * weights) @ prices


def _recurrence(prices, weights):
    y = [prices[0]]
    for price, weight in zip(prices[1:], weights):
        y.append((1 - weight) * y[-1] + weight * price)
    return np.array(y)


def _part_mean(N, start, stop):
    """Means of the basis from the integral of Legendre polynomials, in closed form."""
    n = np.arange(N)
    edges = 2 * np.array([start, stop]) - 1
    above, below = eval_legendre(n[:, None] + 1, edges), eval_legendre(abs(n[:, None] - 1), edges)
    integral = (above - below) / (2 * n[:, None] + 1)  # of P_n, for n >= 1
    integral[0] = edges
    return np.sqrt(2 * n + 1) * (integral[:, 1] - integral[:, 0]) / (edges[1] - edges[0])


def _steady_gain(Q, R):
    """By the algebraic Riccati equation, which knows nothing of the closed form."""
    M = solve_discrete_are([[1.0]], [[1.0]], [[Q]], [[R]])[0, 0]
    return M / (M + R)


def _forecast_error(alpha, u, start=None, ahead=1):
    """Mean squared error of an average as a forecast, with the recurrence as a filter of SciPy."""
    start = u[0] if start is None else start
    y, _ = lfilter([alpha], [1, alpha - 1], u, zi=[(1 - alpha) * start])
    return np.mean((u[ahead:] - y[:-ahead]) ** 2)


def _best_weight(u, **options):
    """The best weight by trying a fine grid, and a finer one around the best."""
    grid = np.linspace(0.002, 1, 500)
    for width in (0.002, 0.00002):
        best = grid[np.argmin([_forecast_error(alpha, u, **options) for alpha in grid])]
        grid = np.clip(best + width * np.linspace(-1, 1, 101), 1e-6, 1)
    return float(best)


def _polynomial_errors(u, most):
    """Error of the best polynomial with 1 to ``most`` coefficients, in standard deviations of u, by
    the three-term recurrence of polynomials that are orthogonal on the samples."""
    z = np.linspace(-1, 1, len(u))
    last, p = np.zeros_like(z), np.ones_like(z) / np.sqrt(len(u))
    rest, errors = u.astype(float), []
    for _ in range(most):
        rest = rest - p * (p @ rest)
        errors.append(np.sqrt(np.mean(rest**2)) / u.std())
        following = z * p - p * (p @ (z * p)) - last * (last @ (z * p))
        last, p = p, following / np.linalg.norm(following)
    return np.array(errors)


def _merge(first, second, share, lengths=None):
    """Coefficients of the whole by a quadrature with plenty of points on each part."""
    n = np.arange(len(first))
    z, w = np.polynomial.legendre.leggauss(120)
    scale = np.sqrt(2 * n + 1)
    own = scale * eval_legendre(n, z[:, None])
    total = 0
    parts = zip((first, second), (0.0, share), (share, 1 - share), lengths or (share, 1 - share))
    for part, begin, length, factor in parts:
        t = begin + length * (z + 1) / 2
        whole = scale * eval_legendre(n, 2 * t[:, None] - 1)
        total = total + factor * whole.T @ (w / 2 * (own @ part))
    return total


# --- what is wrong with an answer ---------------------------------------------------------------


def _number(answer, name):
    returned(answer, name)
    expect(np.size(answer) == 1, f"{name} should return one number; yours has {np.size(answer)}.")
    number = float(np.ravel(answer)[0])
    expect(np.isfinite(number), f"{name} returns {number}.")
    return number
