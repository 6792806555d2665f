"""No result is shared with a later call, and no module keeps what a change could make stale."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from ssm_core import convolution, discretize, hippo, lti
from ssm_core.mamba import Mamba, MambaConfig, MambaLM
from ssm_core.s4 import S4, S4D, SequenceModel, dplr, s4d_modes
from ssm_core.scan import selective_scan_fn

A, B, C, D = (
    np.array([[-1.0, 0.5], [0.0, -2.0]]),
    np.eye(2)[:, :1],
    np.ones((1, 2)),
    np.zeros((1, 1)),
)
SYSTEM = lti.ContinuousSSM(A, B, C, D)
SAMPLED = SYSTEM.discretize(0.1, "zoh")
t = np.linspace(0, 1, 9)
u = np.sin(5 * t)

FUNCTIONS = {
    "transition": lambda: hippo.transition("legs", 6),
    "basis": lambda: hippo.basis("legt", 6, t),
    "project": lambda: hippo.project(u, "legt", 6, 0.1),
    "project legs": lambda: hippo.project(u, "legs", 6, 0.1),
    "reconstruct": lambda: hippo.reconstruct(np.ones(6), "legs", t),
    "dplr": lambda: dplr("legt", 6),
    **{
        f"s4d_modes {init}": lambda init=init: s4d_modes(init, 6)
        for init in ("lin", "inv", "legs", "real")
    },
    **{
        f"discretize {method}": lambda method=method: discretize.discretize(A, B, C, D, 0.1, method)
        for method in ("euler", "bilinear", "zoh", "foh", "dirac")
    },
    "kernel": lambda: SAMPLED.kernel(9),
    "recurrence": lambda: SAMPLED.recurrence(u),
    "convolve": lambda: SAMPLED.convolve(u),
    "simulate": lambda: SYSTEM.simulate(u, t),
    "poles": lambda: SYSTEM.poles,
    "frequency_response": lambda: SYSTEM.frequency_response(t),
    "causal_convolution": lambda: convolution.causal_convolution(u, np.ones(9)),
    "step": lambda: SAMPLED.step(np.ones(1), np.ones(2)),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_caller_may_overwrite_results(function):
    """A result that is shared with a cache or a system is read-only, any other is a new array."""
    first = arrays(function())
    want = [x.copy() for x in first]
    for x in first:
        if x.flags.writeable:
            x[...] = 7
    for x, right in zip(arrays(function()), want):
        np.testing.assert_array_equal(x, right)


def arrays(result):
    return [np.asarray(x) for x in (result if isinstance(result, tuple) else (result,))]


def test_arguments_are_left_alone():
    given = [x.copy() for x in (A, B, C, D, u)]
    SYSTEM.discretize(0.1, "foh").recurrence(u)
    hippo.project(u, "legt", 6, 0.1)
    discretize.discretize(A, B, C, D, 0.1, "zoh")
    for x, before in zip((A, B, C, D, u), given):
        np.testing.assert_array_equal(x, before)


MODULES = {
    "S4": lambda: S4(4, 8),
    "S4D": lambda: S4D(4, 8),
    "network": lambda: SequenceModel(4, 4, d_model=4, n_layers=2),
    "Mamba": lambda: Mamba(4, 2),
    "MambaLM": lambda: MambaLM(MambaConfig(4, 2, 8, {"d_state": 2})),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_modules_keep_nothing(make):
    """What a module is made of is the same after it has run in every way that it has."""
    torch.manual_seed(0)
    module = make()
    before = contents(module)
    run(module, torch.randn(2, 6, 4))
    with torch.no_grad():
        run(module, torch.randn(2, 5, 4))
    module.zero_grad()
    assert contents(module) == before


def run(module, u):
    if isinstance(module, MambaLM):
        tokens = torch.arange(u.shape[1])[None]
        y = module(tokens)
        module.generate(tokens, 2)
    else:
        y = module(u)
    if isinstance(module, (S4, S4D, SequenceModel)):
        module.step(u[:, 0], module.default_state(2))
        module.stepper()
    if isinstance(module, Mamba):
        module.step(u[:, :1], *module.allocate_inference_cache(2, 6))
    if torch.is_grad_enabled():
        y.float().sum().backward()


def contents(module):
    """The names of everything that each part holds, and all of it in bytes."""
    return [sorted(vars(part)) for part in module.modules()], len(pickle.dumps(module))


def test_the_scan_leaves_its_arguments_alone():
    torch.manual_seed(0)
    given = [
        torch.randn(2, 4, 6),
        torch.randn(2, 4, 6),
        -torch.rand(4, 2),
        torch.randn(2, 2, 6),
        torch.randn(2, 2, 6),
    ]
    copies = [x.clone() for x in given]
    state = torch.randn(2, 4, 2)
    first = selective_scan_fn(*given, delta_softplus=True, initial_state=state.clone())
    want = first.clone()
    first.fill_(7)  # what comes out is the caller's own
    again = selective_scan_fn(*given, delta_softplus=True, initial_state=state.clone())
    assert torch.equal(again, want)
    assert all(torch.equal(x, y) for x, y in zip(given, copies))


STALE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
import ssm_core
ssm_core.__path__.append(str(folder))
from ssm_core import outer
print(outer.twice(1.0))
"""


def test_compiled_code_follows_the_files_that_it_calls(tmp_path):
    """Numba itself compares the file of the function only."""
    pytest.importorskip("numba")
    header = "from ssm_core._compiled import compiled\n"
    (tmp_path / "outer.py").write_text(
        f"{header}from ssm_core.inner import factor\n"
        "@compiled()\ndef twice(x):\n    return factor() * x\n",
        encoding="utf-8",
    )
    said = []
    for number in (2, 2, 30):
        (tmp_path / "inner.py").write_text(
            f"{header}@compiled()\ndef factor():\n    return {number}.0\n", encoding="utf-8"
        )
        run = subprocess.run(
            [sys.executable, "-c", STALE, str(tmp_path)],
            capture_output=True,
            encoding="utf-8",
            check=True,
            cwd=pathlib.Path(__file__).parents[1],
        )
        said.append(float(run.stdout))
    assert said == [2, 2, 30]
