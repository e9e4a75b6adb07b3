"""The interface as type checkers see it; `INTERFACE` in __init__.py loads the same names when they are asked for."""

from patchcert.ablations.ablation import Band as Band
from patchcert.ablations.ablation import BandAndRow as BandAndRow
from patchcert.ablations.ablation import Block as Block
from patchcert.ablations.ablation import Row as Row
from patchcert.ablations.ablation import encode as encode
from patchcert.ablations.choices import MultiBand as MultiBand
from patchcert.ablations.choices import MultiBlock as MultiBlock
from patchcert.ablations.hidden_windows import HiddenWindows as HiddenWindows
from patchcert.ablations.windows import WindowPairs as WindowPairs
from patchcert.classifiers.masked import MaskedClassifier as MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier as SmoothedClassifier
from patchcert.classifiers.window_masked import WindowMaskedClassifier as WindowMaskedClassifier
from patchcert.engines.columns import LinesNetwork as LinesNetwork
from patchcert.engines.plain import PlainNetwork as PlainNetwork
from patchcert.interface.attacking import Attacked as Attacked
from patchcert.interface.attacking import attack as attack
from patchcert.interface.certification import Certification as Certification
from patchcert.interface.certifying import certify as certify
from patchcert.interface.intervals import interval_bounds as interval_bounds
from patchcert.patch import Patch as Patch
from patchcert.patch_sizes import Area as Area
from patchcert.patch_sizes import Share as Share
from patchcert.zoo.loading import load as load

__version__: str
