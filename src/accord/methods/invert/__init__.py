"""Reverse Stable Diffusion (arXiv 2308.01472): which prompt made this image?"""
