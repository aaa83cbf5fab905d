"""Which gates a step's figures hang on: those of its own way of being run, each by its name, and no others."""

from __future__ import annotations

from bench.gpu_acceptance.gate_plugin import gate_of_file
from bench.gpu_acceptance.subjects import SWITCHED, WAYS, Way

KERNELS = (
    "amplitude_mix 32x32: float32",
    "amplitude_mix 32x32: every launch variant gives the same bits",
    gate_of_file("kernels/test_pgd_start.py"),
    gate_of_file("kernels/test_pgd_step.py"),
    gate_of_file("kernels/test_augment.py"),
)
DATA = (
    "data: an epoch holds every image once, and every batch its own pixels and labels",
    "data: prefetched batches are the same, while the other stream works and reuses memory",
)
GRAPH = (
    "graph: capturing changes nothing, and nothing is compiled after it",
    "graph: random numbers differ between replays and come again with the seed",
    "graph: the learning rate is followed",
    "graph: no wait for the device inside an epoch of the resident loader",
)
IN_GRAPH = {
    ("dat", "grouped"): "graph: captured = compiled, bf16, grouped",
    ("dat", "folded"): "graph: captured = compiled, bf16, folded on parallel branches",
    ("pgd-at", "grouped"): "graph: captured = compiled, PGD-AT",
}


def needs_of(name: str) -> tuple[str, ...]:
    """The gates of the subject of that name, as beginnings of their names; an eager baseline's is that it trains."""
    way = next((way for way in (*WAYS, *SWITCHED) if str(way) == name), None)
    trains = (f"step times: {name} trains",)
    return trains if way is None else (*trains, *needs_of_way(way))


def needs_of_way(way: Way) -> tuple[str, ...]:
    """What must be right for a time of `way` to be a time of the training that it is called."""
    needs = [*DATA, f"step times: {way} can be built"]
    if way.method == "dat":
        needs += [*KERNELS, f"step: float64 on this device = float64 oracle, joint, {way.branching}"]
    else:
        needs += [name for name in KERNELS if not name.startswith("amplitude_mix")]
    if way.execution != "eager" and way.method == "dat":
        needs.append(f"step: compiled = eager, {way.precision}, {way.branching}")
    if way.execution == "graphed":
        needs += [*GRAPH, IN_GRAPH[way.method, way.branching]]
    return tuple(needs)
