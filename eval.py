"""Compute certified and clean error of networks from train.py: a certified answer stays right whatever a patch shows.

    python3 eval.py --config config/mnist_robtrain_p22_all.json --model_subset 0
    python3 eval.py --config config/mnist_robtrain_p22_all.json models_path=DIR --output errors.json
    python3 eval.py --config config/mnist_robtrain_p22_all.json eval_params:method_params:patch_w=1
    python3 eval.py --config config/mnist_robtrain_k4_sparse.json eval_params:method_params:k=6

Reads MODEL_ID_best.pth if there is one, else MODEL_ID.pth. Bounds are checked at every place of the patch. If
eval_params:method_params lacks attack_type, bound_type, patch_w, patch_l or k, the script takes the value of the
training. With `method: adv` in the config, it takes the first `sample_limit` images and also attacks them. It fails if
a certified answer flips.
"""

from patchcert import cli
from patchcert.experiments.evaluation import add_limit, add_outputs, add_skip
from patchcert.experiments.intervals import evaluate_with_bounds
from patchcert.intervals import arguments


def main() -> None:
    parser = arguments.shared_parser(__doc__)
    add_skip(parser)
    add_limit(parser)
    add_outputs(parser)
    evaluate_with_bounds(arguments.parse(parser))


if __name__ == "__main__":
    cli.run(main)
