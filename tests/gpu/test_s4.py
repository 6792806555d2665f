"""S4 on a GPU, with its Triton kernels, against the CPU in float64: ``pytest tests/gpu``."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from ssm_core.optim import parameter_groups
from ssm_core.s4 import S4, S4D, SequenceModel
from ssm_core.s4.cauchy import cauchy_sums
from ssm_core.s4.convolution import convolve


def arguments(H, K, n, F, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    poles = torch.complex(-random(H, n).abs() - 0.1, 3 * random(H, n))
    s = torch.complex(random(F).abs(), 3 * random(F))
    dout = torch.complex(random(H, K, F), random(H, K, F))
    return random(H, K, n), random(H, K, n), poles, s, dout


def sums_and_gradients(a, b, poles, s, dout):
    inputs = [x.detach().requires_grad_() for x in (a, b, poles)]
    out = cauchy_sums(*inputs, s)
    return out.detach(), *torch.autograd.grad(out, inputs, dout)


@pytest.mark.parametrize(
    "H, K, n, F",
    [
        (1, 1, 1, 1),
        (2, 4, 32, 785),
        (3, 9, 33, 1001),
        (2, 12, 5, 130),
        (70, 4, 32, 2049),
        (1, 6, 128, 20_001),
    ],
)
def test_cauchy_sums(H, K, n, F):
    given = arguments(H, K, n, F)
    want = sums_and_gradients(*given)
    got = sums_and_gradients(*(x.cuda() for x in given))
    for x, y in zip(got, want):
        assert (x.cpu() - y).norm() < 1e-12 * y.norm()


def test_cauchy_sums_same_bits_every_time():
    given = [x.cuda() for x in arguments(8, 4, 32, 4097)]
    first, second = sums_and_gradients(*given), sums_and_gradients(*given)
    assert all(torch.equal(x, y) for x, y in zip(first, second))


def test_memory_of_the_sums_does_not_grow_with_modes_times_points():
    a, b, poles, s, dout = (x.cuda() for x in arguments(8, 4, 128, 2**15))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sums_and_gradients(a, b, poles, s, dout)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 2 * dout.nbytes < 8 * 128 * 2**15 * 16 / 4


def convolution_and_gradients(u, K, D, dy):
    inputs = [x.detach().requires_grad_() for x in (u, K, D)]
    y = convolve(*inputs)
    return y.detach(), *torch.autograd.grad(y, inputs, dy)


def signals(B, L, H, outputs, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (B, L, H), (outputs, H, L), (H,), (B, L, H)
    return [torch.randn(*shape, dtype=dtype, generator=generator) for shape in shapes]


@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "B, L, H", [(1, 1, 1), (2, 63, 5), (3, 785, 130), (128, 784, 8), (1, 20_001, 3), (5, 1009, 64)]
)
def test_convolution(B, L, H, outputs, dtype, error):
    given = signals(B, L, H, outputs, dtype)
    want = convolution_and_gradients(*(x.double() for x in given))
    got = convolution_and_gradients(*(x.cuda() for x in given))
    for x, y in zip(got, want):
        assert x.dtype == dtype and (x.cpu() - y).norm() < error * y.norm()


def test_convolution_in_any_strides():
    u, K, D, dy = (x.cuda() for x in signals(4, 100, 32, 1))
    want = convolution_and_gradients(u, K, D, dy)
    got = convolution_and_gradients(
        u.mT.contiguous().mT, K, D, dy.transpose(0, 1).contiguous().transpose(0, 1)
    )
    assert all(torch.equal(x, y) for x, y in zip(got, want))
    same = convolution_and_gradients(u, K, D, dy[:, :1].expand_as(dy))
    want = convolution_and_gradients(u, K, D, dy[:, :1].expand_as(dy).contiguous())
    assert all(torch.equal(x, y) for x, y in zip(same, want))


def test_convolution_same_bits_every_time():
    given = [x.cuda() for x in signals(64, 784, 16, 1)]
    first, second = convolution_and_gradients(*given), convolution_and_gradients(*given)
    assert all(torch.equal(x, y) for x, y in zip(first, second))


def test_memory_of_the_convolution():
    """Forward: the spectrum, its product with the kernel's, and the transform of that; then y."""
    u, K, D, dy = (x.cuda() for x in signals(64, 1024, 128, 1))
    u.requires_grad_()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = convolve(u, K, D)
    assert torch.cuda.memory_allocated() - before < 3.1 * u.nbytes  # y and the spectrum
    torch.autograd.grad(y, u, dy)
    assert torch.cuda.max_memory_allocated() - before < 9.5 * u.nbytes


