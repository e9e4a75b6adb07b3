"""What pyproject.toml cannot say: beside the packages that are found there is one more, the networks that ship."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["patchcert*"]), "patchcert.checkpoints"])
