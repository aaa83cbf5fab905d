"""Import of classifier checkpoints in the naming of the DAT authors' code."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from dat_engine.errors import UserError
from dat_engine.model.branches import branch_names


def load_reference_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a checkpoint of the authors' code (or of the code bases it descends from) into a model of `dat.models.build`.

    Their second set of BatchNorm layers is called ``…_auto`` and becomes branch mix; their shortcut is
    ``shortcut.0`` with ``shortcut_bn.0``; their wide networks say ``block1.layer.0`` , ``convShortcut`` and ``fc``. A
    ``module.`` prefix of DataParallel is dropped.

    Raises:
        UserError: names or shapes that do not fit the model, listing the first of them; the model is left as it was.
    """
    own = model.state_dict()
    renamed = {_own_name(name): tensor for name, tensor in state_dict.items()}
    branches = branch_names(model)
    if "mix" not in branches:
        renamed = {name: tensor for name, tensor in renamed.items() if ".mix." not in name}
    missing = sorted(name for name in own if name not in renamed and not name.endswith("num_batches_tracked"))
    extra = sorted(name for name in renamed if name not in own)
    wrong = sorted(name for name in own if name in renamed and own[name].shape != renamed[name].shape)
    for problem, names in (("lacks", missing), ("has the unknown", extra), ("has another shape of", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(
                f"this checkpoint does not fit {type(model).__name__}: it {problem} {', '.join(names[:3])}{more}"
            )
    model.load_state_dict(renamed, strict=False)


def _own_name(name: str) -> str:
    name = name.removeprefix("module.")
    layer, _, leaf = name.rpartition(".")
    layer = layer.replace(".layer.", ".").replace("convShortcut", "shortcut")
    if layer == "fc":
        layer = "linear"
    match = re.fullmatch(r"(?P<path>(?:.*\.)?)(?P<norm>bn\d*|shortcut_bn)(?P<second>_auto)?(?P<index>\.0)?", layer)
    if match is None:
        return f"{layer}.{leaf}"
    branch = "mix" if match["second"] else "base"
    norm = "shortcut.1" if match["norm"] == "shortcut_bn" else match["norm"]
    return f"{match['path']}{norm}.{branch}.{leaf}"
