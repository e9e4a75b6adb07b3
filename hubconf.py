"""Networks that ship, for torch.hub: torch.hub.load(FOLDER_OR_REPOSITORY, "cifar10-bands-and-windows").

    torch.hub.load(".", "mnist-bands", source="local")

Each name takes the same argument as `patchcert.load`: a patch. `patchcert models` lists the names.
"""

from functools import partial as _partial

import patchcert as _patchcert
from patchcert.zoo.table import models as _models

dependencies = ["torch", "torchvision", "numpy", "tqdm"]

globals().update({_name: _partial(_patchcert.load, _name) for _name in _models()})
