"""Whether a network computes what its layers' classes say, as all that reads networks instead of running them presumes.

The windowed engine and interval bounds take a layer's weights and do by themselves what its class does, and torch.fx
calls the `forward` that a class has. Of a hook, of a method that was set on one layer alone, of a class of torch's that
somebody has changed, they would know nothing, and certify another function than the one that answers.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as every_module

CALLING = ("__call__", "_wrapped_call_impl", "_call_impl")
"""The methods by which a module calls its own `forward` and its hooks."""

COMPUTING = ("forward", "_conv_forward")
"""The methods by which torch's layers compute."""

FUNCTIONS = ("conv2d", "linear", "relu", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
"""The functions of `torch.nn.functional` by which torch's layers compute."""

HARMLESS = {"__init__", "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__static_attributes__"}
HARMLESS |= {"__firstlineno__", "__getstate__", "__deepcopy__", "__constants__", "extra_repr", "reset_parameters"}
"""What a class may define anew without computing anything else than the class that it is derived from."""

PLAIN = {Tensor, nn.Parameter}
"""Tensors that are multiplied as tensors are; others, of quantised weights for instance, in ways of their own."""

TORCH = str(Path(torch.__file__).parent) + os.sep


def unwritten(network: nn.Module) -> str | None:
    """What `network` or a part of it computes besides what its class says, in words; None where there is nothing."""
    return next(_everything_unwritten(network), None)


def of_its_own(part: nn.Module, kind: type[nn.Module]) -> str | None:
    """The name of something in `kind` that the class of `part`, derived from it, defines anew; None if nothing."""
    derived = type(part).__mro__[: type(part).__mro__.index(kind)]
    return min({name for base in derived for name in vars(base) if hasattr(kind, name)} - HARMLESS, default=None)


def added_to(part: nn.Module, where: str) -> Iterator[str]:
    """Yield the hooks and methods that this `part` alone has, in words; `where` says in words where they are."""
    for kind, hooks in (("hook", part._forward_hooks), ("pre-hook", part._forward_pre_hooks)):
        yield from (f"a forward {kind}, {_name_of(hook)}, {where}" for hook in hooks.values())
    yield from (f"a `{method}` set {where}" for method in vars(part) if _hides_method(part, method))


def added_to_all() -> Iterator[str]:
    """Yield, in words, that all modules that there are have a hook."""
    if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
        yield "a forward hook on all modules that there are"


def _everything_unwritten(network: nn.Module) -> Iterator[str]:
    yield from added_to_all()
    yield from (f"a `{name}` that is not torch's" for name in FUNCTIONS if not _is_function_of_torch(name))
    for name, part in network.named_modules():
        where = f"on {name}, a {type(part).__name__}" if name else f"on the network, a {type(part).__name__}"
        yield from added_to(part, where)
        yield from (f"a `{method}` that is not torch's {where}" for method in _changed_methods(type(part)))
        yield from (f"a weight that is a {kind.__name__} {where}" for kind in _kinds_of_tensors(part) - PLAIN)


def _hides_method(part: nn.Module, name: str) -> bool:
    """Whether what is set on `part` by this `name` stands before a method of its class."""
    return inspect.isroutine(getattr(type(part), name, None))


def _changed_methods(kind: type[nn.Module]) -> Iterator[str]:
    """The methods that call the class `kind`, and of torch's classes those that compute, where they are not torch's."""
    for name in CALLING:
        if getattr(kind, name) is not getattr(nn.Module, name) or not _is_of_torch(getattr(nn.Module, name)):
            yield name
    if kind.__module__.startswith("torch."):
        yield from (name for name in COMPUTING if hasattr(kind, name) and not _is_of_its_class(kind, name))


def _is_of_its_class(kind: type[nn.Module], name: str) -> bool:
    """Whether a method is torch's and was written for `kind` or a class that it is derived from, not for another."""
    method, own = getattr(kind, name), {f"{base.__qualname__}.{name}" for base in kind.__mro__}
    return _is_of_torch(method) and (method is nn.Module.forward or method.__qualname__ in own)


def _is_function_of_torch(name: str) -> bool:
    function = getattr(F, name)
    of_torch = isinstance(function, BuiltinFunctionType) or _is_of_torch(function)
    return of_torch and function.__name__ == name


def _is_of_torch(method: Callable) -> bool:
    code = getattr(method, "__code__", None)
    return code is not None and code.co_filename.startswith(TORCH)


def _kinds_of_tensors(part: nn.Module) -> set[type]:
    tensors = (*part._parameters.values(), *part._buffers.values(), *vars(part).values())
    return {type(tensor) for tensor in tensors if isinstance(tensor, Tensor)}


def _name_of(hook: Callable) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)
