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
are those of 1024 sequences of :mod:`ssm_book.data`, the same for all networks, after the last step;
nothing is selected by them. The last tenth of the novel is not trained on. It comes in windows of
512 letters, the first ones of which have little to go by, for all networks alike.

Copying and recall begin with short sequences: 256 positions, four pairs. The length doubles at equal
intervals in the first two thirds of the training (setting ``doublings``). Begun at 4096 positions,
Mamba guesses after 10,000 steps; begun with 32 pairs, the Transformer does.

=========  =============  ==========================================  ============================
task       steps          a step on an H200, ms                       what came out
=========  =============  ==========================================  ============================
copying    48,000 of      at full length, alone: Mamba 14, S4 8; two  Mamba 100 %, Transformer 98,
           64 × 4112      side by side, mean of all lengths: 8 to     linear attention 90, S4 69,
                          18; LSTM 30 (2,000 steps)                   S4D 59, LSTM 22
induction  40,000 of      Mamba 1.5 alone; 2 to 4 side by side        Mamba 100 % up to 2^20, LSTM
           64 × 256                                                   up to 2^9, attention to 2^8;
                                                                      filters and linear attention
                                                                      with ``--steps 10000``
recall     20,000 of      0.4 to 3 side by side                       Transformer 100 %, Mamba 96,
           64 × 80                                                    linear attention 85, others 8
char       1,500 of       10 to 20 side by side                       bits, at their lowest: LSTM
           32 × 512                                                   1.63, Mamba and Transformer
                                                                      1.72, S4 1.92
=========  =============  ==========================================  ============================

Where sequences are short the launch of kernels is what costs time, so that a step is recorded as a
CUDA graph, anew for each length. An LSTM has 4112 steps one after the other, in two layers, forward
and backward.

How far a network reaches past its training is no matter of its loss: see the comment on DEFAULTS in
:mod:`benchmarks.tasks.train`. More steps and other seeds are the first things to try where 2^20 is
not reached.

Runs that take turns with a limit of ten minutes a command::

    python -m benchmarks.tasks train copying mamba --minutes 8      # again until it says epoch 96
    python -m benchmarks.tasks train copying s4 s4d linear_attention transformer lstm --minutes 8
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
