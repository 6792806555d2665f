"""What the measurements on a GPU share: its name in a word, and its clock."""

import re

import torch

CACHE = 2**28  # bytes, more than a second-level cache holds


def model():
    """The device in one word, for the name of a file: h100, t4, …"""
    name = torch.cuda.get_device_name()
    found = re.search(r"\b[A-Za-z]*\d+\w*", name)
    return found.group().lower() if found else "cuda"


def recorded(prepare):
    """A call that replays kernels recorded once, so that Python takes no part in their time.

    ``prepare()`` returns the function to record. Both run on one stream, since a backward pass runs
    where its forward pass ran.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function = prepare()
        function()  # what is compiled at the first call is not to be recorded
    with torch.cuda.graph(graph, stream=stream):
        function()

    def replay(_recorded=function):  # what it reads must live as long as the graph
        graph.replay()

    return replay


def clock(function):
    """Seconds of one call by the GPU's events, behind a write that empties its cache.

    That write takes longer than the processor needs to issue the call, so that what is measured is
    the GPU at work and not the processor at work. It is what ``triton.testing.do_bench`` does.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(CACHE, dtype=torch.int8, device="cuda").zero_()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3
