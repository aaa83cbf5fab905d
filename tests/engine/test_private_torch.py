"""What torch does not promise is used in one file, and works on the torch that is installed."""

import ast
import operator
from pathlib import Path

import pytest
import torch
from torch import nn

from dat_engine import private_torch

ROOT = Path(__file__).parents[2]
HOME = ROOT / "engine" / "dat_engine" / "private_torch.py"
NOT_STABLE = ("torch.distributed.nn",)
ALLOWED = {
    # the base class of all BatchNorms: isinstance with it is how torch itself asks, and nothing public tells them apart
    "torch.nn.modules.batchnorm._BatchNorm",
    "torch.nn.modules.batchnorm._NormBase",  # with InstanceNorm: what may keep running statistics
}


def private_names(text):
    """Dotted names under torch that hold a private part, or lie where torch promises nothing."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            found.add(node.value)
    return {name for name in found - ALLOWED if name.split(".")[0] == "torch" and _is_private(name)}


def _is_private(name):
    parts = name.split(".")
    private = any(part.startswith("_") and not part.startswith("__") for part in parts)
    return private or any(name == place or name.startswith(f"{place}.") for place in NOT_STABLE)


def test_the_search_finds_each_way_of_naming():
    for text in (
        "import torch._dynamo",
        "from torch._dynamo import config",
        "from torch.utils._python_dispatch import TorchDispatchMode",
        "from torch import _foreach_add",
        "from torch.distributed.nn.functional import all_reduce",
        "torch._foreach_copy_(a, b)",
        "torch._C._cuda_releasePool(0, pool)",
        "torch.cuda.memory._record_memory_history()",
        "importlib.import_module('torch._inductor')",
    ):
        assert private_names(text), text
    for text in ("torch.__version__", "from torch import nn", "self._foreach_add", "model._parameters"):
        assert not private_names(text), text
    assert private_names(HOME.read_text())


def test_nothing_else_uses_private_names_of_torch():
    files = [file for storey in ("dat", "engine", "kernels") for file in (ROOT / storey).rglob("*.py")]
    assert len(files) > 80
    found = {str(file.relative_to(ROOT)): private_names(file.read_text()) for file in files if file != HOME}
    assert not {file: names for file, names in found.items() if names}


def test_every_use_says_where_it_was_seen():
    functions = [node for node in ast.parse(HOME.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions} | {"DispatchMode"} == set(private_torch.__all__)
    for function in functions:
        text = ast.get_docstring(function) or ""
        assert "Seen on 2." in text or "Needed on 2." in text, function.name


def tensors(*values):
    return [torch.tensor(value) for value in values]


def test_many_tensors_at_once():
    first, second = [1.0, 4.0], [16.0]
    changed = tensors(first, second)
    private_torch.add_all_(changed, tensors([1.0, 1.0], [2.0]))
    assert [value.tolist() for value in changed] == [[2.0, 5.0], [18.0]]
    private_torch.multiply_all_(changed, tensors([2.0, 0.5], [0.5]))
    assert [value.tolist() for value in changed] == [[4.0, 2.5], [9.0]]
    private_torch.add_numbers_(changed, [1.0, 2.0])
    private_torch.scale_all_(changed, 2.0)
    assert [value.tolist() for value in changed] == [[10.0, 7.0], [22.0]]
    private_torch.scale_all_(changed, 0.5)
    private_torch.add_all_(changed, tensors([1.0, 1.0], [2.0]), alpha=-1.0)
    assert [value.tolist() for value in changed] == [[4.0, 2.5], [9.0]]
    private_torch.negate_all_(changed)
    assert [value.tolist() for value in changed] == [[-4.0, -2.5], [-9.0]]
    assert [value.tolist() for value in private_torch.sums(changed, [1.0, 2.0])] == [[-3.0, -1.5], [-7.0]]
    assert [value.tolist() for value in private_torch.products(changed, tensors(first, second))] == [
        [-4.0, -10.0],
        [-144.0],
    ]
    assert [value.tolist() for value in private_torch.differences(changed, tensors(first, second))] == [
        [-5.0, -6.5],
        [-25.0],
    ]
    assert [value.tolist() for value in private_torch.quotients(changed, tensors([2.0, 0.5], [3.0]))] == [
        [-2.0, -5.0],
        [-3.0],
    ]
    assert changed[0].tolist() == [-4.0, -2.5], "sums, products, differences and quotients are new tensors"
    assert [value.tolist() for value in private_torch.norms(tensors([[3.0], [4.0]], [-2.0]))] == [5.0, 2.0]
    private_torch.scale_all_(changed, torch.tensor(2.0))
    assert [value.tolist() for value in changed] == [[-8.0, -5.0], [-18.0]]
    roots = tensors(first, second)
    private_torch.rsqrt_all_(roots)
    torch.testing.assert_close(roots, tensors([1.0, 0.5], [0.25]))
    targets = [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float64)]
    private_torch.copy_all_(targets, tensors(first, second))
    assert [(value.dtype, value.tolist()) for value in targets] == [(torch.bfloat16, first), (torch.float64, second)]


@pytest.mark.parametrize(("bad", "found_after"), [(1.0, 0.0), (float("inf"), 1.0), (float("nan"), 1.0)])
def test_gradients_are_unscaled_and_looked_at(bad, found_after):
    gradients, found = tensors([2.0, 4.0], [6.0, bad]), torch.zeros(())
    private_torch.unscale_and_find_nonfinite_(gradients, found, torch.tensor(0.5))
    assert gradients[0].tolist() == [1.0, 2.0] and gradients[1][0] == 3.0
    assert found == found_after


def test_the_loss_scale_backs_off_and_grows():
    scale, good = torch.tensor(8.0), torch.zeros((), dtype=torch.int32)
    seen = []
    for found in (1.0, 0.0, 0.0, 0.0):
        private_torch.update_loss_scale_(scale, good, torch.tensor(found), growth=2.0, backoff=0.5, interval=2)
        seen.append((scale.item(), good.item()))
    assert seen == [(4.0, 0), (4.0, 1), (8.0, 0), (8.0, 1)]


def test_a_fused_optimizer_leaves_a_step_out():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5, fused=True)
    weight.grad = torch.tensor([1.0])
    private_torch.step_unless_found(optimizer, torch.tensor(1.0))
    assert weight.item() == 1.0
    private_torch.step_unless_found(optimizer, torch.tensor(0.0))
    assert weight.item() == 0.5
    assert not hasattr(optimizer, "found_inf") and not hasattr(optimizer, "grad_scale")


def test_a_dispatch_mode_sees_operations():
    seen = []

    class Watching(private_torch.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Watching():
        torch.ones(2).mul(3)
    assert torch.ops.aten.mul in seen


@pytest.mark.parametrize("name", ["_C._cuda_endAllocateToPool", "_C._cuda_releasePool", "cuda._sleep"])
def test_what_needs_a_gpu_is_there(name):
    if torch.version.cuda is None:
        pytest.skip("this torch was built without CUDA")
    assert callable(operator.attrgetter(name)(torch))
