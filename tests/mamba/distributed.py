"""What ``test_distributed.py`` runs in two processes on CPUs: data parallel and sharded training.

Each check builds a model with the same seed everywhere, trains it on this process's half of a batch,
and compares with training one copy on the whole batch.
"""

import copy
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ssm_core.mamba import Mamba, MambaConfig, MambaLM

V = 29


MAMBA2 = {"layer": "Mamba2", "d_state": 4, "headdim": 8, "ngroups": 2}


def make(ssm_cfg=None):
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(32, 2, V, ssm_cfg or {"d_state": 4}))
    with torch.no_grad():
        model.backbone.embedding.weight.normal_()
        for layer in model.backbone.layers:  # logits that depend on what the states hold
            block = layer.mixer
            (block.x_proj if isinstance(block, Mamba) else block.in_proj).weight.mul_(5)
            block.out_proj.weight.mul_(5)
    return model


def texts():
    return torch.randint(V, (4, 12), generator=torch.manual_seed(1))


def loss_of(model, ids):
    logits = model(ids[:, :-1]).float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def train(model, ids, lr=0.1, steps=3):
    """Losses of a few steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def whole(model):
    """The parameters of a model, gathered from all processes."""
    return {
        name.removeprefix("module."): (p.full_tensor() if hasattr(p, "full_tensor") else p)
        .detach()
        .clone()
        for name, p in model.named_parameters()
    }


def sharded_over_plain_gradient():
    """The gradient of a sharded layer over that of a plain one: 1, but PyTorch 2.7 adds up the
    gradients of all processes where there is no GPU, and does not divide by their number."""
    layer = nn.Linear(1, 1)
    fully_shard(layer)
    layer(torch.ones(1, 1)).sum().backward()
    return float(layer.bias.grad.full_tensor())


def check(model, tolerance, rank, factor=1.0, ssm_cfg=None):
    """Train a wrapped model, whose gradients come with a factor, and a plain one; compare them."""
    plain, ids = make(ssm_cfg), texts()
    start = {name: p.detach().clone() for name, p in plain.named_parameters()}
    want = train(plain, ids)
    losses = train(model, ids.chunk(2)[rank], 0.1 / factor)
    dist.all_reduce(losses)
    torch.testing.assert_close(losses / 2, want, rtol=tolerance, atol=tolerance)
    got = whole(model)
    assert got.keys() == start.keys()
    for name, parameter in plain.named_parameters():
        change, expected = got[name] - start[name], parameter.detach() - start[name]
        assert got[name].dtype == torch.float32
        assert (change - expected).norm() < 10 * tolerance * expected.norm() + 1e-7, name


def data_parallel(rank):
    check(DistributedDataParallel(make()), 1e-5, rank)


def sharded(rank):
    """Each layer is a unit, as is usual."""
    model = make()
    for layer in model.backbone.layers:
        fully_shard(layer)
    fully_shard(model)
    check(model, 1e-5, rank, sharded_over_plain_gradient())


def sharded_in_bfloat16(rank):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = make()
    for layer in model.backbone.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    check(model, 3e-2, rank, sharded_over_plain_gradient())


def sharded_projections(rank):
    """Every projection is a unit of its own, so its weight is there only while it is called."""
    model = make()
    for module in [*model.modules()]:
        if isinstance(module, Mamba):
            for name in ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"):
                fully_shard(module.get_submodule(name))
    fully_shard(model)
    check(model, 1e-5, rank, sharded_over_plain_gradient())


def sharded_mamba2(rank):
    """Every submodule of the blocks is a unit of its own, and so is each block."""
    model = make(MAMBA2)
    for layer in model.backbone.layers:
        for name in ("in_proj", "conv1d", "norm", "out_proj"):
            fully_shard(layer.mixer.get_submodule(name))
        fully_shard(layer)
    fully_shard(model)
    check(model, 1e-5, rank, sharded_over_plain_gradient(), MAMBA2)


def steps_of_a_sharded_block(rank):
    """Forward, step and pieces agree: FSDP casts arguments into copies, but the states move on."""
    torch.manual_seed(0)
    block, hidden = Mamba(32, 4), torch.randn(2, 6, 32)
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for name, policy, tolerance in (
        ("in_proj", None, 1e-5),
        ("x_proj", None, 1e-5),
        ("dt_proj", None, 1e-5),
        ("out_proj", None, 1e-5),
        ("", None, 1e-5),
        ("", low, 2e-2),
    ):
        part = copy.deepcopy(block)
        fully_shard(part.get_submodule(name), mp_policy=policy or MixedPrecisionPolicy())
        cache, other = part.allocate_inference_cache(2, 0), part.allocate_inference_cache(2, 0)
        with torch.no_grad():
            want = block(hidden)
            steps = torch.cat([part.step(x, *cache)[0] for x in hidden.split(1, dim=1)], dim=1)
            pieces = torch.cat([part(x, other) for x in hidden.split([4, 2], dim=1)], dim=1)
            for out in (part(hidden), steps, pieces):
                assert (out.float() - want).norm() < tolerance * want.norm(), (name, policy)


def generation_of_a_sharded_model(rank, ssm_cfg=None):
    ids = texts()
    with torch.no_grad():
        want, expected = make(ssm_cfg)(ids), make(ssm_cfg).generate(ids, 6)
    for policy, tolerance in (
        (MixedPrecisionPolicy(), 1e-5),
        (MixedPrecisionPolicy(param_dtype=torch.bfloat16), 5e-2),
    ):
        model = make(ssm_cfg)
        for layer in model.backbone.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        cache = model.allocate_inference_cache(4, 0)
        with torch.no_grad():
            got = torch.cat([model(x, cache) for x in ids.split([7, 1, 4], dim=1)], dim=1)
        assert (got.float() - want).norm() < tolerance * want.norm()
        if tolerance == 1e-5:
            assert torch.equal(model.generate(ids, 6), expected)


def generation_of_a_sharded_mamba2(rank):
    generation_of_a_sharded_model(rank, MAMBA2)


CHECKS = [
    data_parallel,
    sharded,
    sharded_in_bfloat16,
    sharded_projections,
    sharded_mamba2,
    steps_of_a_sharded_block,
    generation_of_a_sharded_model,
    generation_of_a_sharded_mamba2,
]


def run(rank, port):
    """One process: all checks, one after the other. A failure ends both."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    init_device_mesh("cpu", (2,))
    for function in CHECKS:
        function(rank)
        dist.barrier()
        if rank == 0:
            print("passed", function.__name__, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, (int(sys.argv[1]),), nprocs=2)
