"""Networks on a GPU against the CPU in float64: ragged batches, both directions, uneven times."""

import copy

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from ssm_core.mamba import Mamba, Mamba2
from ssm_core.network import SequenceModel
from ssm_core.s4 import S4, S4D

LAYERS = [(S4, {}), (S4D, {}), (Mamba, {}), (Mamba2, {"d_state": 16, "headdim": 8, "ngroups": 2})]
LENGTHS = [50, 1, 200, 130]
BOUNDS = [0, 50, 51, 251, 381]


@pytest.mark.parametrize("ssm, ssm_cfg", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_ragged_batches(ssm, ssm_cfg, bidirectional):
    torch.manual_seed(0)
    options = {"d_model": 16, "n_layers": 2, "ssm": ssm, "ssm_cfg": ssm_cfg}
    exact = SequenceModel(3, 5, **options, bidirectional=bidirectional, pool=True).double()
    model = copy.deepcopy(exact).float().cuda()
    u, dt = torch.randn(4, 200, 3, dtype=torch.float64), 2 * torch.rand(4, 200, dtype=torch.float64)
    dt = dt if ssm is S4D else None
    row = torch.cat([u[i, :n] for i, n in enumerate(LENGTHS)])[None]
    steps = None if dt is None else torch.cat([dt[i, :n] for i, n in enumerate(LENGTHS)])[None]
    want = exact(u, lengths=LENGTHS, dt=dt)
    for got in (
        model(on_gpu(u), lengths=torch.tensor(LENGTHS).cuda(), dt=on_gpu(dt)),
        model(
            on_gpu(row), cu_seqlens=torch.tensor(BOUNDS, dtype=torch.int32).cuda(), dt=on_gpu(steps)
        ),
    ):
        torch.testing.assert_close(got.double().cpu(), want, rtol=1e-3, atol=1e-4)
        gradients = torch.autograd.grad(got.square().sum(), list(model.parameters()))
        right = torch.autograd.grad(
            want.square().sum(), list(exact.parameters()), retain_graph=True
        )
        for x, y in zip(gradients, right):
            assert (x.double().cpu() - y).norm() < 1e-2 * y.norm() + 1e-5


def on_gpu(x):
    return None if x is None else x.float().cuda()


@pytest.mark.parametrize("ssm, ssm_cfg", LAYERS)
def test_steps(ssm, ssm_cfg):
    torch.manual_seed(0)
    options = {"d_model": 16, "n_layers": 2, "ssm": ssm, "ssm_cfg": ssm_cfg}
    model = SequenceModel(6, 6, **options, tokens=True).cuda().eval()
    tokens = torch.randint(6, (2, 20), device="cuda")
    with torch.no_grad():
        want, stepper = model(tokens), model.stepper()
        states = stepper.default_state(2)
        for t in range(20):
            y, states = stepper.step(tokens[:, t], states)
            torch.testing.assert_close(y, want[:, t], rtol=1e-3, atol=1e-3)
