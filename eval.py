"""Compute certified and clean error of networks from train.py: a certified answer stays right whatever a patch shows.

    python eval.py --config config/mnist_robtrain_p22_all.json --model_subset 0
    python eval.py --config config/mnist_robtrain_p22_all.json models_path=DIR --output errors.json
    python eval.py --config config/mnist_robtrain_p22_all.json eval_params:method_params:patch_w=1
    python eval.py --config config/mnist_robtrain_k4_sparse.json eval_params:method_params:k=6

Reads MODEL_ID_best.pth if there is one, else MODEL_ID.pth. Bounds are checked at every place of the patch. If
eval_params:method_params lacks attack_type, bound_type, patch_w, patch_l or k, that of training is used. Configs with
`method: adv` take the first `sample_limit` images and attack them, too; they fail if a certified answer flips.
"""

import argparse

from patchcert import checkpoint, cli, distributed, messages, result_format, results
from patchcert.data import named
from patchcert.experiments import interval_galleries, reporting
from patchcert.experiments.evaluation import add_limit, add_outputs, add_skip, first
from patchcert.files import what_fits
from patchcert.intervals import arguments, evaluation
from patchcert.intervals.rounding import sums_of_products
from patchcert.journal import Journal
from patchcert.reports.exhibits import Gallery, Run


def main() -> None:
    parser = arguments.shared_parser(__doc__)
    add_skip(parser)
    add_limit(parser)
    add_outputs(parser)
    options = arguments.parse(parser)
    config, models, image_rows, galleries = options.experiment, [], [], []
    dataset = named.load(config.dataset, options.data, train=False)
    total = len(dataset)
    shape = dataset.images.shape[1:]
    networks = [evaluation.trained(config, model, options.folder, shape, named.CLASSES) for model in options.models]
    most = config.eval_params.method_params.sample_limit if config.eval_params.method == "adv" else None
    dataset = dataset.take(slice(None, None, options.skip))
    dataset = first(options, dataset, cli.configuration(options), most).to(options.device)
    distributed.require_images(len(dataset))
    weights = checkpoint.fingerprint(tensor for network, _ in networks for tensor in network.state_dict().values())
    with Journal.of_run(options, weights=weights, images=dataset.fingerprint()) as journal:
        for model, (network, origin) in zip(options.models, networks, strict=True):
            started = journal.seconds()
            with sums_of_products():
                verdicts = evaluation.verdicts(network.to(options.device), dataset, config, options.bytes, journal)
                if config.eval_params.method == "adv":
                    verdicts = evaluation.attacked(network, dataset, config, verdicts, options.seed, journal)
            errors = evaluation.errors(verdicts, dataset.labels, journal.seconds() - started)
            models.append({"model_id": model.model_id} | errors | origin)
            image_rows += results.image_rows(dataset, [({"model_id": model.model_id}, verdicts.columns())])
            if options.report and distributed.is_first():
                galleries.append(interval_galleries.of_model(options, model, network, dataset, verdicts))
        arithmetic = results.computed_with("float32", "intervals", journal.processors)
        if distributed.is_first():
            about = f"{options.config.stem}: {evaluation.about(config, len(dataset), total)}"
            write_and_print(options, about, models, arithmetic, image_rows, galleries)


def write_and_print(
    options: argparse.Namespace,
    about: str,
    models: list[dict],
    arithmetic: dict,
    image_rows: list[dict],
    galleries: list[Gallery],
) -> None:
    """What was found of each model; `about` says of which images."""
    summary = evaluation.summary(models)
    against = result_format.stamp("evaluate") | {"evaluated_against": options.experiment.eval_params.against()}
    record = against | {"models": models, "summary": summary, "config": cli.configuration(options)}
    record |= {"arithmetic": arithmetic, "environment": results.environment()}
    with what_fits() as attempt:
        if options.output:
            attempt(results.write_json, record, options.output)
        if options.per_image:
            attempt(results.write_csv, image_rows, options.per_image)
        if options.report:
            attempt(reporting.write, options.report, [Run(options.config.stem, about, record, galleries)])
        messages.print_models(about, models, summary)


if __name__ == "__main__":
    cli.run(main)
