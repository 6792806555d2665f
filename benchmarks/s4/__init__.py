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
and settings, and ``python -m benchmarks.s4 draw runs/drawing-s4-0.pt`` writes
``s4-digits-DEVICE.json``, digits completed in recurrent mode. States and logs lie in ``--folder``
(by default ``runs``), one ``NAME.pt`` of 5 MB and one ``NAME.jsonl`` for each run; ``--data`` names
a folder with the files of MNIST, packed or not, and without it they are downloaded.

Accuracies are those of the test images after the last epoch. All 60,000 training images are used,
nothing is selected by the test images, and images are neither moved nor turned. The networks have
400,000 parameters (S4: 6 blocks of 128 channels with 64 states); the Transformer computes its
attention in bfloat16 on a GPU, where it takes a ninth of the memory.

On one H200, alone, an epoch takes S4 6.0 s and S4D 5.4 s; two runs side by side take 11 to 13 s
each, the LSTM and the Transformer beside another 40 and 23 s. ``benchmarks/NOTES.md`` says what was
predicted and what came out.

"HiPPO against random A" depends on the scale of the random A. In the delay task the unit scale has
frequencies up to 32 per unit of time, where the signal has 251, and fails; stretched to 256 (model
``random_wide``) it ends where LegS ends, and LegT, FouT and S4D end four to ten times lower. Show
all of them.

Runs that take turns with a limit of ten minutes a command::

    python -m benchmarks s4                               # about a minute
    for task in smnist psmnist; do for model in s4 s4d random transformer; do
        python -m benchmarks.s4 train $task $model --data DIGITS --folder runs --minutes 8 &
    done; done; wait                                      # again until all say their last epoch
    python -m benchmarks.s4 train smnist lstm --epochs 10 --data DIGITS --folder runs
    python -m benchmarks.s4 train psmnist lstm --epochs 10 --data DIGITS --folder runs
    python -m benchmarks.s4 train drawing s4 --epochs 15 --data DIGITS --folder runs --minutes 8
    python -m benchmarks.s4 draw runs/drawing-s4-0.pt --data DIGITS
    python -m benchmarks.s4 train delay legs legt fout s4d random random_wide \\
        --seeds 0 1 2 --folder runs
    for task in smnist psmnist drawing delay; do python -m benchmarks.s4 collect $task; done
"""

from benchmarks.s4.kernel import run

__all__ = ["run"]
