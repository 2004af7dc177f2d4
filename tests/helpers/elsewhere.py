"""A GPU for machines without one: tensors that count as living there and compute on the CPU.

Inside `elsewhere` the device ``cuda`` exists. Its tensors report it, follow CUDA's rules of autocast, and
refuse what CUDA refuses: an operation with a tensor of the CPU, or a generator of the CPU. Whatever
would make a program wait for a real GPU is recorded as a `Sync`.

torch without CUDA has no kernels for such tensors, and its autograd needs a guard of their device. So
each is a wrapper around a tensor of the CPU: C++ takes it for one of XLA, which autograd does not
treat as an accelerator and CUDA's autocast accepts, with the guard of the device ``meta``, which does
nothing; Python is given CUDA's name. ``torch.Generator("cuda")`` and streams do not exist here.
"""

import contextlib
import ctypes
import functools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
_XLA = torch.device("xla:0")  # the same to C++
_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)
_ROOT = Path(__file__).resolve().parents[2]
_aten = torch.ops.aten

_VALUES = {_aten._local_scalar_dense, _aten.equal, _aten.allclose}
# Operations whose result has a size that only the values of a tensor tell.
_SIZES = {
    _aten.nonzero, _aten.masked_select, _aten._unique, _aten._unique2, _aten.unique_dim,
    _aten.unique_consecutive, _aten.bincount, _aten.repeat_interleave,
}  # fmt: skip
# Of tensors with one number, CUDA takes those of the CPU where it computes element by element.
_TAKES_NUMBERS = {_aten.fill_, _aten.index_put_, _aten.masked_fill, _aten.masked_fill_, _aten.where}
_COPIES = {_aten._to_copy, _aten.copy_}


class Sync(NamedTuple):
    """One wait of the program for the GPU."""

    kind: str  # "value", "size", "to the CPU", "to the GPU", "clock"
    where: str  # the function of the project that waits, as ``denoise.denoise``


class Remote(Tensor):
    """A tensor of the GPU; ``inner`` computes."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_XLA,
            requires_grad=inner.requires_grad,
            _extra_dispatch_keys=_KEYS,
        )

    def __init__(self, inner: Tensor):
        self.inner = inner.detach()

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_xla = property(lambda self: False)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")

    def __repr__(self, **_):
        return f"Remote({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} on a tensor of the GPU outside `elsewhere`")


@functools.cache
def _module(file: str) -> str | None:
    """The name of a module of the project, without its folders; None: of a library or a test.

    An environment may lie inside the project, as ``.venv`` does."""
    path = Path(file)
    inside = path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts
    own = inside and (len(inside) == 1 or inside[0] in ("diffusion", "studies"))
    return path.stem if own else None


class Ledger:
    """The waits so far, in their order."""

    def __init__(self):
        self.syncs: list[Sync] = []

    def note(self, kind: str) -> None:
        frame = sys._getframe(1)
        while frame is not None and not _module(frame.f_code.co_filename):
            frame = frame.f_back
        where = "a test"
        if frame is not None:
            where = f"{_module(frame.f_code.co_filename)}.{frame.f_code.co_qualname}"
        self.syncs.append(Sync(kind, where.replace(".<locals>", "").replace(".<genexpr>", "")))

    def take(self) -> Counter:
        """How often which waits occurred since the last call."""
        counted, self.syncs = Counter(self.syncs), []
        return counted


def _there(device) -> bool:
    """Whether a device, or its name, is the GPU."""
    return device is not None and str(device) in ("cuda", "cuda:0", "xla:0")


class _Names(TorchFunctionMode):
    """What Python calls ``cuda`` is XLA's device to C++."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and _there(kwargs.get("device")):
            del kwargs["device"]
            return function(*args, **kwargs).to(_XLA)
        if function is Tensor.new_tensor and isinstance(args[0], Remote):
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(_XLA)
        if function is Tensor.cuda:
            return args[0].to(_XLA)
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Remote):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = (torch.tensor(x).to(_XLA) if isinstance(x, list) else x for x in index)
            return function(args[0], tuple(index), *args[2:])

        args = [_XLA if isinstance(x, str | torch.device) and _there(x) else x for x in args]
        if _there(kwargs.get("device")):
            kwargs["device"] = _XLA
        return function(*args, **kwargs)


