"""What the compiled CPU kernels share: C++ headers, the module's source and, for Python, `memory`."""
