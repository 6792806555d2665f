"""S4: what structure saves, and what the layer learns.

``python -m benchmarks s4`` measures kernels and layers: the table of the S4 paper (a layer of S4
and S4D against powers of a dense matrix), the sums over modes against the naive complex products,
times against L and N with their exponents, and, on a processor, rounding errors. It writes
``s4-cpu.json``, or on a GPU ``s4-h100.json`` and the like.

``python -m benchmarks.s4 train TASK MODEL …`` trains, and goes on where a run before it stopped:

=======  ====================================================  =====================================
task     what                                                  models
=======  ====================================================  =====================================
delay    white noise 1000 samples late, error as a share of    legs, legt, fout, s4d, random,
         the variance                                          random_wide
smnist   sequential MNIST, accuracy                            s4, s4d, random, lstm, transformer
psmnist  the same with the pixels in one random order          the same
drawing  the next pixel, bits a pixel                          s4, s4d, random
=======  ====================================================  =====================================

``python -m benchmarks.s4 collect TASK`` then writes ``s4-TASK-DEVICE.json``, all curves with seeds
and settings, and ``python -m benchmarks.s4 draw runs/drawing-s4-0.pt`` an ``.npz`` of digits
completed in recurrent mode. States and logs lie in ``--folder`` (by default ``runs``), one
``NAME.pt`` of 5 MB and one ``NAME.jsonl`` for each run; ``--data`` names a folder with the files of
MNIST, packed or not, and without it they are downloaded.

Accuracies are those of the test images after the last epoch. All 60,000 training images are used,
nothing is selected by the test images, and images are neither moved nor turned. The networks have
400,000 parameters (S4: 6 blocks of 128 channels with 64 states).

**What it should take on one H100** (predictions, to be held against the logs). A step of batch 128
moves about 2 GB forward and 4 GB backward in each block, most of it by FFTs of 2L, activations and
the gated unit: 2 ms, and 13 ms for six blocks. The Cauchy kernels are 0.03 ms of it. Some 200
operations in a block, forward and backward, take the processor 7 ms to start, so that runs side by
side fill the GPU better than one alone. Per epoch of 468 steps: S4 and S4D 7 s, Transformer 7 s,
LSTM (784 steps of one small product each) 20 s. So 40 epochs of S4 and S4D on both tasks, side by
side, take 16 to 20 minutes, and those of the others 20 to 25. Expected: S4 and S4D 99.5 to 99.6 %
sequential and 98.4 to 98.7 % permuted; if the latter falls short, ``--epochs 80 --dropout 0.25`` in
a fresh folder. What was measured on an H200 stands in ``benchmarks/NOTES.md``.

"HiPPO against random A" depends on the scale of the random A. In the delay task the unit scale has
frequencies up to 32 per unit of time, where the signal has 251, and fails; stretched to 256 (model
``random_wide``) it does better than LegS, whose memory of the oldest samples is coarse, and worse
than LegT and FouT by a factor of 4 to 15 (CPU, 400 steps, three seeds). Show both.

Runs that take turns with a limit of ten minutes a command::

    python -m benchmarks s4                               # about a minute
    for task in smnist psmnist; do for model in s4 s4d; do
        python -m benchmarks.s4 train $task $model --data DIGITS --folder runs --minutes 8 &
    done; done; wait                                      # again until all say epoch 40
    python -m benchmarks.s4 train drawing s4 --data DIGITS --folder runs --minutes 8
    python -m benchmarks.s4 draw runs/drawing-s4-0.pt --data DIGITS
    python -m benchmarks.s4 train delay legs legt fout s4d random random_wide \\
        --seeds 0 1 2 --folder runs
    for task in smnist psmnist drawing delay; do python -m benchmarks.s4 collect $task; done
"""

from benchmarks.s4.kernel import run

__all__ = ["run"]