class _Kernels(TorchDispatchMode):
    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger

    @classmethod
    def _should_skip_dynamo(cls):  # to import it takes seconds
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target, of, others = kwargs.get("device"), {}, []
        inner = tuple(_unwrapped(x, of, others) for x in args)
        named = {name: _unwrapped(x, of, others) for name, x in kwargs.items()}
        there = bool(of) if target is None else target.type == "xla"
        if not of and not there:
            return function(*args, **kwargs)
        if _composed(function):  # inference mode leaves out the layer that takes them apart
            with self:
                return function.decompose(*args, **kwargs)
        kind = function.overloadpacket
        if of:
            self.check(function, kind, others)
        self.count(kind, args, kwargs, there)
        out = function(*inner, **named)
        view = of and function.is_view and not next(iter(of.values())).is_inference()

        def wrap(x):
            if isinstance(x, list | tuple):
                return type(x)(map(wrap, x))
            if not isinstance(x, Tensor) or not there:
                return x
            known = of.get(id(x))
            if known is None:
                # A view in inference mode of a tensor from outside it counts as one from outside.
                with torch.inference_mode(torch.is_inference_mode_enabled() and not view):
                    return Remote(x)
            if torch.Tag.inplace_view in function.tags:
                raise NotImplementedError(f"{function} would change the shape of a wrapper")
            return known

        return wrap(out)

    def check(self, function, kind, others: list[Tensor]) -> None:
        """Refuse what CUDA refuses."""
        if function.namespace != "aten":
            raise NotImplementedError(f"{function} has no kernel for CUDA")
        numbers = kind in _TAKES_NUMBERS or torch.Tag.pointwise in function.tags
        for x in others if kind not in _COPIES else ():
            if not (numbers and x.dim() == 0):
                raise RuntimeError(
                    f"{function}: expected all tensors to be on the same device, but found cuda:0 "
                    f"and a tensor of shape {tuple(x.shape)} on the CPU"
                )

    def count(self, kind, args, kwargs, there) -> None:
        """Record it where a real GPU would have to finish first."""
        if kind in _VALUES:
            self.ledger.note("value")
        elif kind in _SIZES and kwargs.get("output_size") is None:
            self.ledger.note("size")
        elif kind in (_aten.index, _aten.index_put, _aten.index_put_):
            masks = [x for x in args[1] if x is not None and x.dtype == torch.bool]
            # A number at the places of a mask needs no list of them.
            filled = kind is not _aten.index and len(masks) == 1 == args[2].numel()
            for _ in masks if not filled else ():
                self.ledger.note("size")
        elif kind in _COPIES and not kwargs.get("non_blocking"):
            source, goal = (args[0], there) if kind is _aten._to_copy else (args[1], args[0])
            goal = goal if isinstance(goal, bool) else isinstance(goal, Remote)
            if isinstance(source, Remote) != goal:
                self.ledger.note("to the GPU" if goal else "to the CPU")
        elif kwargs.get("generator") is not None:
            raise RuntimeError(f"{kind}: expected a 'cuda' device type for generator")


@functools.cache
def _composed(function) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        function.name(), "CompositeImplicitAutograd"
    )


def _unwrapped(x, of: dict, others: list):
    """What an operation on the CPU gets; ``of`` collects the tensors of the GPU by what is inside,
    ``others`` those of the CPU."""
    if isinstance(x, Remote):
        of[id(x.inner)] = x
        return x.inner
    if isinstance(x, list | tuple):
        return type(x)([_unwrapped(y, of, others) for y in x])
    if isinstance(x, Tensor):
        others.append(x)
    return CPU if isinstance(x, torch.device) and x.type == "xla" else x


def moved(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A module whose weights and buffers are put on the GPU, in place; what is tied stays tied."""
    done: dict[int, Tensor] = {}

    def there(x: Tensor) -> Tensor:
        if id(x) not in done:
            new = x.detach()
            if not isinstance(x, Remote):
                new = Remote(new.clone())
            if dtype is not None and x.is_floating_point():
                new = new.to(dtype)
            if isinstance(x, nn.Parameter):
                new = nn.Parameter(new, x.requires_grad)
            done[id(x)] = new
        return done[id(x)]

    for part in module.modules():
        for own in (part._parameters, part._buffers):
            own.update({name: there(x) for name, x in own.items() if x is not None})
    return module


def _to(module: nn.Module, *args, **kwargs) -> nn.Module:
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    if _there(device):
        return moved(module, dtype)
    return _module_to(module, *args, **kwargs)


_module_to = nn.Module.to


def by_place(waits: Counter) -> Counter:
    """How often each function of the project waits, whatever for."""
    places = Counter()
    for sync, count in waits.items():
        places[sync.where] += count
    return places


def beyond(places: Counter) -> dict[str, int]:
    """The functions that wait more often than the table in docs/architecture.md says."""
    page = (_ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+\.[\w.]+)` \| (\d+) \|", page, re.MULTILINE)
    known = {"a test": 1000} | {where: int(count) for where, count in rows}
    return {where: count for where, count in places.items() if count > known.get(where, 0)}


def here(x: Tensor) -> Tensor:
    """The numbers of a tensor for a test to look at, without waiting for them."""
    return x.inner if isinstance(x, Remote) else x


def _name_a_guard() -> None:
    """Give XLA the guard of ``meta``: torch's table of them has one entry for each type of device."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    table = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    xla, meta = 9, 14  # of c10::DeviceType
    table[xla] = table[xla] or table[meta]


@contextlib.contextmanager
def elsewhere() -> Iterator[Ledger]:
    """A place where there is a GPU; gives the `Ledger` of all that waits for it."""
    _name_a_guard()
    ledger = Ledger()

    def clock(device=None):
        ledger.note("clock")

    cuda = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "GPU of the tests",
        "set_device": lambda *_: None,
        "synchronize": clock,
    }
    with (
        mock.patch.multiple(torch.cuda, **cuda),
        # torch built for CUDA would ask the driver, before a step of Adam, for a graph in capture.
        mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None),
        mock.patch.object(nn.Module, "to", _to),
        # In this thread: torch keeps no thread for a device that it does not have.
        torch.autograd.set_multithreading_enabled(False),
        _Names(),
        _Kernels(ledger),
    ):
        yield ledger
