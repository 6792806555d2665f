"""Every way to differentiate, through everything that can be differentiated.

One case is a function of float64 tensors. Its gradient is held against finite differences, and each
other derivative against the gradient or its finite differences: reverse mode of autograd and of
``torch.func``, forward mode of both, gradients per sample, Jacobians, Hessians, batched gradients.
Where a derivative does not exist, a sentence says so.
"""

import functools

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from ssm_core.mamba import Mamba, MambaConfig, MambaLM
from ssm_core.mamba.model import LayerNorm, RMSNorm
from ssm_core.s4 import S4, S4D
from ssm_core.s4.cauchy import cauchy_sums
from ssm_core.s4.convolution import convolve
from ssm_core.s4.generating import kernel_from_sums
from ssm_core.scan import cpu, selective_scan_fn, selective_state_update
from tests.scan.cases import FEATURES, arguments, is_float

SCANS = {f"scan: {feature}": options for feature, options in FEATURES.items()}


def random(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def scan_case(options, backend="auto"):
    x = arguments(1, 4, 7, 2, **options, dtype=torch.float64)
    x["A"] = x["A"].clamp(-2, -0.05)  # what finite differences resolve
    names = [name for name, value in x.items() if is_float(value)]

    def scan(*tensors):
        given = x | dict(zip(names, tensors))
        return torch.cat(
            [
                y.flatten()
                for y in selective_scan_fn(**given, return_last_state=True, backend=backend)
            ]
        )

    return scan, [x[name] for name in names]


def layer_case(layer, *inputs, **options):
    """Outputs of a layer as a function of its parameters and, if it is of floats, its input."""
    layer = layer.double()
    names = [name for name, _ in layer.named_parameters()]
    floats = [x for x in inputs if x.is_floating_point()]

    def run(*tensors):
        inner = tensors[: len(floats)] or inputs
        out = functional_call(
            layer, dict(zip(names, tensors[len(floats) :])), tuple(inner), options
        )
        outs = out if isinstance(out, tuple) else (out,)
        return torch.cat(
            [
                (torch.view_as_real(y) if y.is_complex() else y).flatten()
                for y in outs
                if torch.is_tensor(y)
            ]
        )

    return run, [*floats, *(p.detach() for p in layer.parameters())]


def block_with_cache():
    """The short convolution and the scan from states in the middle of a sequence."""
    block = Mamba(4, d_state=2, d_conv=3, expand=1.5).double()
    cache = random(1, 6, 3, seed=1), random(1, 6, 2, seed=2)
    names = [name for name, _ in block.named_parameters()]

    def run(hidden, *tensors):
        states = tuple(x.clone() for x in cache)
        return functional_call(block, dict(zip(names, tensors)), (hidden, states))

    return run, [random(1, 5, 4), *(p.detach() for p in block.parameters())]


def cauchy_case():
    s = torch.complex(random(5, seed=4).abs(), random(5, seed=5))

    def sums(a, b, decay, turn):
        return torch.view_as_real(cauchy_sums(a, b, torch.complex(-decay.abs() - 0.1, turn), s))

    return sums, [
        random(2, 2, 3),
        random(2, 2, 3, seed=1),
        random(2, 3, seed=2),
        random(2, 3, seed=3),
    ]


def kernel_case():
    """Weights of a system with a column of P and of C that are equal, which is stable."""

    def kernel(decay, turn, P):
        slow = decay.abs() + 0.2
        weights = 2 * P.square()[:, None].expand(-1, 4, -1)  # two rows and two columns of sums
        return kernel_from_sums(weights, weights * slow[:, None], torch.complex(-slow, turn), 5, 1)

    return kernel, [random(1, 3), random(1, 3, seed=1), random(1, 3, seed=2, scale=0.3)]


def make(name):
    torch.manual_seed(0)
    if name in SCANS:
        return scan_case(SCANS[name])
    u = random(2, 6, 3)
    tokens = torch.tensor([[1, 3, 0, 2, 2]])
    return {
        "scan: reference": lambda: scan_case({}, "reference"),
        "convolution": lambda: (convolve, [u, random(1, 3, 6, seed=1), random(3, seed=2)]),
        "two-sided convolution": lambda: (
            convolve,
            [u, random(2, 3, 6, seed=1), random(3, seed=2)],
        ),
        "Cauchy sums": cauchy_case,
        "kernel": kernel_case,
        "S4": lambda: layer_case(S4(3, d_state=4), u, return_state=True),
        "S4, two columns": lambda: layer_case(S4(3, d_state=4, measure="legt"), u),
        "S4, bidirectional": lambda: layer_case(
            S4(3, d_state=4, bidirectional=True), u, return_state=False
        ),
        "S4D": lambda: layer_case(S4D(3, d_state=4), u, return_state=True),
        "S4D, bilinear": lambda: layer_case(S4D(3, d_state=4, discretization="bilinear"), u),
        "RMSNorm": lambda: layer_case(RMSNorm(3, eps=1e-5), u),
        "LayerNorm": lambda: layer_case(LayerNorm(3, eps=1e-5), u),
        "Mamba": lambda: layer_case(Mamba(4, d_state=2, expand=1.5, bias=True), random(2, 5, 4)),
        "Mamba, packed": lambda: layer_case(
            Mamba(4, d_state=2, expand=1.5),
            random(1, 5, 4),
            cu_seqlens=torch.tensor([0, 2, 2, 5], dtype=torch.int32),
        ),
        "Mamba, from a state": block_with_cache,
        "MambaLM": lambda: layer_case(MambaLM(MambaConfig(4, 2, 8, {"d_state": 2})), tokens),
    }[name]()


OTHERS = [
    "scan: reference",
    "convolution",
    "two-sided convolution",
    "Cauchy sums",
    "kernel",
    "S4",
    "S4, two columns",
    "S4, bidirectional",
    "S4D",
    "S4D, bilinear",
    "RMSNorm",
    "LayerNorm",
    "Mamba",
    "Mamba, packed",
    "Mamba, from a state",
    "MambaLM",
]
# Through an operator of the library, whose gradient autograd cannot differentiate again.
FIRST_ONLY = {
    "convolution": "torch.func",
    "Cauchy sums": "torch.func",
    "kernel": "torch.func",
    "S4": "torch.func",
    "S4D": "torch.func",
    "Mamba": "backend='reference'",
    "MambaLM": "backend='reference'",
    "scan: all arguments": "backend='reference'",
}
everywhere = pytest.mark.parametrize("name", [*SCANS, *OTHERS])


def loss_of(function, tensors):
    """A scalar that is not linear in the outputs, and directions for all tensors."""
    weights = torch.linspace(-1, 1, function(*tensors).numel(), dtype=torch.float64)

    def loss(*given):
        y = function(*given).flatten()
        return (weights * y + 0.3 * y.square()).sum()

    return loss, [random(*x.shape, seed=7 + i) for i, x in enumerate(tensors)]


def slope(function, tensors, directions, step=1e-6):
    """The derivative of a function along directions by central differences."""
    ahead, behind = ([x + sign * step * v for x, v in zip(tensors, directions)] for sign in (1, -1))
    return (function(*ahead) - function(*behind)) / (2 * step)


def gradients(loss, tensors):
    given = [x.detach().clone().requires_grad_() for x in tensors]
    return torch.autograd.grad(loss(*given), given, materialize_grads=True)


def inner(xs, ys):
    return sum((x * y).sum() for x, y in zip(xs, ys))


def close(got, want, rtol=1e-9):
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol * (1 + y.abs().max().item()))


