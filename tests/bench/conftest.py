"""A Python with little installed, as on a machine that is lent for the acceptance run."""

import os

import pytest

ABSENT = ("tyro", "timm", "nvidia", "safetensors", "filelock", "tensorboard", "PIL", "yaml", "sklearn", "torchvision")
BLOCKER = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


@pytest.fixture
def blocked(tmp_path):
    """The environment of a Python in which only torch, triton, numpy, rich and pytest can be imported."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
