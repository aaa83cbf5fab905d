"""An independent, slow, float64 transcription of the method, to compare the engine against.

Nothing here imports `dat`, `engine` or `kernels`, and nothing here is written for speed: every formula stands as
the paper (arXiv 2410.12307) or its authors' running code has it. Random choices are arguments, so that both
sides of a comparison can be given the same ones.
"""
