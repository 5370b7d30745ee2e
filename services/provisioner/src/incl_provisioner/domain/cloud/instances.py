"""What an experiment asks for, as machines: a type, a GPU by its short name, or only cores, memory and GPUs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from incl_provisioner.domain.cloud.machines import GIB, Gpu, Machine, MachineTable, Shape
from incl_shared.errors import InvalidInput

_PLUS = re.compile(r"^(?P<machine>[a-z0-9-]{1,63})\+(?P<gpu>[a-z0-9-]{1,63})(?:[:x](?P<count>\d{1,3}))?$")
_GPU = re.compile(r"^(?:(?P<before>\d{1,3})x)?(?P<gpu>[a-z][a-z0-9-]{0,62}?)(?:[:x](?P<count>\d{1,3}))?$")
_HINT = "name a machine type (n2-standard-8, a2-highgpu-1g), or a GPU and how many: t4, a100:8, h100x8"
_SHOWN = 8
AUTO = "auto"
"""What stands for: the cheapest machine that has what is needed."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one node needs: cores, bytes of memory, GPUs."""

    cpu: float = 1.0
    memory: int = 0
    gpus: int = 0


Price = Callable[[Shape], float | None]
"""What an hour of it costs where it is the cheapest; none where that is not known."""


def resolve(text: str | None, need: Need, table: MachineTable, price: Price) -> tuple[Shape, ...]:
    """The machines that do, the cheapest first: one for a type, several for a GPU or for needs alone.

    Those whose price is not known come last, the smallest first.

    Raises:
        InvalidInput: nothing is called so (with what was probably meant), or what is called so is too small.
    """
    if text is None or text.strip().lower() == AUTO:
        shapes = [shape for shape in _every(table) if _fits(shape, need) and (need.gpus or not shape.gpus)]
        if not shapes:
            raise InvalidInput(f"no machine has {_need_text(need)}", hint=_largest(table, need))
        return _sorted(shapes, price)
    word = text.strip().lower()
    machine = table.machines.get(word)
    if machine is not None:
        return (_checked(Shape(machine, machine.gpu, machine.gpus), need),)
    plus = _PLUS.match(word)
    if plus is not None:
        return (_checked(_attached(plus, table, text), need),)
    asked = _GPU.match(word)
    gpu = table.by_alias.get(asked["gpu"]) if asked is not None else None
    if asked is None or gpu is None:
        raise _unknown(text, word, table)
    count = int(asked["before"] or asked["count"] or max(1, need.gpus))
    return _sorted(_with_gpu(gpu, count, need, table), price)


def _with_gpu(gpu: Gpu, count: int, need: Need, table: MachineTable) -> list[Shape]:
    if need.gpus > count:
        raise InvalidInput(
            f"resources.gpu is {need.gpus}, but the instance has {count} of {gpu.names[0]}",
            hint=f"write instance: {gpu.names[0]}:{need.gpus}, or leave resources.gpu out",
        )
    counts = sorted({shape.gpus for shape in _every(table) if shape.gpu is gpu})
    shapes = [shape for shape in _every(table) if shape.gpu is gpu and shape.gpus == count]
    if not shapes:
        choices = ", ".join(f"{gpu.names[0]}:{each}" for each in counts)
        raise InvalidInput(
            f"{gpu.names[0]} comes in machines of {_or(counts)}, not of {count}", hint=f"write {choices}"
        )
    fitting = [shape for shape in shapes if _fits(shape, need)]
    if not fitting:
        most = max(shapes, key=lambda shape: (shape.machine.cores, shape.machine.memory))
        raise InvalidInput(
            f"no machine with {gpu.names[0]}:{count} has {_need_text(need)}", hint=f"the largest: {_size(most)}"
        )
    return fitting


def _attached(plus: re.Match[str], table: MachineTable, text: str) -> Shape:
    machine, gpu = table.machines.get(plus["machine"]), table.by_alias.get(plus["gpu"])
    if machine is None:
        raise _unknown(text, plus["machine"], table)
    if gpu is None:
        raise _unknown(text, plus["gpu"], table)
    if not _takes(machine, gpu):
        brings = f"; machines that bring it: {gpu.names[0]}" if not gpu.attached else f"; {_or(gpu.families)} takes it"
        raise InvalidInput(f"{gpu.names[0]} cannot be attached to {machine.name}{brings}", hint=_HINT)
    shape = Shape(machine, gpu, int(plus["count"] or 1))
    if shape.gpus not in gpu.guest:
        raise InvalidInput(
            f"{shape.gpus} of {gpu.names[0]} cannot be attached", hint=f"it can be {_or(sorted(gpu.guest))} of them"
        )
    if not _within(shape):
        cores, memory = gpu.guest[shape.gpus]
        raise InvalidInput(
            f"{machine.name} is too large for {shape.gpus} of {gpu.names[0]}",
            hint=f"at most {cores} cores and {memory // GIB} GiB",
        )
    return shape


