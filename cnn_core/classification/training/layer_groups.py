"""Groups of a network's layers, from the input to the head, for what differs by depth.

They serve learning rates that fall with the distance from the head (Howard and Ruder, 2018), freezing, and gradual
unfreezing. Modules are in the order of their registration, which in feed-forward networks is that of computation.
Stages (resnet) or blocks (squeezenet) are the groups; neighbours share one where there are many.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from itertools import groupby

from torch import nn

_MOST_GROUPS = 12
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_FEWEST_TRUNK_GROUPS = 3  # with fewer, the largest is cut further where it has parts

_Owner = tuple[str, nn.Module]  # a module that has parameters or buffers of its own, by its full name


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unit:
    """Modules that stay together."""

    name: str  # of the smallest part of the network that holds them
    owners: list[_Owner]

    @property
    def size(self) -> int:
        return sum(p.numel() for _, module in self.owners for p in module.parameters(recurse=False))

    @property
    def only_vectors(self) -> bool:
        """Whether this is a norm alone, which belongs to the layer before."""
        return all(p.ndim <= 1 for _, module in self.owners for p in module.parameters(recurse=False))

    def can_be_cut(self) -> bool:
        return any(name.startswith(f"{self.name}.") for name, _ in self.owners)


def layer_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """Every parameter once, in about 3 to 12 groups from the input to the head; the last group is the head alone."""
    seen: set[int] = set()
    groups = []
    for modules in group_modules(network):
        parameters = [p for module in modules for p in module.parameters(recurse=False)]
        groups.append([p for p in parameters if id(p) not in seen])
        seen |= {id(p) for p in parameters}
    return groups


def group_modules(network: nn.Module) -> list[list[nn.Module]]:
    """The groups of `layer_groups` as the modules that own the parameters and the buffers.

    Layers of a classifier before the head are groups of their own.
    """
    owners = _owners(network)
    head = head_name(network)
    parent = head.rpartition(".")[0]
    cut = {"", *(head[:at] for at, letter in enumerate(head) if letter == ".")}  # the head must stand alone
    while True:
        *units, last = _units(owners, cut, head)
        classifier = [unit for unit in units if parent and unit.name.startswith(f"{parent}.")]
        trunk = [unit for unit in units if unit not in classifier]
        largest = max((unit for unit in trunk if unit.can_be_cut()), key=lambda unit: unit.size, default=None)
        if len(trunk) >= _FEWEST_TRUNK_GROUPS or largest is None:
            break
        cut.add(largest.name)
    groups = _shared(trunk, max(_FEWEST_TRUNK_GROUPS, _MOST_GROUPS - len(classifier) - 1))
    return [[module for _, module in owners] for owners in [*groups, *(u.owners for u in classifier), last.owners]]


def head_name(network: nn.Module) -> str:
    """The full name of the layer that makes the logits, which is the last layer with parameters."""
    return [name for name, module in network.named_modules() if any(True for _ in module.parameters(recurse=False))][-1]


def keep_statistics(modules: Iterable[nn.Module]) -> None:
    """Make the batch norms of frozen groups use and keep their statistics; call it after every ``network.train()``."""
    for module in modules:
        if isinstance(module, _BATCH_NORMS):
            module.eval()


def _owners(network: nn.Module) -> list[_Owner]:
    return [
        (name, module)
        for name, module in network.named_modules()
        if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))
    ]


def _units(owners: list[_Owner], cut: set[str], head: str) -> list[_Unit]:
    """Runs of modules within one part of the network; parts in ``cut`` are divided, and the last unit is the head."""

    def part(owner: _Owner) -> str:
        pieces = owner[0].split(".")
        prefixes = (".".join(pieces[:count]) for count in range(1, len(pieces) + 1))
        return next((prefix for prefix in prefixes if prefix not in cut), owner[0])

    units: list[_Unit] = []
    pending: list[_Owner] = []  # for the next unit
    for name, run in groupby(owners, part):
        unit = _Unit(name=name, owners=[*pending, *run])
        pending = []
        if name != head and (name in cut or (unit.only_vectors and not units)):
            pending = unit.owners  # the parameters of a divided part itself (an embedding), or a norm of the input
        elif name != head and unit.only_vectors:
            units[-1] = dataclasses.replace(units[-1], owners=units[-1].owners + unit.owners)
        else:
            units.append(unit)
    return units


def _shared(units: list[_Unit], most: int) -> list[list[_Owner]]:
    """Join neighbours into at most ``most`` groups of equal length; the first group takes the remainder."""
    size = max(1, math.ceil(len(units) / most))
    ends = sorted(range(len(units), 0, -size))
    return [[owner for unit in units[max(0, end - size) : end] for owner in unit.owners] for end in ends]
