"""The checks behind the exercises: each ``check_…`` takes an answer and says what is wrong with it.

A check accepts any right answer, compares it with an independent truth, raises ``AssertionError``
with an explanation where the answer is wrong, and prints one line where it is right. There is one
module a chapter.
"""

# ruff: noqa: F401

from ssm_book.exercises.continuous import (
    check_circuit,
    check_exponential,
    check_learn_spring,
    check_minimal,
    check_observer,
    check_ringing,
    check_settle,
)
from ssm_book.exercises.discretization import (
    check_best_factor,
    check_exponential_trapezoid,
    check_half_steps,
    check_largest_euler_step,
    check_learn_system,
    check_move_weights,
    check_phi,
    check_prewarped,
    check_to_scipy,
)
from ssm_book.exercises.duality import (
    check_convolve,
    check_crossing,
    check_learn_pole,
    check_read_off,
    check_realize,
    check_stream,
    check_window_for,
)
from ssm_book.exercises.hippo import (
    check_backward_step,
    check_delay_row,
    check_error_bar,
    check_laguerre_response,
    check_learn_row,
    check_recall,
    check_window_memory,
)
from ssm_book.exercises.mamba import (
    check_advance,
    check_convolve_piece,
    check_follow_trigger,
    check_gate_to_mamba,
    check_keeping_bias,
    check_learn_gate,
    check_older_first,
)
from ssm_book.exercises.memory import (
    check_average,
    check_gain,
    check_learn_weight,
    check_merge,
    check_numbers_needed,
    check_part_mean,
    check_shortest_window,
    check_weight,
)
from ssm_book.exercises.rnn import (
    check_bptt,
    check_forget_bias,
    check_is_convolution,
    check_newton,
    check_scan,
    check_trained,
    check_transient,
)
from ssm_book.exercises.s4 import (
    check_circle,
    check_low_rank_legt,
    check_modes_to_kernel,
    check_start,
    check_transfer,
    check_wrong_length,
)
from ssm_book.exercises.selective_scan import (
    check_chunk_starts,
    check_combine,
    check_exclusive_scan,
    check_learn_decays,
    check_scan_gradient,
    check_step_floors,
)
from ssm_book.exercises.ssd import (
    check_best_chunk,
    check_half_life,
    check_learn_rate,
    check_segment_sums,
    check_ssd_gradient,
    check_ssd_piece,
)
from ssm_book.exercises.training import (
    check_bits_in_pieces,
    check_delta_write,
    check_least_bits,
    check_most_texts,
    check_plateau,
    check_rewritten,
    check_select_only,
    check_share_without_order,
)
