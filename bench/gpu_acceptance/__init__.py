"""Everything that needs a GPU, in one run: correctness gates first, then times against the project's targets.

`python -m bench.gpu_acceptance --help`. Every section runs in a process of its own, so that one that crashes, hangs or
spoils its CUDA context costs only itself.
"""
