"""S4, S4D and a network of them in other people's programs: each tool gets the right numbers."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import multiprocessing, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from ssm_core.s4 import S4, S4D, SequenceModel

LAYERS = {
    "S4": lambda: S4(4, 8),
    "S4D": lambda: S4D(4, 8),
    "real": lambda: S4D(4, 3, "real"),
    "bidirectional": lambda: S4(4, 8, "legt", bidirectional=True),
}


def network(ssm=LAYERS["S4"], **more):
    return SequenceModel(4, 4, d_model=4, n_layers=2, ssm=lambda d: ssm(), **more)


MODULES = {**LAYERS, "network of S4": network, "network of S4D": lambda: network(LAYERS["S4D"])}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
every_network = pytest.mark.parametrize("ssm", [LAYERS["S4"], LAYERS["S4D"]], ids=["S4", "S4D"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def assert_equal(got, want, tolerance=0.0):
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=tolerance, atol=tolerance, msg=name)


@every_network
def test_compile(ssm):
    module, u = network(ssm), torch.randn(2, 12, 4)
    want, y = gradients(module, module(u).square().sum()), module(u)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(u), y)
    assert_equal(gradients(module, compiled(u).square().sum()), want, 1e-4)


@every_module
def test_export(make):
    module, u = make(), torch.randn(2, 12, 4)
    exported = torch.export.export(module, (u,), strict=isinstance(module, SequenceModel))
    torch.testing.assert_close(exported.module()(u), module(u))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.export.load(buffer).module()(u), module(u))


@every_module
def test_copies(make):
    module, u = make(), torch.randn(2, 12, 4)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for same in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(same(u), module(u)) and repr(same) == repr(module)
        next(same.parameters()).data.add_(1)  # and they share nothing
        assert not torch.equal(same(u), module(u))


@every_module
def test_state_dict(make):
    module, other, u = make(), make(), torch.randn(2, 12, 4)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert list(state) == [name for name, _ in module.named_parameters()]
    for assign in (False, True):
        again = copy.deepcopy(other)
        again.load_state_dict(state, assign=assign)
        assert torch.equal(again(u), module(u))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: p for name, p in state.items() if not name.endswith("C")})


@every_module
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(make, reentrant):
    module, u = make(), torch.randn(2, 12, 4, requires_grad=True)
    want = gradients(module, module(u).square().sum())
    du, u.grad = u.grad, None
    loss = checkpoint(module, u, use_reentrant=reentrant).square().sum()
    assert_equal(gradients(module, loss), want)
    assert torch.equal(u.grad, du)


@every_network
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_blocks(ssm, reentrant):
    blocks, u = network(ssm).blocks, torch.randn(2, 12, 4, requires_grad=True)
    blocks = nn.Sequential(*blocks)
    want = gradients(blocks, blocks(u).square().sum())
    loss = checkpoint_sequential(blocks, 2, u, use_reentrant=reentrant).square().sum()
    assert_equal(gradients(blocks, loss), want)


@every_module
def test_average_of_parameters(make):
    module, u = make(), torch.randn(2, 12, 4)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1)
    average.update_parameters(module)
    shifted = copy.deepcopy(module)
    with torch.no_grad():
        for p in shifted.parameters():
            p.sub_(0.09)
    torch.testing.assert_close(average(u), shifted(u), rtol=1e-4, atol=1e-4)


@every_module
def test_functional_call(make):
    module, other, u = make(), make(), torch.randn(2, 12, 4)
    assert torch.equal(
        torch.func.functional_call(module, dict(other.named_parameters()), (u,)), other(u)
    )


@every_network
def test_lora(ssm):
    """Adapters on the linear layers act in forward, in step and in a stepper, and merge."""
    peft = pytest.importorskip("peft")
    model, u = network(ssm).eval(), torch.randn(2, 6, 4)
    plain = model(u)
    adapted = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=["encoder", "mix.2", "decoder"])
    )
    torch.testing.assert_close(adapted(u), plain)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_()
    y = adapted(u)
    assert not torch.allclose(y, plain, rtol=0.1)
    inner = adapted.get_base_model()
    for stepper in (inner, inner.stepper()):
        states = stepper.default_state(2)
        for t in range(6):
            z, states = stepper.step(u[:, t], states)
            torch.testing.assert_close(z, y[:, t], rtol=1e-4, atol=1e-4)
    y.sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained and all("lora" in name for name in trained)
    torch.testing.assert_close(adapted.merge_and_unload()(u), y, rtol=1e-4, atol=1e-4)


@every_module
def test_offload(make):
    accelerate = pytest.importorskip("accelerate")
    module, u = make().eval(), torch.randn(2, 12, 4)
    want = module(u)
    offloaded = accelerate.cpu_offload(copy.deepcopy(module), execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in offloaded.parameters())
    torch.testing.assert_close(offloaded(u), want)


@every_network
def test_quantized_linear_layers(ssm):
    model, u = network(ssm).eval(), torch.randn(2, 12, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is on its way out
        quantized = torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8
        )
    assert not isinstance(quantized.encoder, nn.Linear)
    with torch.no_grad():
        y = quantized(u)
        assert 0 < (y - model(u)).abs().max() < 0.1 * model(u).abs().max()
        states = quantized.default_state(2)
        for t in range(12):
            z, states = quantized.step(u[:, t], states)
        torch.testing.assert_close(z, y[:, -1], rtol=5e-2, atol=5e-2)


@every_network
def test_hooks_and_replaced_modules_count(ssm):
    """Every part of a network is called as a module, in forward and in step."""
    model, u, calls = network(ssm), torch.randn(2, 3, 4), []
    for name, module in model.named_modules():
        if not isinstance(module, (SequenceModel, nn.ModuleList)):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(u)
    names = [
        name
        for name, m in model.named_modules()
        if not isinstance(m, (SequenceModel, nn.ModuleList))
    ]
    assert sorted(calls) == sorted(names)
    calls.clear()
    model.step(u[:, 0], model.default_state(2))
    assert {"encoder", "blocks.0.norm", "blocks.1.mix.2", "norm", "decoder"} <= set(calls)


# --- several processes ----------------------------------------------------------------------------


def test_two_processes(tmp_path):
    """DDP and FSDP2, in float32 and with bfloat16 parameters, on a CPU."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_rank, args=(rank, str(tmp_path / "store"))) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(400)  # a loaded machine is slow, and a failure ends both
        if worker.is_alive():
            worker.terminate()
    assert [worker.exitcode for worker in workers] == [0, 0]


