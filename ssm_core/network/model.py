"""A deep network of state space layers: residual blocks between an encoder and a linear decoder.

The same network classifies (mean over time at the end), or maps a sequence to a sequence, and then
can run one sample at a time.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssm_core._checks import as_flag, as_int, as_real
from ssm_core._dispatch import is_transformed
from ssm_core._modules import is_plain
from ssm_core._tensors import (
    Packing,
    as_packing,
    check_device,
    check_finite,
    check_kind,
    check_shape,
    dtype_name,
)
from ssm_core.network.block import Block
from ssm_core.network.layout import Layout, Packed, Padded, as_lengths
from ssm_core.s4 import S4D, Stepper, _stepping
from ssm_core.s4.recurrence import check_state

__all__ = ["ModelStepper", "SequenceModel"]


class SequenceModel(nn.Module):
    """Blocks of state space layers between an encoder and a linear decoder.

    Signals (b, L, d_input) pass through a linear map, ``n_layers`` blocks (:class:`Block`), a norm
    and another linear map. With ``tokens`` the first map is an embedding, with ``pool`` the last one
    gets the mean over time.

    **Ragged batches.** Sequences of several lengths come padded with their ``lengths``, or packed
    into one row with ``cu_seqlens``. Either way each gives what it would give alone, also where the
    model pools or looks ahead.

    **Training.** Small data sets are learned well by two to four blocks of 64 channels, dropout of
    0.1 and ``torch.optim.AdamW(parameter_groups(model, lr=0.01, weight_decay=0.05))`` with a
    one-cycle schedule. Standardize each input channel first. ``benchmarks/classification.py`` is a
    whole training script. For a few hundred long series MiniRocket is better and far cheaper.

    Args:
        d_input (int):   numbers in a sample of the input; with ``tokens`` how many tokens there are
        d_output (int):  numbers in an output: classes, or what a sample of the output holds
        d_model (int):   channels
        n_layers (int):  blocks
        ssm (callable):  makes the layer of a block from d_model: ``S4``, ``S4D``, ``Mamba``,
                         ``Mamba2``, or whatever makes a layer that provides what
                         :mod:`ssm_core.network` lists
        ssm_cfg (dict):  arguments of ``ssm`` that differ from its defaults, such as
                         ``{"d_state": 16}``
        bidirectional (bool): read each sequence in both directions, by two layers in each block.
                         (``ssm_cfg={"bidirectional": True}`` lets S4 and S4D do it in one layer.)
        tokens (bool):   the input is token numbers (b, L), from 0 to d_input - 1
        dropout (float): share of the channels that are dropped while training, 0 to 1
        pool (bool):     return one output for the whole sequence, from the mean over time
        device, dtype:   of all parameters, as in ``torch.nn``

    Raises:
        ValueError, TypeError: sizes out of range, or of the wrong kind, or a layer that lacks what
            every layer must provide

    Example:
        >>> import torch
        >>> from ssm_core.mamba import Mamba
        >>> from ssm_core.network import SequenceModel
        >>> model = SequenceModel(3, 10, d_model=16, n_layers=2, ssm=Mamba, pool=True)
        >>> batch, lengths = torch.randn(4, 50, 3), torch.tensor([50, 20, 7, 33])
        >>> model(batch, lengths=lengths).shape
        torch.Size([4, 10])
    """

    blocks: Any  # nn.ModuleList of Block

    def __init__(
        self,
        d_input: int,
        d_output: int,
        *,
        d_model: int = 128,
        n_layers: int = 4,
        ssm: Callable[..., nn.Module] = S4D,
        ssm_cfg: dict[str, Any] | None = None,
        bidirectional: bool = False,
        tokens: bool = False,
        dropout: float = 0.0,
        pool: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not callable(ssm):
            raise TypeError(f"ssm is a {type(ssm).__name__}, expected a class such as S4D or Mamba")
        ssm_cfg = {} if ssm_cfg is None else ssm_cfg
        if not isinstance(ssm_cfg, dict):
            raise TypeError(f"ssm_cfg is a {type(ssm_cfg).__name__}, expected a dict")
        self.config: dict[str, Any] = {
            "d_input": as_int(d_input, "d_input"),
            "d_output": as_int(d_output, "d_output"),
            "d_model": as_int(d_model, "d_model"),
            "n_layers": as_int(n_layers, "n_layers"),
            "ssm": getattr(ssm, "__name__", type(ssm).__name__),
            "ssm_cfg": dict(ssm_cfg),
            "bidirectional": as_flag(bidirectional, "bidirectional"),
            "tokens": as_flag(tokens, "tokens"),
            "dropout": as_real(dropout, "dropout", low=0, high=1),
            "pool": as_flag(pool, "pool"),
        }
        self.d_input, self.d_output = self.config["d_input"], self.config["d_output"]
        self.tokens, self.pool = tokens, pool
        like: dict[str, Any] = {"device": device, "dtype": dtype}

        def layer() -> nn.Module:
            made = ssm(d_model, **ssm_cfg)
            if not isinstance(made, nn.Module):
                kind = type(made).__name__
                raise TypeError(f"ssm makes a {kind}, expected a layer such as S4, S4D or Mamba")
            if getattr(made, "d_model", d_model) != d_model:
                raise ValueError(
                    f"ssm makes a layer with d_model {made.d_model}, expected {d_model}"
                )
            return made.to(**like)

        encoder = nn.Embedding if tokens else nn.Linear
        self.encoder = encoder(self.d_input, d_model, **like)
        self.blocks = nn.ModuleList(
            Block(layer(), dropout, reverse=layer() if bidirectional else None, **like)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model, **like)
        self.decoder = nn.Linear(d_model, self.d_output, **like)

    def forward(
        self,
        u: Tensor,
        states: Sequence[Any] | None = None,
        *,
        return_state: bool = False,
        lengths: Tensor | Sequence[int] | None = None,
        cu_seqlens: Tensor | Packing | None = None,
        dt: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, list[Any]]:
        """Sequences to outputs, all at once.

        Args:
            u (dtype of the parameters): (b, L, d_input), or tokens (b, L) of any integer dtype
            states (list): one state per block, as returned before; initial ones if None
            return_state (bool): return the states after the last sample too
            lengths (int64 or int32): how many samples each row has (b,), from 1 to L, in a batch
                with padding behind. What stands there is not read, and its outputs are 0. With
                ``return_state`` the sequences run packed, since a state belongs to the end of a row.
            cu_seqlens (int32): boundaries (sequences + 1,) of sequences that are packed into one
                row (b = 1). States have one row per sequence, and a model that pools returns one.
            dt (floating point): time since the sample before (b, L), for layers that take it, as
                :class:`ssm_core.s4.S4D` does. Layers that read from the end get the time to the
                sample after.

        Returns:
            y (b, L, d_output), or (b, d_output) with ``pool``; or (y, states) with a list of one
            state per block.

        Raises:
            ValueError, TypeError: a wrong shape, or another number of states than of blocks, or an
                argument that the layers do not take, which is named
        """
        self._check_input(u, "b", "L")
        if self.pool and u.shape[1] == 0:
            raise ValueError("u has no samples, expected at least one: the model takes their mean")
        if dt is not None:
            check_kind(dt, "dt")
            check_shape(dt, "dt", ("b", "L"), tuple(u.shape[:2]))
        layout: Layout = Layout()
        if lengths is not None:
            if cu_seqlens is not None:
                raise ValueError("lengths and cu_seqlens are both given, expected one of them")
            layout = Padded(as_lengths(lengths, u), u.shape[1])
            if return_state:
                return self._forward_packed(u, states, layout, dt)
        packing = as_packing(cu_seqlens, u.shape[0], u.shape[1], "u", u.device)
        if packing is not None:
            layout = Packed(packing)
            if self.pool:
                layout.check_pooling()
        given = [None] * len(self.blocks) if states is None else self._checked(states)

        x, after = self._encode(layout.hide(u)), []
        dt = None if dt is None else layout.hide(dt)
        for block, state in zip(self.blocks, given):
            x = block(x, state, return_state=return_state, dt=dt, layout=layout)
            if return_state:
                x, state = x
                after.append(state)
        x = self.norm(x)
        y = self.decoder(layout.mean(x)) if self.pool else layout.hide(self.decoder(x))
        return (y, after) if return_state else y

    def _forward_packed(
        self, u: Tensor, states: Sequence[Any] | None, layout: Padded, dt: Tensor | None
    ) -> tuple[Tensor, list[Any]]:
        """Padded sequences as one row: their outputs, and the states after the last sample of each."""
        inside, lengths = layout.inside, layout.lengths
        y, after = self.forward(
            u[inside][None],
            states,
            return_state=True,
            cu_seqlens=functional.pad(lengths.cumsum(0), (1, 0)).int(),
            dt=None if dt is None else dt[inside][None],
        )
        if self.pool:
            return y, after
        return y.new_zeros(*u.shape[:2], self.d_output).masked_scatter(inside[..., None], y), after

    def default_state(self, batch_size: int) -> list[Any]:
        """The state before the first sample of each block."""
        return [block.ssm.default_state(batch_size) for block in self.blocks]

    def step(
        self, u: Tensor, states: Sequence[Any], dt: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """One sample (b, d_input), or token (b,), and the states before it, to (y, states after it).

        y is (b, d_output). Each layer computes its step from its parameters as they are now. For
        many samples with the same parameters, take ``stepper()`` once. ``dt`` (b,) is the time since
        the sample before, for layers that take it.

        Raises:
            ValueError, TypeError: a wrong shape or number of states, or a model that pools
        """
        return self._step(u, states, [None] * len(self.blocks), dt)

    def stepper(self) -> ModelStepper:
        """The model as it is now, ready to run one sample at a time: see :class:`ModelStepper`.

        Raises:
            ValueError: a model that pools, or with bidirectional layers
        """
        self._check_stepping()
        return ModelStepper(
            copy.deepcopy(self).eval().requires_grad_(False),
            tuple(
                block.ssm.stepper() if hasattr(block.ssm, "stepper") else None
                for block in self.blocks
            ),
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``; no call leaves a half-written file.

        The configuration names the layer (``S4D``) and its ``ssm_cfg``. For layers made by a
        function or a class of your own it holds the name only, and ``from_pretrained`` needs the
        maker again.

        Args:
            folder: made if it is not there

        Raises:
            ValueError: ``ssm_cfg`` holds something that JSON does not
            ModuleNotFoundError: safetensors is needed and not installed
        """
        from ssm_core.network.storage import save  # reading and writing take what is slow to import

        save(self, folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        ssm: Callable[..., nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SequenceModel:
        """Load what ``save_pretrained`` wrote. Nothing is unpickled.

        Args:
            folder: where the two files are
            ssm (callable): what made the layers, if that is not a class of ``ssm_core``
            device: where the model goes
            dtype: of the parameters; by default that of the file

        Returns:
            the model, in evaluation mode

        Raises:
            ValueError: a file that is missing, truncated or corrupt, a configuration of another
                model, weights that do not fit it or are not finite; nothing is loaded then
            ModuleNotFoundError: safetensors is needed and not installed

        Example:
            >>> import tempfile
            >>> from ssm_core.network import SequenceModel
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     SequenceModel(1, 10, d_model=16, n_layers=2).save_pretrained(folder)
            ...     model = SequenceModel.from_pretrained(folder)
            >>> model.config["ssm"], model.training
            ('S4D', False)
        """
        from ssm_core.network.storage import load

        return load(cls, folder, ssm, device, dtype)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())

    def _encode(self, u: Tensor) -> Tensor:
        if not self.tokens:
            return self.encoder(u)
        if u.device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed():
            low, high = (int(x) for x in torch.aminmax(u)) if u.numel() else (0, 0)
            if low < 0 or high >= self.d_input:
                raise ValueError(
                    f"u holds {low if low < 0 else high}, "
                    f"expected tokens from 0 to {self.d_input - 1}"
                )
        return self.encoder(u.long())

    def _step(
        self, u: Tensor, states: Sequence[Any], steppers: Sequence[Any], dt: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        self._check_stepping()
        self._check_input(u, "b")
        if dt is not None:
            check_kind(dt, "dt")
            check_shape(dt, "dt", ("b",), tuple(u.shape[:1]))
        if not self.tokens:
            check_finite(u, "u")
        x, after = self._encode(u), []
        for block, state, stepper in zip(self.blocks, self._checked(states), steppers):
            x, state = block.step(x, state, stepper, dt)
            after.append(state)
        return self.decoder(self.norm(x)), after

    def _check_input(self, u: Any, *axes: str) -> None:
        check_kind(u, "u")
        if not self.tokens:
            check_shape(u, "u", (*axes, "d_input"), (*[None] * len(axes), self.d_input))
            return
        if u.is_floating_point() or u.is_complex() or u.dtype == torch.bool:
            raise TypeError(
                f"u has dtype {dtype_name(u.dtype)}, expected tokens, which are integers"
            )
        check_shape(u, "u", axes, (None,) * len(axes))
        check_device(u, "u", self.decoder.weight.device, "the model")

    def _check_stepping(self) -> None:
        if self.pool:
            raise ValueError("a model that pools over time has no output for one sample")
        if self.config["bidirectional"]:
            raise ValueError("a bidirectional model sees the future: it cannot step")

    def _checked(self, states: Sequence[Any]) -> Sequence[Any]:
        if not isinstance(states, (list, tuple)):
            raise TypeError(
                f"states is a {type(states).__name__}, expected a list of one state per block"
            )
        if len(states) != len(self.blocks):
            raise ValueError(
                f"states has length {len(states)}, expected one state per block, {len(self.blocks)}"
            )
        return states


@dataclass(frozen=True, eq=False, repr=False)
class ModelStepper:
    """A :class:`SequenceModel` that runs one sample at a time, as it was when this was made.

    Made by ``model.stepper()``: a copy of the model in evaluation mode and without gradients, with
    the step of each layer computed once. It does not follow the model's parameters: after training
    on, make a new one. With Numba, a step on a CPU is one compiled call.

    Where samples arrive in chunks, ``model(u, states, return_state=True)`` on each chunk gives the
    same outputs: in chunks of 4096 samples 2.5 times as fast as compiled steps and 24 times
    as fast as steps in PyTorch (64 channels, two blocks, one thread).

    Example:
        >>> import torch
        >>> from ssm_core.network import SequenceModel
        >>> stepper = SequenceModel(1, 10, d_model=16, n_layers=2).stepper()
        >>> y, states = stepper.step(torch.randn(3, 1), stepper.default_state(3))
        >>> y.shape
        torch.Size([3, 10])
    """

    model: SequenceModel
    steppers: tuple[Any, ...]

    def step(
        self, u: Tensor, states: Sequence[Any], dt: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """One sample (b, d_input) and the states before it, to (y (b, d_output), states after it).

        ``dt`` (b,) is the time since the sample before, for layers that take it, as
        :class:`ssm_core.s4.S4D` does. Then each layer computes the step for this time, in PyTorch.
        """
        if dt is not None:
            with torch.no_grad():
                return self.model.step(u, states, dt)
        network = self._network
        if network is None:
            # A layer without a stepper has its fastest step where no gradient is asked for.
            with torch.no_grad() if None in self.steppers else contextlib.nullcontext():
                return self.model._step(u, states, self.steppers)
        self.model._check_input(u, "b")
        for state, stepper in zip(self.model._checked(states), self.steppers):
            check_state(state, len(u), stepper.recurrence.decay)
        if not _stepping.runs_compiled(u, *states) or u.dtype != self.model.encoder.weight.dtype:
            return self.model._step(u, states, self.steppers)
        return network(u, states, torch.promote_types(self.steppers[0].dtype, u.dtype))

    @functools.cached_property
    def _network(self) -> _stepping.NetworkStep | None:
        """What the compiled step reads, or None where it does not run."""
        plain = type(self.model) is SequenceModel and all(
            is_plain(block, Block) for block in self.model.blocks
        )
        if not plain or not all(type(stepper) is Stepper for stepper in self.steppers):
            return None
        return _stepping.pack_network(self.model, [stepper.systems for stepper in self.steppers])

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles pack their arrays anew."""
        return ModelStepper, (self.model, self.steppers)

    def default_state(self, batch_size: int) -> list[Tensor]:
        """The state before the first sample of each block."""
        return self.model.default_state(batch_size)

    def __repr__(self) -> str:
        return f"ModelStepper(blocks={len(self.steppers)})"