@functools.cache
def prepared(name):
    function, tensors = make(name)
    loss, directions = loss_of(function, tensors)
    return function, tensors, loss, directions, gradients(loss, tensors)


@everywhere
def test_gradient_is_the_slope(name):
    _, tensors, loss, directions, gradient = prepared(name)
    close([inner(gradient, directions)], [slope(loss, tensors, directions)], 1e-6)
    assert all(g.abs().max() > 0 for g in gradient), "an argument that nothing depends on"


@everywhere
def test_reverse_mode_of_torch_func(name):
    _, tensors, loss, _, gradient = prepared(name)
    everything = tuple(range(len(tensors)))
    close(grad(loss, everything)(*tensors), gradient)
    value, pull = vjp(loss, *tensors)
    close(pull(torch.ones_like(value)), gradient)


@everywhere
def test_forward_mode(name):
    _, tensors, loss, directions, gradient = prepared(name)
    want = inner(gradient, directions)
    close([jvp(loss, tuple(tensors), tuple(directions))[1]], [want])
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(x, v) for x, v in zip(tensors, directions)]
        close([forward_ad.unpack_dual(loss(*dual)).tangent], [want])
    with torch.no_grad():  # forward mode does not ask whether gradients are on
        close([jvp(loss, tuple(tensors), tuple(directions))[1]], [want])


