"""What holds for every S4 and S4D layer, on drawn sizes, kinds, dtypes and signals."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ssm_core.s4 import DPLR, S4, S4D, Diagonal, dplr, s4d_modes

MEASURES = ("legs", "legt", "lagt", "glagt", "fout")
INITS = ("lin", "inv", "legs", "real")


@st.composite
def layers(draw, bidirectional=False, dtype=torch.float64):
    """A layer of any kind and size with parameters that training could have reached."""
    more = {
        "bidirectional": draw(bidirectional)
        if isinstance(bidirectional, st.SearchStrategy)
        else bidirectional
    }
    low, high = sorted(draw(st.tuples(*[st.sampled_from([1e-4, 1e-2, 0.1, 1.0, 5.0])] * 2)))
    more |= {"dt_min": low, "dt_max": high, "dtype": dtype}
    d_model, half = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    if draw(st.booleans()):
        layer = S4(d_model, 2 * half, draw(st.sampled_from(MEASURES)), **more)
    else:
        layer = S4D(
            d_model,
            2 * half,
            draw(st.sampled_from(INITS)),
            discretization=draw(st.sampled_from(["zoh", "bilinear"])),
            **more,
        )
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(draw(st.sampled_from([0.0, 0.1])) * torch.randn_like(p))
    return layer.requires_grad_(False)


lengths = st.sampled_from([1, 2, 3, 4, 7, 16, 31, 33, 50])


def signal(layer, L, batch=2):
    return torch.randn(batch, L, layer.d_model, dtype=layer.D.dtype)


def start(layer, batch=2):
    return torch.randn_like(layer.default_state(batch))


def assert_close(x, y, scale=None, tolerance=1e-8):
    """Equal up to a share of the largest number; kernels of S4 are right to 1e-10 of theirs."""
    scale = max(y.abs().max().item(), 1e-3 if scale is None else scale)
    assert x.shape == y.shape
    assert (x - y).abs().max() <= tolerance * scale


def matrices(layer, h):
    """Channel h in the real numbers of its modes (Re x, Im x): a dense discrete system, by its
    definition from the parameters."""
    wide = {name: p.double() for name, p in layer.named_parameters()}
    frequency = wide.get("frequency")
    decay, dt = wide["log_decay"][h].exp(), wide["log_dt"][h].exp()
    pair = (
        (lambda x: torch.view_as_complex(x.contiguous()))
        if frequency is not None
        else (lambda x: x + 0j)
    )
    Lambda = -decay + 1j * (0 * decay if frequency is None else frequency[h])
    B, C = pair(wide["B"][h]), pair(wide["C"][0, h])
    P = pair(wide["P"][h]) if "P" in wide else B.new_zeros(0, len(B))
    n = len(Lambda)

    def real(x):
        return torch.cat([x.real, x.imag])

    units = torch.eye(n, dtype=torch.complex128)
    A = torch.stack(
        [real(Lambda * x - P.mT @ (2 * (P.conj() @ x).real + 0j)) for x in (*units, *(1j * units))],
        dim=1,
    )
    one = torch.eye(2 * n, dtype=torch.float64)
    if getattr(layer, "discretization", "bilinear") == "bilinear":
        left = torch.linalg.inv(one - dt / 2 * A)
        step, push = left @ (one + dt / 2 * A), dt * left @ real(B)
    else:  # the exponential of [[A, B], [0, 0]]
        both = torch.zeros(2 * n + 1, 2 * n + 1, dtype=torch.float64)
        both[: 2 * n, : 2 * n], both[: 2 * n, -1] = A * dt, real(B) * dt
        both = torch.linalg.matrix_exp(both)
        step, push = both[: 2 * n, : 2 * n], both[: 2 * n, -1]
    return step, push, 2 * torch.cat([C.real, -C.imag]), wide["D"][h]


@given(layers(), lengths)
def test_forward_is_step_is_the_dense_recurrence(layer, L):
    u, state = signal(layer, L), start(layer)
    y, last = layer(u, state, return_state=True)
    stepper, after, stepped = layer.stepper(), state, []
    for sample in u.unbind(1):
        out, after = stepper.step(sample, after)
        stepped.append(out)
    dense, ends = torch.empty_like(u), torch.empty_like(last)
    for h in range(layer.d_model):
        step, push, row, D = matrices(layer, h)
        for b in range(len(u)):
            x = torch.cat([state[b, h].real, state[b, h].imag])
            for t in range(L):
                x = step @ x + push * u[b, t, h]
                dense[b, t, h] = row @ x + D * u[b, t, h]
            ends[b, h] = torch.complex(*x.chunk(2))
    assert_close(y, dense)
    assert_close(torch.stack(stepped, 1), dense)
    assert_close(last, ends)
    assert_close(after, ends)


@given(layers(), lengths)
def test_one_step_of_the_layer(layer, L):
    u, state = signal(layer, 1), start(layer)
    for got, want in zip(layer.step(u[:, 0], state), layer.stepper().step(u[:, 0], state)):
        assert_close(got, want)
    assert torch.equal(layer.default_state(2), 0 * state)


@given(layers(st.booleans()), lengths)
def test_linear(layer, L):
    u, v = signal(layer, L), signal(layer, L)
    y, z = layer(u), layer(v)
    assert_close(layer(2 * u - 3 * v), 2 * y - 3 * z, max(y.abs().max(), z.abs().max()))
    assert torch.equal(layer(torch.zeros_like(u)), torch.zeros_like(u))
    if not layer.bidirectional:  # in the state, too
        x, w = start(layer), start(layer)
        a, b = layer(u, x, return_state=True), layer(v, w, return_state=True)
        for got, p, q in zip(layer(u + v, x + w, return_state=True), a, b):
            assert_close(got, p + q, max(p.abs().max(), q.abs().max()))


@given(layers(), lengths, st.data())
def test_causal(layer, L, data):
    """What comes later does not change an output, beyond rounding of the convolution."""
    u = signal(layer, L)
    t = data.draw(st.integers(0, L - 1))
    other = u.clone()
    other[:, t + 1 :] = signal(layer, L)[:, t + 1 :]
    y = layer(u)
    assert_close(layer(other)[:, : t + 1], y[:, : t + 1], y.abs().max().item(), 1e-12)
    assert_close(layer(u[:, : t + 1]), y[:, : t + 1], y.abs().max().item())


@given(layers(True), lengths)
def test_time_reversal(layer, L):
    """With its kernels exchanged a bidirectional layer does to the reversed signal what it did.

    The past kernel has a sample for the present, which the future kernel leaves out: C of one and
    then of the other stands for both.
    """
    u = signal(layer, L)
    past, future = layer.kernel(L)
    y = layer(u)
    mirrored = torch.stack([layer.D * u[:, t] for t in range(L)], 1).flip(1)
    for t in range(L):
        for j in range(t + 1):  # in reversed time the past is the future
            if j:
                mirrored[:, t] += future[:, j] * u.flip(1)[:, t - j]
        for j in range(L - t):
            mirrored[:, t] += past[:, j] * u.flip(1)[:, t + j]
    assert_close(mirrored, y.flip(1))
    C = layer.C.clone()
    layer.C.copy_(C.flip(0))
    swapped = layer(u.flip(1)).flip(1)  # the sample of the present has changed kernels
    layer.C.copy_(C)
    assert_close(swapped - y, (layer_present(layer, C.flip(0)) - layer_present(layer, C)) * u)


def layer_present(layer, C):
    """What the sample of the present weighs without D: the first sample of the past kernel."""
    before = layer.C.clone()
    layer.C.copy_(C)
    weight = layer.kernel(1)[0, :, 0]
    layer.C.copy_(before)
    return weight


@given(layers(), lengths, st.integers(1, 9))
def test_time_invariant(layer, L, delay):
    u = signal(layer, L)
    later = torch.cat([u.new_zeros(2, delay, layer.d_model), u], dim=1)
    y = layer(u)
    assert_close(layer(later), torch.cat([y.new_zeros(2, delay, layer.d_model), y], 1))


@given(layers(), st.lists(lengths, min_size=1, max_size=4), st.booleans())
def test_in_pieces(layer, pieces, begun):
    u = signal(layer, sum(pieces))
    state = start(layer) if begun else None
    y, last = layer(u, state, return_state=True)
    outputs = []
    for piece in u.split(pieces, dim=1):
        out, state = layer(piece, state, return_state=True)
        outputs.append(out)
    assert_close(torch.cat(outputs, 1), y)
    assert_close(state, last)


@given(layers(st.booleans()), lengths, st.permutations(range(3)))
def test_batch_rows_are_independent(layer, L, order):
    u = signal(layer, L, 3)
    y = layer(u)
    scale = y.abs().max().item()
    assert_close(layer(u[order]), y[order], scale, 1e-12)
    assert_close(layer(u[1:2]), y[1:2], scale, 1e-12)


@given(layers(st.booleans()), lengths)
def test_channels_are_independent(layer, L):
    u = signal(layer, L)
    y = layer(u)
    h = layer.d_model - 1
    u[..., :h] = 0
    assert_close(layer(u)[..., h], y[..., h], y.abs().max().item(), 1e-12)
    assert not layer(u)[..., :h].any()


@given(
    layers(st.booleans()),
    lengths,
    st.sampled_from(["expanded", "transposed", "sliced", "reversed batch", "offset"]),
)
def test_views(layer, L, how):
    """Any strides give the numbers of a contiguous copy."""
    u = signal(layer, L)
    H = layer.d_model
    view = {
        "expanded": lambda: u[:1].expand(3, L, H),
        "transposed": lambda: u.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "sliced": lambda: u.repeat_interleave(2, dim=1)[:, ::2],
        "reversed batch": lambda: u.flip(0),
        "offset": lambda: torch.cat([u.new_zeros(1), u.flatten()])[1:].view(u.shape),
    }[how]()
    y = layer(view.clone(memory_format=torch.contiguous_format))
    assert_close(layer(view), y, tolerance=1e-12)
    for p in layer.parameters():  # parameters in any strides, too
        p.data = p.data.mT.contiguous().mT if p.ndim > 1 else p.data.repeat_interleave(2)[::2]
    assert_close(layer(view), y)  # the kernel's rounding differs with the order of its sums


@given(
    layers(st.booleans(), dtype=torch.float32),
    lengths,
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
def test_dtypes(layer, L, dtype):
    u = signal(layer, L).to(dtype)
    y, exact = layer(u), layer.double()(u.double())
    assert y.dtype == dtype
    if dtype == torch.float16:
        assume(exact.abs().max() < 3e4)  # what float16 can hold
    error = {torch.float32: 1e-5, torch.float64: 1e-8, torch.bfloat16: 1e-2, torch.float16: 2e-3}
    assert_close(y.double(), exact, tolerance=error[dtype])


@given(layers(st.booleans()), lengths, lengths)
def test_a_kernel_does_not_depend_on_its_length(layer, L, longer):
    L, longer = sorted((L, longer))
    K = layer.kernel(longer)
    assert_close(layer.kernel(L), K[..., :L], K.abs().max().item())


@given(layers(st.booleans(), dtype=torch.float32), st.data())
def test_bad_shapes_are_refused(layer, data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    assume(len(shape) != 3 or 0 in shape or shape[-1] != layer.d_model)
    with pytest.raises(ValueError, match="u has shape"):
        layer(torch.zeros(shape))
    if not layer.bidirectional and (len(shape) != 2 or 0 in shape or shape[-1] != layer.d_model):
        for stepper in (layer, layer.stepper()):
            with pytest.raises(ValueError, match="u has shape"):
                stepper.step(torch.zeros(shape), layer.default_state(1))


@given(layers(dtype=torch.float32), st.data())
def test_bad_states_are_refused(layer, data):
    good = layer.default_state(2).shape
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    assume(shape != tuple(good))
    u, state = signal(layer, 5), torch.zeros(shape, dtype=torch.complex64)
    for call in (
        lambda: layer(u, state),
        lambda: layer.step(u[:, 0], state),
        lambda: layer.stepper().step(u[:, 0], state),
    ):
        with pytest.raises(ValueError, match="state has shape"):
            call()


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.floats(),
    st.just([0.01, 0.1]),
    st.integers(max_value=0),
    st.just(object()),
)


@given(
    ANYTHING,
    st.sampled_from(
        ["d_model", "d_state", "measure", "dt_min", "dt_max", "bidirectional", "dtype"]
    ),
)
def test_bad_arguments_are_named(value, name):
    good = {"d_model": 2, "d_state": 4, "measure": "legs", "dt_min": 0.01, "dt_max": 0.1}
    assume(not (name == "bidirectional" and isinstance(value, bool)))
    assume(not (name == "dtype" and value is None))
    assume(not (name.startswith("dt_m") and isinstance(value, float) and 0 < value < float("inf")))
    with pytest.raises((ValueError, TypeError), match=name):
        S4(**good | {name: value})


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from(["zoh", "bilinear"]),
    lengths,
    st.sampled_from([-3.0, -1.0, -1e-6, -1e-300, 0.0]),
    st.sampled_from([0.0, 1e-9, 1.0, 50.0]),
    st.sampled_from([1e-6, 0.1, 1.0, 2.0]),
)
def test_diagonal_systems_at_the_edges(n, outputs, method, L, decay, frequency, dt):
    """Also where Lambda is 0, nearly 0, or where a bilinear step forgets everything."""
    torch.manual_seed(n)
    Lambda = torch.full((1, n), complex(decay, frequency), dtype=torch.complex128)
    B, C = torch.randn_like(Lambda), torch.randn(outputs, 1, n, dtype=torch.complex128)
    system = Diagonal(Lambda, B, C, torch.tensor([dt], dtype=torch.float64), method)
    K, x, stepped = system.kernel(L), torch.zeros_like(B), []
    recurrence = system.discretize()
    for t in range(L):
        y, x = recurrence.step(torch.tensor([float(t == 0)], dtype=torch.float64), x)
        stepped.append(y)
    assert K.isfinite().all()
    assert_close(K, torch.stack(stepped, -1), 1e-9)
    impulse = torch.zeros(1, 1, L, dtype=torch.float64)
    impulse[..., 0] = 1
    assert_close(system.last_state(impulse)[0], x, 1e-9)
    assert_close(system.response(B[None], L)[:, 0], system_response(recurrence, B, L), 1e-9)


def system_response(recurrence, x, L):
    ys = []
    for _ in range(L):
        y, x = recurrence.step(torch.zeros(1, dtype=torch.float64), x)
        ys.append(y)
    return torch.stack(ys, -1)


@given(st.sampled_from(MEASURES), st.integers(1, 12), st.sampled_from([1e-4, 0.1, 3.0]), lengths)
def test_dplr_systems(measure, half, dt, L):
    Lambda, P, B, _ = dplr(measure, 2 * half)
    columns = torch.tensor(P.reshape(2 * half, -1)[:half].T.copy())[None]
    C = torch.randn(2, 1, half, dtype=torch.complex128, generator=torch.Generator().manual_seed(L))
    system = DPLR(
        torch.tensor(Lambda[None, :half]),
        columns,
        torch.tensor(B[None, :half]),
        C,
        torch.tensor([dt], dtype=torch.float64),
    )
    K, recurrence = system.kernel(L), system.discretize()
    _, x = recurrence.step(torch.ones(1, dtype=torch.float64), torch.zeros_like(system.B))
    first = 2 * (C * x).sum(-1).real
    rest = system_response(recurrence, x, L)[..., : L - 1]
    assert_close(K, torch.cat([first[..., None], rest], -1))


@given(st.sampled_from(INITS), st.integers(1, 64))
def test_modes_are_stable_and_in_the_upper_half(init, half):
    modes = s4d_modes(init, 2 * half)
    assert len(modes) == (2 * half if init == "real" else half)
    assert (modes.real < 0).all() and (modes.imag >= 0).all()
    modes[:] = 0  # what is returned is a new array: nobody else sees this
    assert (s4d_modes(init, 2 * half).real < 0).all()
