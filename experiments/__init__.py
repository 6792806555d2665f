"""Training studies: what the layers learn, with one harness and one command line.

``python -m experiments train TASK MODEL …`` trains, and goes on where a run before it stopped:

=========  =================================================  =====================================
task       what                                               measured
=========  =================================================  =====================================
delay      white noise 1000 samples late                      error as a share of the variance
smnist     sequential MNIST                                   share of test images that are right
psmnist    the same with the pixels in one random order       the same
drawing    the next pixel of a digit                          bits a pixel
copying    16 tokens among 4096 positions, then all of them   share of tokens that are right
induction  what followed the trigger when it came before?     share of answers that are right, also
                                                              at other lengths, up to 2^20
recall     32 pairs of a key and a value, then 16 keys        share of values that are right
char       the next letter of Pride and Prejudice             bits a letter, on the last tenth
=========  =================================================  =====================================

Models of ``delay`` are legs, legt, fout, s4d, random and random_wide; of digits s4, s4d, random (S4
from a random A), lstm and transformer (``drawing``: the first three); of the other tasks mamba, s4,
s4d, lstm, linear_attention and transformer. All networks of a task have as many parameters, within a
few percent: 400,000 for digits (S4: 6 blocks of 128 channels with 64 states), 67,000 for copying and
induction (2 layers of width 64), 82,000 for recall, 720,000 for char (6 layers of width 128).

Every option has a default for each task (:mod:`experiments.settings`). States and logs lie in
``--folder`` (by default ``runs``), one ``NAME.pt`` and one ``NAME.jsonl`` per run; ``--data`` names a
folder with the files of MNIST, packed or not, and without it they are downloaded. Then

- ``python -m experiments lengths runs/induction-*.pt`` tests trained networks at every power of two,
  in pieces of 2^14 tokens with the state handed over; attention, which has none, as far as 2^15;
- ``python -m experiments ablate`` trains Mamba without each of its parts on two small tasks, on a CPU
  (:mod:`experiments.ablation`), and writes ``experiments/results/ablation-cpu.json``;
- ``python -m experiments draw runs/drawing-s4-0.pt`` completes digits in recurrent mode;
- ``python -m experiments collect TASK`` writes ``experiments/results/TASK-DEVICE.json``: settings
  with seeds, curves, sizes, seconds, the place.

Digits: accuracies are those of the test images after the last epoch. All 60,000 training images are
used, nothing is selected by the test images, and images are neither moved nor turned. The
Transformer computes its attention in bfloat16 on a GPU, where it takes a ninth of the memory. On one
H200, alone, an epoch takes S4 6.0 s and S4D 5.4 s; two runs side by side take 11 to 13 s each, the
LSTM and the Transformer beside another 40 and 23 s.

"HiPPO against random A" depends on the scale of the random A. In the delay task the unit scale has
frequencies up to 32 per unit of time, where the signal has 251, and fails; stretched to 256 (model
``random_wide``) it ends where LegS ends, and LegT, FouT and S4D end four to ten times lower. Show
all of them.

Tasks on tokens: training sequences are drawn on the device, each batch by (seed, epoch, number)
alone. Accuracies are those of 1024 sequences of :mod:`ssm_book.data`, the same for all networks,
after the last step; nothing is selected by them. The last tenth of the novel is not trained on. It
comes in windows of 512 letters, the first ones of which have little context, for all networks alike.

Copying and recall begin with short sequences: 256 positions, four pairs. The length doubles at equal
intervals in the first two thirds of the training (option ``doublings``). Begun at 4096 positions,
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
                                                                      with ``--epochs 10``
recall     20,000 of      0.4 to 3 side by side                       Transformer 100 %, Mamba 96,
           64 × 80                                                    linear attention 85, others 8
char       1,500 of       10 to 20 side by side                       bits, at their lowest: LSTM
           32 × 512                                                   1.63, Mamba and Transformer
                                                                      1.72, S4 1.92
=========  =============  ==========================================  ============================

Where sequences are short, launching kernels takes most of the time, so a step is recorded as a CUDA
graph, anew for each length. An LSTM has 4112 steps one after the other, in two layers, forward and
backward.

The loss does not tell how far a network reaches past its training length: see the comment on
:data:`experiments.settings.DEFAULTS`. More steps and other seeds are the first things to try where
2^20 is not reached. ``benchmarks/NOTES.md`` says what was predicted and what came out.

All runs, with a limit of ten minutes a command; repeat a command until it says its last epoch::

    for task in smnist psmnist; do for model in s4 s4d random transformer; do
        python -m experiments train $task $model --data DIGITS --minutes 8 &
    done; done; wait
    python -m experiments train smnist lstm --epochs 10 --data DIGITS
    python -m experiments train psmnist lstm --epochs 10 --data DIGITS
    python -m experiments train drawing s4 --epochs 15 --data DIGITS --minutes 8
    python -m experiments draw runs/drawing-s4-0.pt --data DIGITS
    python -m experiments train delay legs legt fout s4d random random_wide --seeds 0 1 2
    for task in copying induction recall char; do
        python -m experiments train $task mamba s4 s4d linear_attention transformer lstm --minutes 8
    done
    python -m experiments lengths runs/induction-*.pt
    for task in delay smnist psmnist drawing copying induction recall char; do
        python -m experiments collect $task
    done

``python -m experiments.bit`` is a study of its own, on a CPU: small recurrent networks, one bit, and
how long they can wait for the question (see :mod:`experiments.bit`). ``python -m experiments.state``
is another: recall with Mamba and Mamba-2, and states of several sizes (see :mod:`experiments.state`).
"""