def _rank(rank, store):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    for ssm in (LAYERS["S4"], LAYERS["S4D"]):
        torch.manual_seed(0)
        model = network(ssm)
        _check_data_parallel(copy.deepcopy(model), rank)
        _check_sharded(copy.deepcopy(model), rank)
    torch.distributed.destroy_process_group()


def _mean_gradients(model, u):
    """What both ranks together should find: the gradients of the mean loss over both halves."""
    return gradients(model, sum(model(half).float().square().mean() for half in u.chunk(2)) / 2)


def _check_data_parallel(model, rank):
    u = torch.randn(4, 12, 4)
    want = _mean_gradients(model, u)
    parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    loss = parallel(u.chunk(2)[rank]).square().mean()
    assert_equal(gradients(parallel.module, loss), want, 1e-5)

    model = model.bfloat16()
    u = u.bfloat16()
    want = _mean_gradients(model, u)
    parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    loss = parallel(u.chunk(2)[rank]).float().square().mean()
    assert_equal(gradients(parallel.module, loss), want, 5e-2)


def _check_sharded(model, rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (2,))
    u = torch.randn(4, 12, 4)
    for policy, tolerance in (
        (MixedPrecisionPolicy(), 1e-5),
        (MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32), 0.1),
    ):
        dtype = policy.param_dtype or torch.float32
        rounded = copy.deepcopy(model).to(dtype)
        want = _mean_gradients(rounded, u.to(dtype))
        sharded = copy.deepcopy(model)
        for block in sharded.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(sharded, mesh=mesh, mp_policy=policy)
        y = sharded(u.chunk(2)[rank])
        assert y.dtype == dtype
        with torch.no_grad():
            close = rounded(u.chunk(2)[rank].to(dtype))
        torch.testing.assert_close(y, close, rtol=0, atol=0)
        sharded.zero_grad()
        y.float().square().mean().backward()
        for name, p in sharded.named_parameters():
            got, right = p.grad.full_tensor(), want[name].float()
            error = (got - right).norm() / right.norm().clamp_min(1e-3)
            assert error < tolerance, (name, error)
