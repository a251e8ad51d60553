"""Triton exists for Linux only: elsewhere its kernels are neither chosen nor tested."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_triton*.py"]
