"""Networks as a user's own module makes them: test_any_network.py copies this file into a folder."""

import torch
from sizes_of_mine import WIDTH
from torch import nn


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH, 10))


def of_colour():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(6, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))
    network[3].weight.data *= 30
    return network


def negated():
    network = of_colour()
    network.register_forward_hook(lambda module, copies, logits: -logits)
    return network


def normalised():
    network = of_colour()
    network[0].register_forward_pre_hook(lambda module, copies: ((copies[0] - 0.4) / 0.2,))
    return network


class SeesTraces(nn.Module):
    """Looks at what it is given, and so is another function where it is traced."""

    def __init__(self):
        super().__init__()
        self.network = of_colour()

    def forward(self, copies):
        return self.network(copies if isinstance(copies, torch.Tensor) else 1 - copies)


def noisy():
    network = of_colour()
    network.register_forward_hook(lambda module, copies, logits: logits + 1e-3 * torch.randn_like(logits))
    return network


class InHalf(nn.Module):
    """Computes in bfloat16, and says nothing of it."""

    def __init__(self):
        super().__init__()
        self.network = of_colour().bfloat16()

    def forward(self, copies):
        return self.network(copies.bfloat16()).float()


class Columns(nn.Module):
    """Of each band of two columns its own logits."""

    limited_reach = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, (12, 2))

    def forward(self, images):
        wrapped = torch.cat([images, images[..., :1]], dim=3)
        return self.layer(wrapped)[:, :, 0].transpose(1, 2)


class Wide(Columns):
    """Begins with saying nothing, and looks at four columns."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, (12, 4))
        nn.init.zeros_(self.layer.weight)

    def forward(self, images):
        wrapped = torch.cat([images, images[..., :3]], dim=3)
        return self.layer(wrapped)[:, :, 0].transpose(1, 2)


class Made:
    columns = Columns


def images_only():
    return nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Flatten(), nn.Linear(196, 10))


def of_neither():
    return nn.Sequential(nn.Conv2d(5, 4, 4, 4), nn.Flatten(), nn.Linear(196, 10))


def of_five():
    return nn.Sequential(nn.Flatten(), nn.Linear(1568, 5))


class Through(nn.Module):
    """Asks the small network of what a function makes of copies."""

    def __init__(self, function):
        super().__init__()
        self.function, self.network = function, small()

    def forward(self, copies):
        return self.network(self.function(copies))


def rounding():
    return Through(torch.round)


def without_gradient():
    return Through(torch.Tensor.detach)


def of_probabilities():
    return nn.Sequential(small(), nn.Softmax(dim=1))


def exported():
    return torch.export.export(small().eval(), (torch.rand(1, 2, 28, 28),)).module()


def broken():
    raise RuntimeError("out of order")


def number():
    return 3


class Noted(nn.Linear):
    """Has something to say besides its weights."""

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


def noted():
    return nn.Sequential(nn.Flatten(), Noted(1568, 10))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def quantised():
    return torch.ao.quantization.quantize_dynamic(small(), {nn.Linear})


def quantised_weight():
    network = small()
    network.register_buffer("weights", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    return network


class Kind(torch.Tensor):
    """As packages have them that quantise."""


def of_a_kind():
    network = small()
    network.register_buffer("kept", torch.ones(3).as_subclass(Kind))
    return network


def without_memory():
    with torch.device("meta"):
        return small()