@everywhere
def test_jacobians(name):
    """All rows or columns of one argument, in reverse by vmap, forward by vmap, and batched."""
    function, tensors, *_ = prepared(name)
    rest = tensors[1:]

    def of_first(x):
        return function(x, *rest).flatten()[:6]

    want = torch.autograd.functional.jacobian(of_first, tensors[0])
    close([jacrev(of_first)(tensors[0]), jacfwd(of_first)(tensors[0])], [want, want])
    close([torch.autograd.functional.jacobian(of_first, tensors[0], vectorize=True)], [want])


@everywhere
def test_gradients_per_sample(name):
    """vmap of grad, with all arguments in the batch, with one, and with the batch as last axis."""
    if name == "Mamba, from a state":
        pytest.skip("a cache changes in place, and vmap cannot write a batch into one tensor")
    _, tensors, loss, directions, _ = prepared(name)
    everything = tuple(range(len(tensors)))
    samples = [[x + 0.01 * i * v for x, v in zip(tensors, directions)] for i in range(3)]
    stacked = [torch.stack(xs) for xs in zip(*samples)]
    want = [torch.stack(gs) for gs in zip(*(gradients(loss, sample) for sample in samples))]
    close(vmap(grad(loss, everything))(*stacked), want)

    def of_batch(*xs):
        return vmap(loss)(*xs).sum()

    close(grad(of_batch, everything)(*stacked), want)
    one = [
        torch.stack(gs)
        for gs in zip(*(gradients(loss, [sample[0], *tensors[1:]]) for sample in samples))
    ]
    dims = (0, *[None] * (len(tensors) - 1))
    close(vmap(grad(loss, everything), in_dims=dims)(stacked[0], *tensors[1:]), one)
    last = vmap(grad(loss, everything), in_dims=(-1, *dims[1:]))(
        stacked[0].movedim(0, -1), *tensors[1:]
    )
    close(last, one)


@everywhere
def test_second_derivatives_by_torch_func(name):
    """The Hessian times a vector as forward over reverse, against differences of gradients."""
    _, tensors, loss, directions, _ = prepared(name)
    everything = tuple(range(len(tensors)))
    _, got = jvp(grad(loss, everything), tuple(tensors), tuple(directions))
    ahead, behind = (
        gradients(loss, [x + h * v for x, v in zip(tensors, directions)]) for h in (1e-5, -1e-5)
    )
    close(got, [(a - b) / 2e-5 for a, b in zip(ahead, behind)], 1e-5)


@pytest.mark.parametrize("name", ["scan: all arguments", "S4", "Mamba"])
def test_hessian(name):
    _, tensors, loss, *_ = prepared(name)

    def of_first(x):
        return loss(x, *tensors[1:])

    H = hessian(of_first)(tensors[0]).reshape(tensors[0].numel(), -1)
    close([H], [H.T])
    v = random(*tensors[0].shape, seed=9)
    change = slope(lambda x: gradients(of_first, [x])[0], [tensors[0]], [v], 1e-5)
    close([(H @ v.flatten()).view_as(v)], [change], 1e-5)


