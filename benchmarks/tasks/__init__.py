"""What selection is for: the tasks that motivated Mamba, on six networks of one size.

``python -m benchmarks.tasks train TASK MODEL …`` trains, and goes on where a run before it stopped:

=========  =================================================  ====================================
task       what                                               measured
=========  =================================================  ====================================
copying    16 tokens among 4096 positions, then all of them   share of tokens that are right
induction  what followed the trigger when it came before?     share of answers that are right, and
                                                              that at other lengths, up to 2^20
recall     32 pairs of a key and a value, then 16 keys        share of values that are right
char       the next letter of Pride and Prejudice             bits a letter, on the last tenth
=========  =================================================  ====================================

The models are ``mamba``, ``s4``, ``s4d``, ``lstm``, ``linear_attention`` and ``transformer``:
:class:`ssm_core.mamba.MambaLM`, stacks of S4 and S4D (64 states a channel), an LSTM, and blocks of
causal attention with rotary positions, as a softmax or with the kernel elu + 1. Copying and
induction have 2 layers, width 64 and 67,000 parameters, recall 82,000, char 720,000 (6 layers of
width 128). All have as many as Mamba, within a few percent.

``python -m benchmarks.tasks lengths runs/induction-*.pt`` tests trained networks at every power of
two: by pieces of 2^14 tokens with the state handed over, and attention, which has none, as far as
2^15. ``python -m benchmarks.tasks collect TASK`` writes ``tasks-TASK-DEVICE.json``: settings with
seeds, curves, sizes, seconds, the place. States and logs lie in ``--folder`` (by default ``runs``),
one ``NAME.pt`` and one ``NAME.jsonl`` for each run. ``python -m benchmarks tasks`` does all of it,
on a GPU, and writes ``tasks-DEVICE.json``, where each run ended; it takes an hour and a half.

Training sequences are drawn on the device, each batch by (seed, epoch, number) alone. Accuracies
are those of 1024 sequences of :mod:`ssm_core.data`, the same for all networks, after the last step;
nothing is selected by them. The last tenth of the novel is not trained on. It comes in windows of
512 letters, the first ones of which have little to go by, for all networks alike.

**What it should take on one H100** (predictions; what was measured on an
H200, with fewer steps, stands in ``benchmarks/NOTES.md``).

=========  =============  ==========================================  =============================
task       steps          a step, ms                                  expected
=========  =============  ==========================================  =============================
copying    60,000 of      Mamba 7, S4 8, S4D 7, linear attention 14,  Mamba 99.5 %, Transformer too,
           64 × 4112      Transformer 13; LSTM 200 (2,000 steps)      S4 below 25 %
induction  40,000 of      0.7 (a graph of 250 kernels); S4 1.5;       Mamba 99 % up to 2^20, the
           64 × 256       LSTM 5 (10,000 steps)                       Transformer up to 2^9
recall     20,000 of      0.6; S4 1.3, LSTM 2                         attention and Mamba 99 %, S4
           64 × 80                                                    below 30 %
char       3,000 of       8; S4 8, LSTM 10                            Mamba 1.9 bits, others above
           32 × 512
=========  =============  ==========================================  =============================

Copying moves 3 GB a block forward and backward in bfloat16, 2.5 ms for both blocks, and the scan
takes 1.3 ms for each. Where sequences are short the launch of kernels is what costs time, so that a
step is recorded as a CUDA graph. An LSTM has 4112 steps one after the other, in two layers, forward
and backward.

How far a network reaches past its training is no matter of its loss: see the comment on DEFAULTS in
:mod:`benchmarks.tasks.train`. More steps and other seeds are the first things to try where 2^20 is
not reached.

Runs that take turns with a limit of ten minutes a command::

    python -m benchmarks.tasks train copying mamba --minutes 8      # again until it says epoch 120
    python -m benchmarks.tasks train copying s4 --minutes 8
    python -m benchmarks.tasks train induction mamba s4 s4d linear_attention transformer lstm
    python -m benchmarks.tasks lengths runs/induction-*.pt
    python -m benchmarks.tasks train recall mamba s4 s4d linear_attention transformer lstm
    python -m benchmarks.tasks train char mamba s4 s4d linear_attention transformer lstm
    for task in copying induction recall char; do python -m benchmarks.tasks collect $task; done
"""

import pathlib

import torch

from benchmarks import training
from benchmarks.tasks import lengths, train
from benchmarks.tasks.networks import NETWORKS
from benchmarks.tasks.tasks import TASKS

__all__ = ["run"]

FOLDER = pathlib.Path("runs")


def run():
    """Train every network on every task, from where it stopped, and say where each one ended."""
    if not torch.cuda.is_available():
        raise SystemExit("the tasks are sized for a GPU; on a processor try python -m "
                         "benchmarks.tasks train induction mamba --length 64 --steps 500 "
                         "--every 50")
    runs = [train.train(train.settings(task, model, 0, {}), FOLDER)
            for task in TASKS for model in NETWORKS]
    for model in NETWORKS:
        lengths.measure(FOLDER / f"induction-{model}-0.pt")
    place = training.place()
    return {"device": place["device"], "setup": {"device": place["name"]},
            "runs": {run.settings.name: run.log[-1] for run in runs}}
