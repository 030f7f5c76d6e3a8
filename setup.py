"""Finds the packages: whatever folder lies in harness/ or plugins/ is installed. All else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["harness", "harness.*"]),
        "harness_plugins",
        *(f"harness_plugins.{name}" for name in find_packages("plugins")),
    ]
)