@pytest.mark.parametrize("name", FIRST_ONLY)
def test_second_derivatives_that_do_not_exist_are_refused(name):
    _, tensors, loss, *_ = prepared(name)
    given = [x.detach().clone().requires_grad_() for x in tensors]
    first = torch.autograd.grad(loss(*given), given, create_graph=True)
    with pytest.raises(NotImplementedError, match=FIRST_ONLY[name]):
        sum(g.square().sum() for g in first).backward()


def test_reverse_over_reverse_of_the_scan_is_refused():
    _, tensors, loss, *_ = prepared("scan: all arguments")
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad(lambda *x: grad(loss)(*x).square().sum())(*tensors)


def test_reference_and_torch_func_have_the_second_derivatives_that_are_refused():
    _, tensors, loss, *_ = prepared("scan: reference")
    assert torch.autograd.gradgradcheck(loss, [x.clone().requires_grad_() for x in tensors])
    _, tensors, loss, *_ = prepared("S4")
    twice = grad(lambda x: grad(loss)(x, *tensors[1:]).square().sum())
    change = slope(
        lambda x: grad(loss)(x, *tensors[1:]).square().sum(),
        tensors[:1],
        [torch.ones_like(tensors[0])],
    )
    close([twice(tensors[0]).sum()], [change], 1e-6)


@pytest.mark.parametrize("name", ["scan: all arguments", "scan: packed groups"])
def test_without_numba(name, monkeypatch):
    """The recurrence in PyTorch has the same derivatives."""
    _, tensors, loss, _, gradient = prepared(name)
    monkeypatch.setattr(cpu, "compiled", None)
    everything = tuple(range(len(tensors)))
    close(grad(loss, everything)(*tensors), gradient)
    stacked = [torch.stack([x, x]) for x in tensors]
    close(vmap(grad(loss, everything))(*stacked), [torch.stack([g, g]) for g in gradient])


def test_nested_batches():
    _, tensors, loss, _, gradient = prepared("scan: two groups")
    everything = tuple(range(len(tensors)))
    nested = [x.expand(2, 3, *x.shape) for x in tensors]
    got = vmap(vmap(grad(loss, everything)))(*nested)
    close(got, [g.expand(2, 3, *g.shape) for g in gradient])


def test_vmap_alone():
    function, tensors, *_ = prepared("scan: constant C")
    stacked = [torch.stack([x, 1.1 * x]) for x in tensors]
    want = torch.stack([function(*[x[i] for x in stacked]) for i in range(2)])
    close([vmap(function)(*stacked)], [want])


def test_boundaries_cannot_differ_within_a_batch():
    x = arguments(1, 2, 6, 2, packed=True, without=("initial_state",), dtype=torch.float64)
    cuts = torch.tensor([[0, 3, 6], [0, 2, 6]], dtype=torch.int32)
    with pytest.raises((ValueError, RuntimeError)):
        vmap(lambda c: selective_scan_fn(**x | {"cu_seqlens": c}))(cuts)


def step_arguments():
    x = arguments(2, 3, 1, 2, dtype=torch.float64)
    return x["initial_state"], [
        x[name][..., 0] if name in ("u", "delta", "B", "C") else x[name]
        for name in ("u", "delta", "A", "B", "C", "D")
    ]


def test_a_step_refuses_every_derivative():
    state, step = step_arguments()
    sentence = "selective_state_update has no derivatives; selective_scan_fn"

    def y(x):
        return selective_state_update(state.clone(), x, *step[1:]).sum()

    x = step[0].clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=sentence):
        y(x).backward()
    for derivative in (
        lambda: grad(y)(step[0]),
        lambda: jvp(y, (step[0],), (step[0],)),
        lambda: vmap(grad(lambda row: y(row.expand(2, -1))))(step[0]),
    ):
        with pytest.raises(NotImplementedError, match=sentence):
            derivative()
    with (
        forward_ad.dual_level(),
        torch.no_grad(),
        pytest.raises(NotImplementedError, match=sentence),
    ):
        y(forward_ad.make_dual(step[0], step[0]))


