"""Checks for the chapter on Mamba."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_advance",
    "check_convolve_piece",
    "check_follow_trigger",
    "check_gate_to_mamba",
    "check_keeping_bias",
    "check_learn_gate",
    "check_older_first",
]


def check_keeping_bias(keeping_bias):
    """Check ``keeping_bias(kept, gap)``: the bias of Δ with which a state lasts through blanks.

    Args:
        keeping_bias (callable): takes the share that is kept, between 0 and 1, and the number of
            blanks, a whole number above 0; returns the bias, a float. A is −1, and at blanks the
            step is the softplus of the bias alone.
    """
    for kept, gap in ((0.9, 30), (0.5, 1), (1e-3, 4), (0.99, 1000), (1 - 1e-6, 10**6)):
        with np.errstate(all="ignore"):
            bias = np.asarray(returned(keeping_bias(kept, gap), "keeping_bias"), dtype=float)
        name = f"keeping_bias({kept:g}, {gap})"
        expect(bias.shape == (), f"{name} has shape {bias.shape}; expected one number.")
        expect(bool(np.isfinite(bias)), f"{name} is not finite.")
        step = -np.log(kept) / gap
        want = np.log(-np.expm1(-step)) + step
        once = -np.log(kept)
        hints = (
            (step, "That is the step. The bias is what softplus turns into it."),
            (np.log(step), "That is the inverse of exp. Softplus is log(1 + exp(·))."),
            (np.logaddexp(0, step), "That is softplus of the step; wanted is the inverse."),
            (
                once + np.log(-np.expm1(-once)),
                "With that bias a single blank leaves this share: the gap has more of them.",
            ),
            (
                -np.log2(kept) / gap + np.log(-np.expm1(np.log2(kept) / gap)),
                "The state falls by powers of e, not of 2.",
            ),
            (
                np.log(np.expm1(-np.log1p(-kept) / gap)) if kept < 1 else np.inf,
                "With that bias the state forgets what it should keep.",
            ),
        )
        close = abs(bias - want) < 1e-6 * (1 + abs(want))
        expect_close(
            name,
            bias,
            want,
            "For tiny steps both exp(Δ) − 1 and 1 − exp(−Δ) lose digits: use expm1."
            if close or (gap == 10**6 and abs(bias - want) < 0.1)
            else reason(
                bias, want, hints, "After `gap` blanks exp(−gap · Δ) of the state is left."
            ),
            rtol=1e-9,
        )
    passed("a bias that carries a state through the blanks")


def check_older_first(older_first):
    """Check ``older_first(longest)``: a readout of two fading states that grows with age.

    Args:
        older_first (callable): takes the largest age, a whole number above 1; returns the step
            size, a float, and the weights c of the two states, (2,). A sample of age s has the
            weight c[0] exp(-delta s) + c[1] exp(-2 delta s), for s from 1 to the largest age.
    """
    for longest in (32, 2, 8, 500):
        answer = returned(older_first(longest), "older_first")
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 2,
            "older_first should return two things, the step size and the weights of both states.",
        )
        delta, c = np.asarray(answer[0], dtype=float), np.asarray(answer[1], dtype=float)
        expect(delta.shape == (), f"delta has shape {delta.shape}; expected one number.")
        expect(c.shape == (2,), f"c has shape {c.shape}; expected (2,), one weight per state.")
        finite = bool(np.isfinite(delta) and np.isfinite(c).all())
        expect(finite, "The step size or a weight is not finite.")
        expect(delta > 0, f"The step size is {delta:.3g}. It must be positive: time passes.")
        age = np.arange(1, longest + 1)
        w = c[0] * np.exp(-delta * age) + c[1] * np.exp(-2 * delta * age)
        rises = np.diff(w) > 0
        place = f"For ages up to {longest}, "
        why = "Each state fades with age; only a difference of two can grow."
        if c[0] > 0 > c[1]:
            why = (
                "A difference can grow, but this one is past its peak at age 1: take a smaller step "
                "size, or subtract a larger share of the fast state."
            )
        if rises.any():
            top = 1 + int(np.argmin(rises))
            why = f"It grows until age {top} and falls later, when the faster state is gone."
            if not rises[0]:
                why = (
                    "It falls at first. Which state should be subtracted, the fast or the slow one?"
                )
        expect(bool(rises.all()), f"{place}the weight does not always grow. {why}")
        expect(
            bool(w[0] > 0),
            f"{place}the weight at age 1 is {w[0]:.3g}. Letters that never came score 0, "
            "so the weights of those that came must be positive.",
        )
    passed("an order of letters from an even clock")


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
    expect(bool(np.isfinite(delta).all()), "Δ is not finite for every gate.")
    expect(bool((delta >= 0).all()), "Δ is negative for some gate: time does not run backwards.")
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
        "Δ at g = 1e-13, relative to −log(1 − g),",
        delta[1] / -np.log1p(-g[1]),
        1.0,
        "1 − g has lost most digits of a small g: use log1p.",
        rtol=1e-10,
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
        expect(
            bool(np.isfinite(delta).all() and (delta >= 0).all()),
            "A step is negative, infinite or not a number.",
        )
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
        later = "A step depends on tokens that come later."
        if np.array_equal(again[1:20], delta[1:20]):
            later += (
                " It is the first one: the last token has come round to it, as with np.roll. "
                "Nothing stands before the first token."
            )
        expect(np.array_equal(again[:20], delta[:20]), later)
    passed("one state, one short look back: an induction head")


def check_learn_gate(learn_gate):
    """Check ``learn_gate(u, wanted, target)``: a gate that has learned which sample to keep.

    Args:
        learn_gate (callable): takes values u and flags wanted, float32 tensors (rows, L), and the
            value to keep, target (rows,); returns w and b. The gate is sigma(w · wanted + b), and
            the state is (1 − gate) x + gate · u.
    """
    import torch  # only where it is needed

    def rows(seed, length, swapped=False):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((512, length)).astype(np.float32)
        place = rng.integers(0, length, 512)
        wanted = np.zeros_like(u)
        wanted[np.arange(512), place] = 1
        return u, 1 - wanted if swapped else wanted, u[np.arange(512), place]

    def error(w, b, seed=1, swapped=False):
        u, wanted, target = rows(seed, 16, swapped)
        gate = 1 / (1 + np.exp(-np.clip(w * wanted + b, -50, 50)))
        x = np.zeros(len(u))
        for k in range(u.shape[1]):
            x = (1 - gate[:, k]) * x + gate[:, k] * u[:, k]
        return float(np.mean((x - target) ** 2))

    answer = returned(learn_gate(*(torch.from_numpy(x) for x in rows(0, 16))), "learn_gate")
    expect(
        isinstance(answer, (tuple, list)) and len(answer) == 2,
        "learn_gate should return two numbers, w and b.",
    )
    w, b = (float(x.detach() if isinstance(x, torch.Tensor) else x) for x in answer)
    expect(bool(np.isfinite(w) and np.isfinite(b)), f"w is {w} and b is {b}: a step was too large.")
    left = error(w, b)
    why = "The loss was still falling: take more updates, or larger ones."
    if w == 0 and b == 0:
        why = "Nothing has been learned: do the updates reach w and b?"
    elif w < 0:
        why = "w is negative: the gate closes at the wanted sample. Check the sign of the update."
    elif b > -1:
        why = f"b is {b:.1f}: between wanted samples the gate stands open, and noise comes in."
    elif w + b < 1:
        why = f"w + b is {w + b:.1f}: at the wanted sample the gate takes only a part of it."
    expect(
        left < 0.05, f"on new rows {100 * left:.0f} % of the variance is lost; expected 5. {why}"
    )
    data = (torch.from_numpy(x) for x in rows(2, 16, swapped=True))
    w, b = (float(x.detach() if isinstance(x, torch.Tensor) else x) for x in learn_gate(*data))
    left = error(w, b, 3, swapped=True)
    expect(
        left < 0.2,
        "with other data, where the flag is 0 at the wanted sample and 1 at all others, "
        f"{100 * left:.0f} % of the variance is lost. A gate that learns from its data finds a "
        f"negative w there; yours has w = {w:.1f}. Is it trained?",
    )
    passed("a gate that has learned which sample to keep")


_CHANGES = {
    "D": "Do you add D u to what is read from the state?",
    "gate": "The output is multiplied by silu(z): the second half of in_proj.",
    "order": "The filter is turned round: its last weight belongs to the newest sample.",
    "window": "The convolution sees the last four inputs, kept from token to token.",
    "conv_bias": "The convolution has a bias.",
    "silu": "A SiLU follows the convolution.",
    "softplus": "Δ is the softplus of what dt_proj returns.",
    "dt_bias": "dt_proj has a bias.",
    "rate": "A is −exp(A_log).",
    "hold": "Mamba's rule takes Δ B u, not the exact hold.",
    "norm": "Each block sees the normed stream.",
    "weight": "A norm multiplies by its weight.",
    "residual": "What a block returns is added to the stream.",
    "last": "A norm stands before the head, too.",
    "state": "The state of the scan is kept from token to token.",
    "halves": "in_proj returns the input of the convolution first, then z.",
    "BC": "x_proj returns what Δ is made of, then B, then C.",
}


def _advance(weights, token, state, change=""):
    """Logits after one more token, and the states; ``change`` leaves something out."""

    def rms(x, weight):
        return x / np.sqrt(np.mean(x**2) + 1e-5) * (1 if change == "weight" else weight)

    def silu(x):
        return x / (1 + np.exp(-x))

    layers = 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)
    stream, after = weights["backbone.embedding.weight"][token], []
    for i in range(layers):
        prefix = f"backbone.layers.{i}."
        p = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        p = {k.removeprefix("mixer."): v for k, v in p.items()}
        inner, n = p["A_log"].shape
        window, x = state[i] if state else (np.zeros((inner, 4)), np.zeros((inner, n)))
        h = stream if change == "norm" else rms(stream, p["norm.weight"])
        raw, z = np.split(p["in_proj.weight"] @ h, 2)
        if change == "halves":
            raw, z = z, raw
        window = np.c_[0 * window[:, 1:] if change == "window" else window[:, 1:], raw]
        filters = p["conv1d.weight"][:, 0]
        u = np.sum(window * (filters[:, ::-1] if change == "order" else filters), axis=1)
        u = u if change == "conv_bias" else u + p["conv1d.bias"]
        u = u if change == "silu" else silu(u)
        r = p["dt_proj.weight"].shape[1]
        narrow, B, C = np.split(p["x_proj.weight"] @ u, [r, r + n])
        if change == "BC":
            B, C = C, B
        step = p["dt_proj.weight"] @ narrow
        step = step if change == "dt_bias" else step + p["dt_proj.bias"]
        step = step if change == "softplus" else np.logaddexp(0, step)
        A = np.exp(p["A_log"]) if change == "rate" else -np.exp(p["A_log"])
        exponent = step[:, None] * A
        take = np.expm1(exponent) / A if change == "hold" else step[:, None]
        x = np.exp(exponent) * (0 * x if change == "state" else x) + take * u[:, None] * B
        y = x @ C if change == "D" else x @ C + p["D"] * u
        y = y if change == "gate" else y * silu(z)
        out = p["out_proj.weight"] @ y
        stream = out if change == "residual" else stream + out
        after.append((window, x))
    h = stream if change == "last" else rms(stream, weights["backbone.norm_f.weight"])
    return weights["lm_head.weight"] @ h, after


def check_advance(advance):
    """Check ``advance(weights, token, state)``: Mamba in NumPy, one token at a time.

    Args:
        advance (callable): takes a dict of float64 arrays with the names of the published
            checkpoints, a token, and the state, None before the first token; returns the logits
            (vocabulary,) and the new state, which may be of any kind.
    """
    import torch  # only where it is needed

    from ssm_core.mamba import MambaConfig, MambaLM

    for d, layers, n in ((12, 2, 5), (20, 1, 3)):
        model = MambaLM(MambaConfig(d, layers, 16, {"d_state": n})).double()
        rng = np.random.default_rng(d)
        weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
        for value in weights.values():  # no weight is 0 or 1, as many are at the start
            value += 0.3 * rng.standard_normal(value.shape)
        weights["lm_head.weight"] = weights["backbone.embedding.weight"]
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        tokens = rng.integers(0, 16, 12)
        with torch.no_grad():
            want = model(torch.from_numpy(tokens)[None])[0].numpy()
        state, states = None, dict.fromkeys(_CHANGES)
        for k, token in enumerate(tokens):
            with np.errstate(all="ignore"):
                given = {name: value.copy() for name, value in weights.items()}
                answer = returned(advance(given, int(token), state), "advance")
                expect(
                    isinstance(answer, (tuple, list)) and len(answer) == 2,
                    "advance should return two things, the logits and the new state.",
                )
                got, state = np.asarray(answer[0]), answer[1]
                hints = []
                for change, words in _CHANGES.items():
                    wrong, states[change] = _advance(weights, token, states[change], change)
                    hints.append((wrong, words))
                if k:
                    forgot = _advance(weights, token, None)[0]
                    words = "Right for a first token: the state that you returned is not used."
                    hints.insert(0, (forgot, words))
            expect_close(
                f"the logits after token {k}, d_model = {d}, {layers} blocks,",
                got,
                want[k],
                reason(
                    got,
                    want[k],
                    hints,
                    "Compare tensor by tensor with the eighty lines, for L = 1.",
                ),
                atol=1e-9,
            )
    passed("Mamba in NumPy, one token at a time")
