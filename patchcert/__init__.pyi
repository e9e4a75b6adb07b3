"""The interface as type checkers see it; `INTERFACE` in __init__.py loads the same names when they are asked for."""

from patchcert.interface.certification import Certification as Certification
from patchcert.interface.certifying import certify as certify
from patchcert.interface.intervals import interval_bounds as interval_bounds
from patchcert.patch import Patch as Patch
from patchcert.smoothing.ablation import Band as Band
from patchcert.smoothing.ablation import BandAndRow as BandAndRow
from patchcert.smoothing.ablation import Block as Block
from patchcert.smoothing.ablation import MultiBand as MultiBand
from patchcert.smoothing.ablation import MultiBlock as MultiBlock
from patchcert.smoothing.ablation import Row as Row
from patchcert.smoothing.ablation import encode as encode
from patchcert.smoothing.classifiers import MaskedClassifier as MaskedClassifier
from patchcert.smoothing.classifiers import SmoothedClassifier as SmoothedClassifier
from patchcert.smoothing.columns import LinesNetwork as LinesNetwork
from patchcert.smoothing.windows import WindowPairs as WindowPairs
