"""The backends that run on a CPU: all that a scan must do, the grid of sizes, and what is only true
of ``ssm_core.scan.cpu``: gradients by finite differences, its threads, its memory."""

import functools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from ssm_core.scan import cpu, selective_scan_fn, selective_scan_ref
from tests.scan.cases import (
    CHANNELS,
    FEATURES,
    LENGTHS,
    SELECTION,
    STATES,
    TOLERANCE,
    Behaviour,
    arguments,
    assert_close,
    assert_same_bits,
    exactly,
    is_float,
    poisoned,  # noqa: F401
    results,
)

IMPLEMENTATIONS = ["numba", "torch"]


@pytest.fixture
def implementation(request, monkeypatch):
    """The recurrence compiled by Numba, or in PyTorch as where Numba is missing."""
    if request.param == "torch":
        monkeypatch.setattr(cpu, "compiled", None)
    elif cpu.compiled is None:
        pytest.skip("no Numba")
    return request.param


both = pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)


class TestReference(Behaviour):
    backend = "reference"
    length = 2**10


@pytest.mark.parametrize("implementation", ["numba"], indirect=True)
@pytest.mark.usefixtures("implementation")
class TestNumba(Behaviour):
    dtypes = (torch.float32, torch.float64)


@pytest.mark.parametrize("implementation", ["torch"], indirect=True)
@pytest.mark.usefixtures("implementation")
class TestTorch(Behaviour):
    dtypes = (torch.float32, torch.float64)
    length = 2**12


# --- the grid of sizes ---------------------------------------------------------------------------


def test_selection_has_every_size():
    assert [set(sizes) for sizes in zip(*SELECTION)] == [set(LENGTHS), set(STATES), set(CHANNELS)]


@functools.lru_cache(maxsize=1)
def wanted_on_the_grid(L, n, d):
    return results(selective_scan_ref, exactly(arguments(1, d, L, n)))


@pytest.mark.parametrize("L, n, d", SELECTION)
def test_grid(L, n, d, poisoned, monkeypatch):  # noqa: F811
    x = arguments(1, d, L, n)
    want, tolerance = wanted_on_the_grid(L, n, d), TOLERANCE[torch.float32]
    assert_close(results(selective_scan_ref, x), want, tolerance)
    assert_close(results(selective_scan_fn, x, backend="cpu"), want, tolerance)
    monkeypatch.setattr(cpu, "compiled", None)
    assert_close(results(selective_scan_fn, x, backend="cpu"), want, tolerance)


# --- gradients -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("feature", FEATURES)
def test_gradients_by_finite_differences(implementation, feature):
    x = arguments(1, 2, 6, 2, **FEATURES[feature], dtype=torch.float64)
    x["A"] = x["A"].clamp(-2, -0.05)  # numbers that a step of 1e-6 resolves
    names = [name for name, value in x.items() if is_float(value)]

    def scan(*tensors):
        return selective_scan_fn(**x | dict(zip(names, tensors)), return_last_state=True)

    assert torch.autograd.gradcheck(scan, [x[name].requires_grad_() for name in names])


# --- threads -------------------------------------------------------------------------------------


@pytest.fixture
def every_task_a_thread(monkeypatch):
    """Threads for work that is otherwise too little for them."""
    if cpu.compiled is not None:
        monkeypatch.setattr(cpu.compiled, "LEAST_WORK", 1)


@pytest.mark.parametrize("implementation", ["numba"], indirect=True)
def test_a_small_call_takes_one_thread(implementation, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cpu.compiled, "run_in_threads", lambda tasks, threads: asked.append(threads)
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        selective_scan_fn(**arguments(1, 256, 60, 16))
        selective_scan_fn(**arguments(1, 256, 1000, 16))
        selective_scan_fn(**arguments(1, 256, 0, 16))
    finally:
        torch.set_num_threads(threads)
    assert asked == [1, 4, 1]


@both
@pytest.mark.parametrize(
    "options",
    [
        {"b": 1, "d": 300},
        {"b": 3, "d": 130, "g": 2},
        {"b": 1, "d": 130, "packed": True, "constant": "B"},
    ],
)
def test_bits_do_not_depend_on_the_number_of_threads(implementation, options, every_task_a_thread):
    assert_bits_do_not_depend_on_threads(arguments(**options, L=150, n=5))


@pytest.mark.parametrize("implementation", ["numba"], indirect=True)
def test_nor_do_sums_over_a_long_sequence(implementation, every_task_a_thread):
    assert_bits_do_not_depend_on_threads(arguments(1, 1, 70_000, 1))


def assert_bits_do_not_depend_on_threads(x):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = results(selective_scan_fn, x)
        for count in (2, 5):
            torch.set_num_threads(count)
            assert_same_bits(results(selective_scan_fn, x), want)
    finally:
        torch.set_num_threads(threads)


@both
def test_calls_from_several_threads_at_once(implementation, every_task_a_thread):
    cases = [arguments(1, 70, 130, 5, seed=seed) for seed in range(6)]
    want = [results(selective_scan_fn, x) for x in cases]
    with ThreadPoolExecutor(3) as pool:
        for got, alone in zip(pool.map(functools.partial(results, selective_scan_fn), cases), want):
            assert_same_bits(got, alone)


# --- memory --------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor made while this is on."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if torch.is_tensor(x):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return made


@both
@pytest.mark.parametrize("d, L, n", [(700, 128, 64), (140, 300, 128)])
def test_no_tensor_has_states_for_all_steps(implementation, d, L, n):
    given = tuple(arguments(1, d, L, n).values())
    given = (*given[:8], True, given[8], None)
    with LargestTensor() as largest:
        out, last, saved = cpu.forward(*given, True)
        cpu.backward(out, last, *given, saved)
    # Numba keeps up to 8 partial sums of dB, PyTorch the states of some channels for one chunk.
    more = {"numba": 8 * n * L, "torch": 2**20}[implementation]
    assert d * L <= largest.numel <= max(d * (L + n), more) < d * L * n / 4


@both
def test_backward_saves_states_of_chunks_only(implementation):
    b, d, L, n = 1, 8, 1000, 16
    x = {
        name: value.requires_grad_() if is_float(value) else value
        for name, value in arguments(b, d, L, n).items()
    }
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan_fn(**x)
    arguments_alone = sum(value.numel() for value in x.values() if torch.is_tensor(value))
    assert 0 < sum(sizes) - arguments_alone <= b * d * n * (L // 64 + 1)


# --- without a compiler, without a place for compiled code -----------------------------------------


def in_a_new_process(statements):
    code = f"""{statements}
import torch
from ssm_core.scan import cpu, selective_scan_fn
u = torch.ones(1, 1, 3)
A = -torch.log(torch.tensor([[2.0]]))
one = torch.ones(1, 1)
assert selective_scan_fn(u, u, A, one, one).tolist() == [[[1, 1.5, 1.75]]]
print(cpu.compiled is None)"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_numba_is_optional():
    assert in_a_new_process("import sys; sys.modules['numba'] = None") == "True"


def test_compiled_code_need_not_be_kept():
    pytest.importorskip("numba")
    nowhere = """
from numba.core import caching
cache = getattr(caching, "CacheImpl", None) or caching._CacheImpl  # the name has changed
cache._locator_classes = []"""
    assert in_a_new_process(nowhere) == "False"
