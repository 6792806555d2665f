"""Checks for the chapter on Mamba."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_convolve_piece",
    "check_dt_bias",
    "check_follow_trigger",
    "check_gate_to_mamba",
    "check_parameter_count",
]


def check_dt_bias(dt_bias):
    """Check ``dt_bias(dt)``: the inverse of softplus, with every digit.

    Args:
        dt_bias (callable): takes steps, float64 (K,) above 0; returns float64 (K,).
    """
    dt = np.r_[1e-12, 1e-6, np.geomspace(1e-3, 1e-1, 5), 1.0, 30.0, 800.0]
    with np.errstate(all="ignore"):
        bias = np.asarray(returned(dt_bias(dt.copy()), "dt_bias"))
        naive = np.log(np.exp(dt) - 1)
    expect(bias.shape == dt.shape, f"dt_bias returns shape {bias.shape}; expected {dt.shape}.")
    hints = (
        (np.log(dt), "That is the inverse of exp. Softplus is log(1 + exp(·))."),
        (
            np.logaddexp(0, dt),
            "That is softplus itself; wanted is what goes in, not what comes out.",
        ),
    )
    ordinary = (dt >= 1e-3) & (dt < 100)
    expect_close(
        "softplus(dt_bias(dt)) for ordinary steps",
        np.logaddexp(0, bias[ordinary]),
        dt[ordinary],
        reason(
            bias[ordinary],
            naive[ordinary],
            [(wrong[ordinary], hint) for wrong, hint in hints],
            "Solve dt = log(1 + exp(b)) for b.",
        ),
        rtol=1e-9,
        atol=0,
    )
    expect(
        np.isfinite(bias[-1]),
        "A step of 800 gives no finite number: exp(800) overflows. Take "
        "exp(dt) out of the logarithm.",
    )
    expect_close(
        "softplus(dt_bias(dt))",
        np.logaddexp(0, bias),
        dt,
        "For tiny steps exp(dt) − 1 keeps no digits: use expm1.",
        rtol=1e-11,
        atol=0,
    )
    passed("softplus, turned round")


def check_parameter_count(parameter_count):
    """Check ``parameter_count(...)``: the numbers in a Mamba language model.

    Args:
        parameter_count (callable): takes d_model, n_layer, vocab_size, d_state, d_conv, expand and
            dt_rank, all int; returns an int.
    """
    from ssm_core.mamba import MambaConfig, MambaLM  # torch only where it is needed

    for d, layers, vocab, n, k, expand, rank in (
        (12, 2, 40, 5, 3, 2, 7),
        (48, 3, 64, 16, 4, 1, 5),
        (768, 24, 50280, 16, 4, 2, 48),
    ):
        model = MambaLM(
            MambaConfig(
                d, layers, vocab, {"d_state": n, "d_conv": k, "expand": expand, "dt_rank": rank}
            ),
            device="meta",
        )
        want, inner = sum(p.numel() for p in model.parameters()), expand * d
        got = returned(parameter_count(d, layers, vocab, n, k, expand, rank), "parameter_count")
        hints = (
            (want + vocab * d, "The head shares its matrix with the embedding: count it once."),
            (want - vocab * d, "The embedding has d_model numbers for each token."),
            (
                want - (layers + 1) * d,
                "The norms are missing: one before each block, one at the end.",
            ),
            (want - layers * d, "Each block has a norm in front of it."),
            (want - d, "After the last block comes one more norm."),
            (want - 2 * layers * inner, "The convolution and dt_proj have biases."),
            (
                want - layers * inner,
                "Something with a number for each inner channel is missing: D, "
                "or one of two biases.",
            ),
            (want - layers * inner * d, "in_proj makes x and z: twice as many outputs."),
            (
                want - layers * inner * n,
                "A_log, and B and C in x_proj, each take d_state numbers for each inner channel.",
            ),
            (
                want + layers * inner * inner * k,
                "The convolution has one filter a channel and does not mix channels.",
            ),
        )
        hint = next(
            (text for wrong, text in hints if got == wrong),
            "Count weight by weight, in the order of the block's lines.",
        )
        expect(
            got == want,
            f"parameter_count says {got:,} for d_model = {d}, n_layer = {layers}; "
            f"expected {want:,}. {hint}",
        )
    passed("every number counted, 129 million of them in the third model")


def check_convolve_piece(convolve):
    """Check ``convolve(x, weight, bias, window)``: a causal convolution that takes pieces.

    Args:
        convolve (callable): takes a piece x (d, L), filters weight (d, k), bias (d,) and the k
            inputs before the piece (d, k), oldest first; returns y (d, L) and the k inputs before
            the next piece (d, k).
    """
    rng = np.random.default_rng(0)
    for d, k, lengths in ((3, 4, (9, 5)), (2, 4, (1, 2, 1, 6)), (1, 1, (3, 2)), (2, 3, (1, 1, 1))):
        L = sum(lengths)
        x, weight, bias = (rng.standard_normal(s) for s in ((d, L), (d, k), (d,)))
        before = rng.standard_normal((d, k))
        known = np.concatenate([before, x], axis=1)
        want, flipped, late = np.zeros((3, d, L))
        for t in range(L):
            for j in range(k):
                want[:, t] += weight[:, j] * known[:, t + 1 + j]
                flipped[:, t] += weight[:, k - 1 - j] * known[:, t + 1 + j]
                late[:, t] += weight[:, j] * known[:, t + j]
        want, flipped, late = (y + bias[:, None] for y in (want, flipped, late))
        window, start = before, 0
        for length in lengths:
            here = slice(start, start + length)
            given = x[:, here].copy(), weight.copy(), bias.copy(), window.copy()
            answer = returned(convolve(*given), "convolve")
            expect(len(answer) == 2, "convolve should return two arrays, y and the window.")
            y, start = np.asarray(answer[0]), here.stop
            hints = (
                (
                    flipped[:, here],
                    "The filter is turned round: its last weight belongs to the newest sample.",
                ),
                (want[:, here] - bias[:, None], "The bias is missing."),
                (late[:, here], "Yours come one sample late: the newest sample counts as well."),
            )
            expect_close(
                f"y of samples {here.start} to {here.stop - 1}, d = {d}, k = {k}",
                y,
                want[:, here],
                reason(
                    y,
                    want[:, here],
                    hints,
                    "Put the window in front of the piece, slide over "
                    "both, and see which outputs belong to the piece.",
                ),
            )
            window = known[:, here.stop : here.stop + k]
            got = np.asarray(answer[1])
            expect(
                got.shape == window.shape,
                f"the window has shape {got.shape}; expected "
                f"{window.shape}. A piece shorter than the filter leaves some of the old inputs "
                "in it.",
            )
            expect_close(
                f"the window after sample {here.stop - 1}, d = {d}, k = {k}",
                got,
                window,
                reason(
                    got,
                    window,
                    ((window[:, ::-1], "Oldest first."),),
                    "It holds the last k inputs: from this piece, and where that is too "
                    "short, from before.",
                ),
            )
    passed("a convolution in pieces, with k numbers a channel between them")


def check_gate_to_mamba(gate_to_mamba):
    """Check ``gate_to_mamba(g)``: the steps and input weights that make Mamba's rule a gate.

    Args:
        gate_to_mamba (callable): takes gates, float64 (L,) from 0 to below 1; returns Δ (L,) and B
            (L,), so that with A = −1 the state is (1 − g) x + g u.
    """
    rng = np.random.default_rng(1)
    g = np.r_[0.0, 1e-13, 0.5, 0.999, rng.uniform(0, 1, 30)]
    with np.errstate(all="ignore"):
        answer = returned(gate_to_mamba(g.copy()), "gate_to_mamba")
    expect(len(answer) == 2, "gate_to_mamba should return two arrays, Δ and B.")
    delta, B = (np.asarray(part, dtype=float) for part in answer)
    for name, part in (("Δ", delta), ("B", B)):
        expect(part.shape == g.shape, f"{name} has shape {part.shape}; expected {g.shape}.")
    expect_close(
        "exp(−Δ), what is left of the state,",
        np.exp(-delta),
        1 - g,
        reason(
            delta,
            -np.log1p(-g),
            ((g, "To first order only: exp(−Δ) must be 1 − g for every g."),),
            "Solve exp(−Δ) = 1 − g.",
        ),
    )
    expect(
        np.isfinite(B[0]),
        "B is not finite where g = 0: nothing is taken there, and any finite B "
        "will do; its limit is 1.",
    )
    expect_close(
        "Δ · B, what is taken of the input,",
        delta * B,
        g,
        reason(
            B,
            0 * B,
            (
                (g, "Mamba multiplies B by Δ: divide by it first."),
                (0 * g + 1, "With B = 1 Mamba takes Δ of the input, more than g."),
            ),
            "Mamba's rule takes Δ B u: which B makes that g u?",
        ),
    )
    expect_close(
        "Δ · B at g = 1e-13, relative to g,",
        delta[1] * B[1] / g[1],
        1.0,
        "1 − g has lost most digits of a small g: use log1p.",
        rtol=1e-10,
    )
    passed("Mamba's rule can be any gate, if B follows Δ")


def check_follow_trigger(follow_trigger):
    """Check ``follow_trigger(tokens, trigger)``: steps with which one state is an induction head.

    Args:
        follow_trigger (callable): takes tokens, int64 (L,), and the trigger; returns Δ (L,), at
            least 0, with which the state x ← exp(−Δ) x + (1 − exp(−Δ)) token ends as the token
            that followed the trigger.
    """
    from ssm_book.data import induction_heads

    rows, answers = induction_heads(60, length=40, vocab=16, seed=2)
    for tokens, answer in zip(rows, answers[:, 0]):
        delta = np.asarray(
            returned(follow_trigger(tokens.copy(), 15), "follow_trigger"), dtype=float
        )
        expect(
            delta.shape == tokens.shape,
            f"follow_trigger returns shape {delta.shape}; expected {tokens.shape}.",
        )
        expect(not np.isnan(delta).any() and (delta >= 0).all(), "A step is negative or no number.")
        x = 0.0
        for d, token in zip(delta, tokens):
            x = np.exp(-d) * x - np.expm1(-d) * token
        why = (
            "Pass over everything (Δ = 0) but the sample that is wanted, and take that one whole "
            "(Δ of 20, say)."
        )
        if abs(x - 15) < 0.01:
            why = "That is the trigger itself: take the sample after it."
        elif abs(x - tokens[np.argmax(tokens == 15) - 1]) < 0.01:
            why = "That is the token before the trigger; it is the one after it that is wanted."
        expect(abs(x - answer) < 0.01, f"the state ends at {x:.3f}, expected {answer}. {why}")
        other = np.r_[tokens[:20], (tokens[20:] + 3) % 16]
        again = np.asarray(follow_trigger(other, 15), dtype=float)
        expect(np.array_equal(again[:20], delta[:20]), "A step depends on tokens that come later.")
    passed("one state, one short look back: an induction head")
