"""What the README says of the networks that ship is what docs/results says."""

import json
import re

import torch

from tests.helpers import README, ROOT


def test_the_table_of_double_masking_is_that_of_its_file():
    table = re.search(r"<!-- table: mnist_masked -->(.*?)<!-- end -->", README.read_text(), re.DOTALL)[1]
    rows = re.findall(r"^\| (\d+) × \1 \| ([\d.]+) % \| ([\d.]+) % \|", table, flags=re.MULTILINE)
    results = json.loads((ROOT / "docs" / "results" / "mnist_masked_band.json").read_text())["results"]
    expected = [
        (str(entry["size_to_certify"]), f"{entry['clean_accuracy']:.2%}", f"{entry['certified_accuracy']:.2%}")
        for entry in results
    ]
    assert [(size, f"{clean}%", f"{certified}%") for size, clean, certified in rows] == expected


def test_weights_that_ship_are_small_finite_and_say_what_they_are():
    files = list((ROOT / "checkpoints").glob("mnist_masked_band*.pth"))
    assert files
    for file in files:
        content = torch.load(file, weights_only=True)
        assert file.stat().st_size < 10_000_000 and content["about"]["network"]["name"] == "column"
        assert all(tensor.isfinite().all() for tensor in content["net"].values())
