"""Training and evaluating networks with interval bounds, as options and a config describe it."""

import argparse

import torch

from patchcert import checkpoint, cli, distributed, messages, result_format, results
from patchcert.arithmetic import emulates_bfloat16, exact_float32
from patchcert.data import named, splits
from patchcert.data.dataset import Dataset
from patchcert.epochs import no_other_run
from patchcert.errors import UsageError
from patchcert.experiments import interval_galleries, reporting
from patchcert.experiments.evaluation import first
from patchcert.files import what_fits
from patchcert.intervals import arguments, evaluation, training
from patchcert.intervals.rounding import sums_of_products
from patchcert.journal import Journal
from patchcert.reports.exhibits import Gallery, Run


def train_with_bounds(options: argparse.Namespace) -> None:
    """Train the models that the options of train.py name."""
    if options.resume and len(options.models) != 1:
        raise UsageError("resume", options.resume, "goes with one model: choose it with --model_subset")
    arguments.require_models_folder(options.folder)
    if options.amp and emulates_bfloat16(options.device) and distributed.is_first():
        messages.print_emulated("float32, without --amp,")
    with no_other_run(training.files(options.folder, model)[0] for model in options.models):
        _train(options)


def _train(options: argparse.Namespace) -> None:
    parts = [named.load(options.experiment.dataset, options.data, train=part) for part in (True, False)]
    train_set, test_set = (splits.spread(part, options.subset).to(options.device) for part in parts)
    distributed.require_images(min(len(train_set), len(test_set)))
    runs = []
    for model in options.models:
        torch.manual_seed(options.seed)
        shape, asked = train_set.images.shape[1:], (options.bytes, options.amp)
        runs.append(training.Run(options.experiment, model, shape, named.CLASSES, *asked))
    if not (options.resume or options.overwrite):
        for run in runs:  # before the first of them trains for hours
            path, _ = training.files(options.folder, run.model)
            training.left_by_earlier(run, path, training.settings_of(run, train_set, options.seed))
    for run in runs:
        with exact_float32():
            training.train(
                run,
                train_set,
                test_set,
                options.folder,
                options.seed,
                options.grad_acc_steps,
                options.resume,
                options.overwrite,
                options.save_every,
            )
    if distributed.is_first():
        for run in runs:
            messages.print_networks(*training.outcome(run, options.folder))


def evaluate_with_bounds(options: argparse.Namespace) -> None:
    """Find the errors of the models that the options of eval.py name, write them and print them."""
    config, models, image_rows, galleries = options.experiment, [], [], []
    dataset = named.load(config.dataset, options.data, train=False)
    total, shape = len(dataset), dataset.images.shape[1:]
    networks = [evaluation.trained(config, model, options.folder, shape, named.CLASSES) for model in options.models]
    dataset = _some(options, dataset)
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
            _write_and_print(options, about, models, arithmetic, image_rows, galleries)


def _some(options: argparse.Namespace, dataset: Dataset) -> Dataset:
    """The images of `dataset` that are asked about, on their device."""
    asked = options.experiment.eval_params
    most = asked.method_params.sample_limit if asked.method == "adv" else None
    spread = dataset.take(slice(None, None, options.skip))
    some = first(options, spread, cli.configuration(options), most).to(options.device)
    distributed.require_images(len(some))
    return some


def _write_and_print(
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
