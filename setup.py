"""The packages of the wheel. The rest of the project's description is in pyproject.toml, which cannot say this."""

from setuptools import find_packages, setup

# The folders configs/ and assets/ are within the package once it is installed, so that nothing else is beside it.
INSIDE = {"hut_jax.configs": "configs", "hut_jax.assets": "assets"}

setup(packages=[*find_packages(include=["hut_jax", "hut_jax.*"]), *INSIDE], package_dir=INSIDE)
