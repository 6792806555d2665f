"""Which thread holds which element: the register and shared layouts of the kernels.

A program works on CHANNELS = 32 channels, one for each lane of a warp. Its WARPS warps share out the
states: each holds STATES of them, so N = WARPS STATES (padded to a power of two). Time is cut into
chunks of STEPS steps. The layouts of signals, (32, STEPS), give a thread STEPS / WARPS neighbouring
steps of one channel, so that it reads 16 bytes at once and WARPS lanes share a row.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon._versions import shared_layout

CHANNELS = gl.constexpr(32)


@gluon.constexpr_function
def log2(x):
    return x.bit_length() - 1


@gluon.constexpr_function
def columns(WARPS):
    """(WARPS, 32): one state of each warp, one channel of each lane."""
    return gl.BlockedLayout([1, 1], [1, 32], [WARPS, 1], [1, 0])


@gluon.constexpr_function
def columns_of(WARPS, WIDTH):
    """(WARPS, 32, WIDTH): the same threads, WIDTH elements each."""
    return gl.BlockedLayout([1, 1, WIDTH], [1, 32, 1], [WARPS, 1, 1], [2, 1, 0])


@gluon.constexpr_function
def columns_of_eight(WARPS):
    """(WARPS, 2, 32, 4): the same threads, eight steps each."""
    return gl.BlockedLayout([1, 2, 1, 4], [1, 1, 32, 1], [WARPS, 1, 1, 1], [3, 1, 2, 0])


@gluon.constexpr_function
def columns_of_chunk(WARPS, STEPS):
    """(STEPS / 8, WARPS, 2, 32, 4): the same threads, all steps of a chunk each."""
    return gl.BlockedLayout([STEPS // 8, 1, 2, 1, 4], [1, 1, 1, 32, 1], [1, WARPS, 1, 1, 1],
                            [4, 2, 0, 3, 1])


@gluon.constexpr_function
def signals(WARPS, STEPS):
    """(32, STEPS): STEPS / WARPS neighbouring steps of a channel."""
    return gl.BlockedLayout([1, STEPS // WARPS], [32 // WARPS, WARPS], [WARPS, 1], [1, 0])


@gluon.constexpr_function
def signal_planes(WARPS, STEPS):
    """(STEPS / 4, 32, 4): the elements of ``signals``, held by the same threads."""
    steps = [[0, 0, 1], [0, 0, 2]] + [[1 << i, 0, 0] for i in range(log2(STEPS) - 2)]
    channels = [[0, 1 << i, 0] for i in range(5)]
    v, g = log2(STEPS // WARPS), log2(32 // WARPS)
    return gl.DistributedLinearLayout(steps[:v], steps[v:] + channels[:g], channels[g:], [],
                                      [STEPS // 4, 32, 4])


@gluon.constexpr_function
def signal_parts(WARPS, STEPS):
    """(STEPS / 8, WARPS, 2, 32, 4): what all warps have of the elements of ``signals``."""
    steps = [[0, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, 1, 0, 0]]
    steps += [[1 << i, 0, 0, 0, 0] for i in range(log2(STEPS) - 3)]
    channels = [[0, 0, 0, 1 << i, 0] for i in range(5)]
    warps = [[0, 1 << i, 0, 0, 0] for i in range(log2(WARPS))]
    v, g = log2(STEPS // WARPS), log2(32 // WARPS)
    return gl.DistributedLinearLayout(steps[:v] + warps, steps[v:] + channels[:g], channels[g:], [],
                                      [STEPS // 8, WARPS, 2, 32, 4])


@gluon.constexpr_function
def signal_sums(WARPS, STEPS):
    """(32, WARPS, STEPS / WARPS): the elements of ``signals``, a thread's steps on the last axis."""
    return gl.BlockedLayout([1, 1, STEPS // WARPS], [32 // WARPS, WARPS, 1], [WARPS, 1, 1],
                            [2, 1, 0])


@gluon.constexpr_function
def weights(WARPS, STATES, STEPS):
    """(WARPS, STATES, STEPS / 4, 4): B or C as loaded, some neighbouring steps of one state each."""
    each = STATES * STEPS // 32
    four = min(each, 4)
    lanes_j = 4 // four
    lanes_i = min(STEPS // 4 // (each // four), 32 // lanes_j)
    lanes_m = 32 // lanes_j // lanes_i
    return gl.BlockedLayout([1, 1, each // four, four], [1, lanes_m, lanes_i, lanes_j],
                            [WARPS, 1, 1, 1], [3, 1, 2, 0])


# Shared memory. Rows are padded where lanes that read or store together would meet in one bank.


@gluon.constexpr_function
def raw_memory():
    """(2, 32, STEPS): signals as loaded, for this chunk and the next."""
    return shared_layout([1, 1], [])


@gluon.constexpr_function
def states_memory():
    """(2, WARPS, 32, STATES): saved states, for this chunk and the next."""
    return shared_layout([1, 1, 1], [])


@gluon.constexpr_function
def plane_memory():
    """(32, 4): four steps of each channel."""
    return shared_layout([32, 4], [[128, 8]])


@gluon.constexpr_function
def planes_memory(STEPS):
    """(STEPS / 4, 32, 4): all planes of a signal."""
    return shared_layout([STEPS // 4, 32, 4], [[128, 8]])


@gluon.constexpr_function
def weight_memory(WARPS):
    """(WARPS, 4): four steps of one state of each warp."""
    return shared_layout([WARPS, 4], [[WARPS * 4, 4]])


@gluon.constexpr_function
def weights_memory(WARPS, STATES, STEPS):
    """(STEPS / 4, STATES, WARPS, 4): all of B or C."""
    return shared_layout([STEPS // 4, STATES, WARPS, 4], [[WARPS * 4, 4]])


@gluon.constexpr_function
def part_memory(WARPS):
    """(WARPS, 2, 32, 4): what each warp has of eight steps of each channel."""
    return shared_layout([WARPS, 2, 32, 4], [[128, 8], [WARPS * 256, 8]])


@gluon.constexpr_function
def parts_memory(WARPS, STEPS):
    """(STEPS / 8, WARPS, 2, 32, 4): what each warp has of a chunk."""
    return shared_layout([STEPS // 8, WARPS, 2, 32, 4], [[128, 8], [WARPS * 256, 8]])