def _checked(shape: Shape, need: Need) -> Shape:
    """A shape that was named, if it has what is needed."""
    if not _has(shape, need):
        raise InvalidInput(
            f"instance {shape.name} has {_size(shape)}, but {_need_text(need)} was asked for",
            hint="name a larger one, or ask for less under resources",
        )
    return shape


def _every(table: MachineTable) -> Iterator[Shape]:
    """Every machine, and every one with every GPU that may be attached to it."""
    guests = [gpu for gpu in table.gpus.values() if gpu.attached]
    for machine in table.machines.values():
        yield Shape(machine, machine.gpu, machine.gpus)
        for gpu in guests:
            if _takes(machine, gpu):
                yield from (shape for count in gpu.guest if _within(shape := Shape(machine, gpu, count)))


def _takes(machine: Machine, gpu: Gpu) -> bool:
    return machine.gpu is None and machine.family in gpu.families


def _within(shape: Shape) -> bool:
    """Whether the machine is not too large for so few attached GPUs."""
    if shape.gpu is None:
        return True
    cores, memory = shape.gpu.guest[shape.gpus]
    return shape.machine.cores <= cores and shape.machine.memory <= memory


def _has(shape: Shape, need: Need) -> bool:
    machine = shape.machine
    return machine.cores >= need.cpu and machine.memory >= need.memory and shape.gpus >= need.gpus


def _fits(shape: Shape, need: Need) -> bool:
    """Whether it has what is needed, and enough beside its GPUs: nobody who asks for a T4 means one core."""
    if not _has(shape, need):
        return False
    gpu, machine = shape.gpu, shape.machine
    if gpu is None or not gpu.attached:
        return True
    return machine.cores >= gpu.cores_each * shape.gpus and machine.memory >= gpu.memory_each * shape.gpus


def _sorted(shapes: Iterable[Shape], price: Price) -> tuple[Shape, ...]:
    priced = [(price(shape), shape) for shape in shapes]
    priced.sort(key=lambda pair: _order(*pair))
    return tuple(shape for _, shape in priced)


def _order(cost: float | None, shape: Shape) -> tuple[bool, float, int, int, str]:
    return (cost is None, cost or 0.0, shape.machine.cores, shape.machine.memory, shape.name)


def _unknown(text: str, word: str, table: MachineTable) -> InvalidInput:
    bare = re.split(r"[:+]", word)[0]
    names = [*table.machines, *table.by_alias]
    close = difflib.get_close_matches(bare, names, n=3, cutoff=0.6)
    hint = f"did you mean {_or(close)}?" if close else _HINT
    return InvalidInput(f"there is no instance {text[:80]!r}", hint=hint)


def _largest(table: MachineTable, need: Need) -> str:
    shapes = [shape for shape in _every(table) if shape.gpus >= need.gpus]
    if not shapes:
        widest = max(table.machines.values(), key=lambda machine: machine.gpus)
        return f"the most GPUs in one machine: {widest.gpus} ({widest.name}); use more nodes"
    by_cores = all(shape.machine.cores < need.cpu for shape in shapes)
    sizes = [(shape.machine.cores, shape.machine.memory) for shape in shapes]
    most = shapes[max(range(len(shapes)), key=lambda at: sizes[at] if by_cores else sizes[at][::-1])]
    return f"the largest: {_size(most)} ({most.name}); use more nodes"


def _need_text(need: Need) -> str:
    parts = [f"{need.cpu:g} core{'s' if need.cpu != 1 else ''}"]
    if need.memory:
        parts.append(f"{need.memory / GIB:.4g} GiB")
    if need.gpus:
        parts.append(f"{need.gpus} GPU{'s' if need.gpus > 1 else ''}")
    return ", ".join(parts)


def _size(shape: Shape) -> str:
    return _need_text(Need(shape.machine.cores, shape.machine.memory, shape.gpus))


def _or(words: Iterable[object]) -> str:
    shown: Sequence[str] = [str(word) for word in words][:_SHOWN]
    return ", ".join(shown[:-1]) + (" or " if len(shown) > 1 else "") + shown[-1]
