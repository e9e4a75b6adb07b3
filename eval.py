"""Certified and clean error of networks from train.py: a certified answer stays right whatever a patch shows.

    python eval.py --config config/mnist_robtrain_p22_all.json --model_subset 0
    python eval.py --config config/mnist_robtrain_p22_all.json models_path=DIR --output errors.json
    python eval.py --config config/mnist_robtrain_p22_all.json eval_params:method_params:patch_w=1
    python eval.py --config config/mnist_robtrain_k4_sparse.json eval_params:method_params:k=6

Takes MODEL_ID_best.pth where there is one, else MODEL_ID.pth. Bounds are checked at every place of the patch; where
eval_params:method_params has no attack_type, bound_type, patch_w, patch_l or k of its own, training's is taken. Configs
of `method: adv` take the first `sample_limit` images and attack them too; they fail if a certified one flips.
"""

import time

from patchcert import cli, distributed, result_format, results
from patchcert.data import named
from patchcert.experiments import interval_galleries, reporting
from patchcert.intervals import arguments, evaluation
from patchcert.intervals.bounds import exact_float32
from patchcert.option_values import folder, output_file, positive_int
from patchcert.reports.exhibits import Run


def main() -> None:
    parser = arguments.shared_parser(__doc__)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N images")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the results here")
    parser.add_argument("--per_image", type=output_file, metavar="FILE.csv", help="write one row per image here")
    parser.add_argument("--report", type=folder, metavar="DIR", help="write a page to look at here: index.html")
    options = arguments.parse(parser)
    config, models, image_rows, galleries = options.experiment, [], [], []
    dataset = named.load(config.dataset, options.data, train=False)
    total = len(dataset)
    shape, classes = dataset.images.shape[1:], int(dataset.labels.max()) + 1
    networks = [evaluation.trained(config, model, options.folder, shape, classes) for model in options.models]
    dataset = dataset.take(slice(options.limit))
    if config.eval_params.method == "adv":
        dataset = dataset.take(slice(config.eval_params.method_params.sample_limit))
    dataset = dataset.to(options.device)
    distributed.require_images(len(dataset))
    for model, (network, origin) in zip(options.models, networks, strict=True):
        started = time.perf_counter()
        with exact_float32():
            verdicts = evaluation.verdicts(network.to(options.device), dataset, config, options.bytes)
            if config.eval_params.method == "adv":
                verdicts = evaluation.attacked(network, dataset, config, verdicts, options.seed)
        errors = evaluation.errors(verdicts, dataset.labels, time.perf_counter() - started)
        models.append({"model_id": model.model_id} | errors | origin)
        image_rows += results.image_rows(dataset, [({"model_id": model.model_id}, verdicts.columns())])
        if options.report and distributed.is_first():
            galleries.append(interval_galleries.of_model(options, model, network, dataset, verdicts))
    if not distributed.is_first():
        return
    summary = evaluation.summary(models)
    against = result_format.stamp("evaluate") | {"evaluated_against": config.eval_params.against()}
    record = against | {"models": models, "summary": summary, "config": cli.configuration(options)}
    record |= {"environment": results.environment()}
    if options.output:
        results.write_json(record, options.output)
    if options.per_image:
        results.write_csv(image_rows, options.per_image)
    about = f"{options.config.stem}: {evaluation.about(config, len(dataset), total)}"
    results.print_models(about, models, summary)
    if options.report:
        reporting.write(options.report, [Run(options.config.stem, about, record, galleries)])


if __name__ == "__main__":
    cli.run(main)
