#!/bin/sh
# CIFAR-10, 5 × 5 patches: train, choose θ on the validation half, certify the test half, all 10,000 and blocks; timed.
#
#     sh benchmarks/headline_cifar.sh [DATA]
#
# PYTHON says which Python. Files go to results/; checkpoints/ gets the networks.
set -eu
cd "$(dirname "$0")/.."
data=${1:-data} python=${PYTHON:-python3}
name=cifar_one_band_lr_0.4_regularization_0.0005_model_resnet18_band_4_recipe_fast_epoch_199.pth
mkdir -p results
band() { "$python" certify_cifar_band.py --data "$data" --amp --batch_size 4096 --checkpoint $name "$@"; }

started=$(date +%s)
"$python" train_cifar_band.py --data "$data" --band_size 4 --recipe fast --seed 0
echo "trained in $(($(date +%s) - started)) s"

band --threshold 0.1,0.15,0.2,0.25,0.3,0.35,0.4,0.45,0.5 --output results/cifar_validation.json
theta=$("$python" -c "
import json
rows = json.load(open('results/cifar_validation.json'))['results']
print(max(rows, key=lambda row: row['certified_correct'])['threshold'])")
echo "θ = $theta"
band --threshold "$theta" --test --certificate margin,exact --size_to_certify 1-10 --output results/cifar_test.json
band --threshold "$theta" --all --output results/cifar_all.json

"$python" train_cifar_block.py --data "$data" --block_size 12 --recipe fast --end_epoch 0
"$python" certify_cifar_block.py --data "$data" --block_size 12 --amp --batch_size 4096 --all \
    --checkpoint cifar_one_block_lr_0.4_regularization_0.0005_model_resnet18_block_12_recipe_fast_epoch_0.pth \
    --output results/cifar_block_speed.json
