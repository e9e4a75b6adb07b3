"""Where the weights of a network lie in anybody's checkpoint, and under which names."""

from collections.abc import Iterable, Mapping
from itertools import takewhile

from torch import Tensor

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Entries of averaged weights, with which those who keep them measure."""

ENTRIES = ("net", "state_dict", "model_state_dict", "model")

WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Attributes in which torch keeps a network that it wraps, to run or to compile or to average it."""

COUNTED = "num_batches_tracked"
"""Batches that a batch norm saw; older files do not count them, and no answer depends on them."""

AVERAGES = "n_averaged"
"""What torch's averages of a network count beside it."""


def entry(content: Mapping) -> str | None:
    """Under which name a checkpoint keeps its weights, the averaged ones if it has them; None if it consists of them.

    Anything else that lies beside them is the checkpoint's own.
    """
    found = (name for name in (*AVERAGED, *ENTRIES) if isinstance(content.get(name), Mapping) and content[name])
    return next(found, None)


def resolved(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by the names that a network has for them, where these differ by what wraps one of the two.

    Where nothing makes all names fit they come back as they are, or as nearly fitting as can be.

    Args:
        wanted: the network's `state_dict()`. Missing counts of batches are taken from it.
    """
    tensors = {name: tensor for name, tensor in found.items() if _unwrapped(name) != AVERAGES or name in wanted}
    unwrapped = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    named = [_moved(names, prefix) for names in (tensors, unwrapped) for prefix in _prefixes(names, wanted)]
    whole = [names for names in named if len(names) == len(tensors)]  # else two tensors would come to one name
    best = max([tensors, *whole], key=lambda names: _fitting(names, wanted))
    counts = {name: tensor for name, tensor in wanted.items() if name.endswith(COUNTED) and name not in best}
    return best | counts if _fitting(best, wanted) else dict(found)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefixes(found: Iterable[str], wanted: Iterable[str]) -> list[tuple[str, str]]:
    """What may be taken away before the names in a file, and what put there, so that some become those of a network."""
    prefixes = []
    for end in [*wanted][:1] + [*wanted][-1:]:
        shared = {name: _shared(name, end) for name in found}
        longest = max(shared.values(), default=0)
        nearest = [name for name, length in shared.items() if length == longest > 0]
        prefixes += [(name[: len(name) - longest], end[: len(end) - longest]) for name in nearest]
    return list(dict.fromkeys(prefixes))


def _shared(name: str, other: str) -> int:
    """Characters of the parts that two names end with alike."""
    count, parts = 0, zip(reversed(name.split(".")), reversed(other.split(".")), strict=False)
    for part, _ in takewhile(lambda pair: pair[0] == pair[1], parts):
        count += len(part) + 1
    return min(count, len(name), len(other))


def _moved(names: Mapping[str, Tensor], prefix: tuple[str, str]) -> dict[str, Tensor]:
    away, added = prefix
    return {f"{added}{name.removeprefix(away)}": tensor for name, tensor in names.items()}


def _fitting(names: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    """How many of a network's tensors there are of these names and of the right shape."""
    return sum(name in names and names[name].shape == tensor.shape for name, tensor in wanted.items())