@pytest.mark.parametrize("measure", ["legs", "legt", "fout"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_s4_kernel_and_gradient(measure, bidirectional):
    torch.manual_seed(0)
    layer = S4(4, 64, measure, bidirectional=bidirectional)
    results = []
    for device in ("cpu", "cuda"):
        layer = layer.double().to(device)
        K = layer.kernel(1000)
        gradients = torch.autograd.grad(K.square().sum(), [layer.P, layer.frequency, layer.log_dt])
        results.append([x.cpu() for x in (K, *gradients)])
    for x, y in zip(*results):
        assert (x - y).norm() < 1e-8 * y.norm()


@pytest.mark.parametrize("make", [S4, lambda d: S4(d, measure="legt"), S4D])
def test_convolution_and_recurrence(make):
    torch.manual_seed(0)
    layer, u = make(8).cuda(), torch.randn(2, 1024, 8, device="cuda")
    y, last = layer(u, return_state=True)
    stepper, state, steps = layer.stepper(), layer.default_state(2), []
    for sample in u.unbind(1):
        out, state = stepper.step(sample, state)
        steps.append(out)
    scale = y.abs().max()
    assert (torch.stack(steps, 1) - y).abs().max() < 1e-5 * scale
    assert (state - last).abs().max() < 1e-5 * last.abs().max()


@pytest.mark.parametrize("ssm", [lambda d: S4(d, 16), lambda d: S4D(d, 16)])
def test_training_steps_with_autocast(ssm):
    torch.manual_seed(0)
    model = SequenceModel(1, 1, d_model=16, n_layers=2, ssm=ssm).cuda()
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=0.01))
    u = torch.randn(64, 100, 1, device="cuda")
    target, losses = u.roll(5, dims=1), []  # five samples late
    for _ in range(60):
        with torch.autocast("cuda", torch.bfloat16):
            y = model(u)
        loss = (y.float() - target)[:, 5:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def model_loss(model, u):
    return model(u).float().square().mean()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "ssm",
    [lambda d: S4(d, 16), lambda d: S4D(d, 16), lambda d: S4(d, 16, "legt", bidirectional=True)],
    ids=["S4", "S4D", "bidirectional"],
)
def test_compiles(ssm, autocast):
    torch.manual_seed(0)
    model = SequenceModel(1, 1, d_model=32, n_layers=2, ssm=ssm).cuda()
    u, results = torch.randn(8, 100, 1, device="cuda"), []
    torch._dynamo.reset()
    for forward in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            model_loss(forward, u).backward()
        results.append(gradients(model))
    want, got = results
    for name in want:
        difference = (got[name] - want[name]).norm() / want[name].norm().clamp_min(1e-6)
        assert difference < (5e-2 if autocast else 1e-3), name


@pytest.mark.parametrize("ssm", [lambda d: S4(d, 16), lambda d: S4D(d, 16)], ids=["S4", "S4D"])
def test_a_graph_of_a_training_step(ssm):
    torch.manual_seed(0)
    model = SequenceModel(1, 1, d_model=32, n_layers=2, ssm=ssm).cuda()
    u = torch.randn(8, 100, 1, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            model_loss(model, u).backward()
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model_loss(model, u).backward()
    u.copy_(torch.randn_like(u))  # other numbers at the same place
    graph.replay()
    got = gradients(model)
    model.zero_grad(set_to_none=True)
    model_loss(model, u).backward()
    for name, want in gradients(model).items():
        torch.testing.assert_close(got[name], want, rtol=1e-5, atol=1e-7, msg=name)


def test_a_second_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    given = arguments(2, 4, 5, 300)
    first, second = (sums_and_gradients(*(x.to(d) for x in given)) for d in ("cuda:0", "cuda:1"))
    assert all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(first, second))
