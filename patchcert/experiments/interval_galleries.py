"""What `--report` shows of networks trained with interval bounds."""

from argparse import Namespace

from torch import Tensor, nn

from patchcert.cli import configuration
from patchcert.data.dataset import Dataset
from patchcert.experiments import reporting
from patchcert.intervals import evaluation
from patchcert.intervals.config import Model
from patchcert.intervals.rounding import sums_of_products
from patchcert.reports.exhibits import MOST_IMAGES, Gallery, Views


def of_model(
    options: Namespace, model: Model, network: nn.Sequential, images: Dataset, verdicts: evaluation.Verdicts
) -> Gallery:
    """The gallery of one model of `options.experiment`, trained with interval bounds."""
    config, asked = options.experiment, options.experiment.eval_params.method_params
    patch = None if asked.sparse else asked.patch

    def look(chosen: Tensor) -> Views:
        spots, pixels = None, images.images[chosen]
        if patch:
            with sums_of_products():
                answers = verdicts.predicted[chosen]
                spots = evaluation.leads_by_place(network, pixels / 255, answers, config, options.bytes)
        return Views(pixels, spots)

    about = f"{model.model_id}, {config.evaluated_against}"
    subject = reporting.Subject(about, "", patch, look, unit="logits")
    classes, most = reporting.class_names(configuration(options)), MOST_IMAGES // len(options.models)
    return reporting.gallery(subject, images, verdicts.columns(), classes, most)
