"""Kernels of DP-SGD: clipped, summed and noised per-example gradients, by Opacus' hooks or by fedsim's own passes."""

__all__: list[str] = []
