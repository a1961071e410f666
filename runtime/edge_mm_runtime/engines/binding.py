"""The binding plan: what memory a runner gives to each tensor of an engine.

It is computed from names, types and shapes only, so a parsed network gives the same plan as the
engine that is built from it, and no GPU is needed to know it. A tensor is

    input    copied from the caller
    output   copied to the caller
    state    the key/value cache, which stays on the device: an input and the output that updates it

TensorRT itself says which state is updated in place: the output of a KVCacheUpdate layer is the
memory of its cache input, and both must have one address. Any other output may be written while
the inputs are still read (https://github.com/NVIDIA/TensorRT/issues/4681), so that the state of
target tensorrt-10.3, whose graphs scatter by ordinary operators, has two buffers that swap roles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from edge_mm_runtime.bundle import DecoderGeometry
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.profiles import Profile
from edge_mm_runtime.runner import TensorSpec

Role = Literal["input", "output", "state"]
Shape = tuple[int, ...]

_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
_STATE_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "FP8": 1}


class Tensor(NamedTuple):
    """An input or output as TensorRT describes it.

    dtype    TensorRT's name, e.g. HALF
    shape    -1 where a dimension is open
    on_host  whether TensorRT reads or writes it on the host, since it decides shapes
    alias    of an output: the input whose memory it is
    """

    name: str
    dtype: str
    shape: Shape
    is_input: bool
    on_host: bool = False
    alias: str | None = None


class Binding(NamedTuple):
    """One tensor's memory; `shape` is its greatest, `bytes` suffice for it.

    spec      what the caller gives or gets; None for state, which never leaves the device
    of        of state: the input of its pair
    in_place  of state: whether both of the pair have one address
    """

    name: str
    dtype: str
    shape: Shape
    bytes: int
    role: Role
    place: Literal["device", "host"]
    spec: TensorSpec | None = None
    of: str | None = None
    in_place: bool = False


def cache_state(geometry: DecoderGeometry) -> dict[str, str]:
    """The decoder's state: each cache input and the output that updates it."""
    return {
        f"past_key_values.{layer}.{part}": f"present.{layer}.{part}"
        for layer in range(geometry.layers)
        for part in ("key", "value")
    }


def network_tensors(network: Any) -> tuple[Tensor, ...]:
    """Inputs and outputs of a parsed network (INetworkDefinition)."""
    aliases = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "KV_CACHE_UPDATE":
            aliases[layer.get_output(0).name] = layer.get_input(0).name

    def tensor(item: Any, is_input: bool) -> Tensor:
        shape, alias = tuple(item.shape), aliases.get(item.name)
        return Tensor(item.name, item.dtype.name, shape, is_input, item.is_shape_tensor, alias)

    return (
        *(tensor(network.get_input(index), True) for index in range(network.num_inputs)),
        *(tensor(network.get_output(index), False) for index in range(network.num_outputs)),
    )


def engine_tensors(engine: Any) -> tuple[Tensor, ...]:
    """Inputs and outputs of an engine (ICudaEngine)."""
    # TensorRT 10.15 brought it together with the layer whose output is an alias.
    aliased = getattr(engine, "get_aliased_input_tensor", lambda name: None)

    def tensor(name: str) -> Tensor:
        is_input = engine.get_tensor_mode(name).name == "INPUT"
        return Tensor(
            name,
            engine.get_tensor_dtype(name).name,
            tuple(engine.get_tensor_shape(name)),
            is_input,
            engine.get_tensor_location(name).name == "HOST",
            None if is_input else aliased(name) or None,
        )

    return tuple(tensor(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors))


def plan_bindings(
    tensors: Sequence[Tensor],
    profiles: Sequence[Profile],
    state: Mapping[str, str],
    outputs: Mapping[str, Shape] | None = None,
) -> tuple[Binding, ...]:
    """The memory of every tensor, in the order of `tensors`.

    profiles  say how large an open dimension of an input can be
    state     see `cache_state`
    outputs   the greatest shapes of outputs with open dimensions, of which only TensorRT knows
    Raises EngineError for a state that the engine has not, an unknown type or an open dimension.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    _check_state(by_name, state)
    owners = {**{past: past for past in state}, **{new: past for past, new in state.items()}}
    greatest = {**greatest_shapes(profiles), **(outputs or {})}

    def binding(tensor: Tensor) -> Binding:
        name, dtype, shape = tensor.name, tensor.dtype, greatest.get(tensor.name, tensor.shape)
        if -1 in shape:
            raise EngineError(
                f"{name} is {list(tensor.shape)} and no profile of the engine says how large it "
                "gets: run `edge-mm build` again"
            )
        past = owners.get(name)
        if past is not None:
            size = math.prod(shape) * _STATE_BYTES[dtype]
            in_place = by_name[state[past]].alias == past
            return Binding(name, dtype, shape, size, "state", "device", of=past, in_place=in_place)
        if dtype not in _DTYPES:
            raise EngineError(
                f"{name} has type {dtype}, which numpy has not: export the bundle again"
            )
        spec = TensorSpec(_DTYPES[dtype], tuple(None if n == -1 else n for n in tensor.shape))
        size = math.prod(shape) * np.dtype(spec.dtype).itemsize
        role: Role = "input" if tensor.is_input else "output"
        return Binding(name, dtype, shape, size, role, "host" if tensor.on_host else "device", spec)

    return tuple(binding(tensor) for tensor in tensors)


def greatest_shapes(profiles: Sequence[Profile]) -> dict[str, Shape]:
    """The greatest shape of each open input, over all profiles."""
    found: dict[str, Shape] = {}
    for profile in profiles:
        for name, span in profile.shapes.items():
            before = found.get(name, span.greatest)
            found[name] = tuple(map(max, before, span.greatest))
    return found


def _check_state(tensors: Mapping[str, Tensor], state: Mapping[str, str]) -> None:
    for past, new in state.items():
        old, updated = tensors.get(past), tensors.get(new)
        if old is None or updated is None or not old.is_input or updated.is_input:
            raise EngineError(f"the engine has no state {past} -> {new}: run `edge-mm build` again")
        if (old.dtype, old.shape) != (updated.dtype, updated.shape) or -1 in old.shape:
            raise EngineError(
                f"state {past} is {old.dtype}{list(old.shape)} and its update {new} is "
                f"{updated.dtype}{list(updated.shape)}: export the bundle again"
            )
        if old.dtype not in _STATE_BYTES:
            raise EngineError(f"state {past} has type {old.dtype}: export the bundle again")
    for tensor in tensors.values():
        if tensor.alias is not None and state.get(tensor.alias) != tensor.name:
            raise EngineError(
                f"{tensor.name} is the memory of {tensor.alias}, which is no state of the decoder: "
                "export the bundle again"
            )