def test_a_batch_of_steps():
    state, step = step_arguments()
    states = torch.stack([state, 2 * state])
    want = [s.clone() for s in states]
    ys = [selective_state_update(s, *step) for s in want]
    got = states.clone()
    close(vmap(lambda s: selective_state_update(s, *step))(got), ys)
    close(got, want)


def test_gradients_of_negated_views():
    """``z.conj().imag`` leaves its sign to be applied; nothing may read the memory as it stands."""
    x = arguments(1, 2, 6, 2, dtype=torch.float64)
    z = torch.complex(x["u"], x["u"]).conj()
    assert z.imag.is_neg()
    a = selective_scan_fn(**x | {"u": z.imag})
    assert torch.equal(a, selective_scan_fn(**x | {"u": -x["u"]}))
    u, K, D = random(2, 6, 3), random(1, 3, 6, seed=1), random(3, seed=2)
    z = torch.complex(u, u).conj()
    assert torch.equal(convolve(z.imag, K, D), convolve(-u, K, D))


@pytest.mark.parametrize("fast", [True, False])
def test_kernels_without_gradients_step_aside_for_transforms(monkeypatch, fast):
    """On a GPU the block takes kernels that have no derivatives, unless something asks for one."""
    from ssm_core.mamba import _operators

    class OnGpu:
        is_cuda, dtype = True, torch.float32

    monkeypatch.setattr(_operators, "has_triton", lambda: fast)
    with torch.no_grad():
        assert _operators.fuses(OnGpu) == fast
        seen = []
        vmap(lambda x: seen.append(_operators.fuses(OnGpu)) or x)(torch.ones(2))
        jvp(lambda x: seen.append(_operators.fuses(OnGpu)) or x, (torch.ones(2),), (torch.ones(2),))
        with forward_ad.dual_level():
            seen.append(_operators.fuses(OnGpu))
        assert not any(seen)
    assert not _operators.fuses(OnGpu)


# --- in compiled programs ---------------------------------------------------------------------------

TRANSFORMS = {
    "grad": lambda f, x, v: grad(f)(x),
    "gradients per sample": lambda f, x, v: vmap(grad(f))(torch.stack([x, 2 * x])),
    "vmap": lambda f, x, v: vmap(f)(torch.stack([x, 2 * x])),
    "jvp": lambda f, x, v: jvp(f, (x,), (v,))[1],
    "Hessian times a vector": lambda f, x, v: jvp(grad(f), (x,), (v,))[1],
}


@pytest.fixture
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_forget_compiled_code")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["scan: all arguments", "two-sided convolution"])
def test_compiled_transforms(name, transform):
    _, tensors, loss, directions, _ = prepared(name)

    def run(x, v):
        return TRANSFORMS[transform](lambda y: loss(y, *tensors[1:]), x, v)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    close([compiled(tensors[0], directions[0])], [run(tensors[0], directions[0])])


@pytest.mark.usefixtures("_forget_compiled_code")
def test_transforms_of_compiled_functions():
    """What was compiled outside of a transform is not used within one."""
    _, tensors, loss, directions, gradient = prepared("scan: all arguments")
    compiled = torch.compile(loss, backend="aot_eager")
    want = loss(*tensors)
    close([compiled(*tensors)], [want])
    close(grad(compiled, tuple(range(len(tensors))))(*tensors), gradient)
    slope_along = inner(gradient, directions)
    close([jvp(compiled, tuple(tensors), tuple(directions))[1]], [slope_along])
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(x, v) for x, v in zip(tensors, directions)]
        close([forward_ad.unpack_dual(compiled(*dual)).tangent], [slope_along])
    close([compiled(*tensors)], [want])


def test_functionalized():
    _, tensors, loss, *_ = prepared("scan: all arguments")
    close([torch.func.functionalize(loss)(*tensors)], [loss(*tensors)])
