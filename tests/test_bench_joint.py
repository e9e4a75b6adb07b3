"""The benchmark against an older build: both certify all pictures, the same ones, and nothing of theirs is lost."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import bench_joint
from benchmarks.bench_joint import Found
from patchcert.errors import UsageError

ONE = Found(
    pictures=1,
    correct=1,
    certified=0,
    seconds=2.0,
    process_seconds=3.0,
    processor_seconds=4.0,
    peak_mib=100.0,
    passes=None,
)


def test_both_builds_certify_every_picture_in_turn(monkeypatch, tmp_path):
    asked = []

    def certified(build: Path, options: list[str], data: Path, numbers: list[int], folder: Path) -> Found:
        asked.append((build.name, numbers))
        return replace(ONE, pictures=len(numbers), peak_mib=numbers[0], passes=None if build.name == "old" else 7)

    monkeypatch.setattr(bench_joint, "certified", certified)
    builds = {name: (tmp_path / name, []) for name in ("old", "new")}
    found = bench_joint.in_turns(builds, tmp_path, [5, 6, 7, 3, 4], at_once=3)
    assert asked == [("old", [5, 6, 7]), ("new", [5, 6, 7]), ("old", [3, 4]), ("new", [3, 4])]
    assert found["old"] == replace(
        ONE, pictures=5, correct=2, seconds=4, process_seconds=6, processor_seconds=8, peak_mib=5
    )
    assert found["new"] == replace(found["old"], passes=14)


def test_older_builds_find_the_pictures_that_todays_would_take(tmp_path):
    for name in ("cifar10", "cifar10_exact"):
        (tmp_path / "data" / name).mkdir(parents=True)
    bench_joint.pictures_for_both(tmp_path / "data", tmp_path / "both")
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["cifar10"]
    assert (tmp_path / "both" / "cifar10").resolve() == tmp_path / "data" / "cifar10_exact"


def test_a_commit_or_pictures_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UsageError, match="commit nowhere"):
        bench_joint.checked_out("nowhere", tmp_path)
    with pytest.raises(UsageError, match="cifar10_exact or cifar10"):
        bench_joint.pictures_for_both(tmp_path, tmp_path / "both")
