"""Measurements: speed and memory, as ratios within one run.

``python -m benchmarks NAME`` checks what it is about to time, times it, and writes
``benchmarks/results/NAME-DEVICE.json`` with the machine and the versions in it. Chapters and pages
show these files; nothing that they say about speed is typed by hand.
"""
