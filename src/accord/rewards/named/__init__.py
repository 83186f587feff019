"""Rewards by name, one file each; the file's name is the reward's. RealignDiff, arXiv 2305.19599, section 1.1 of its
coarse stage, is `caption`; the others stand beside it.

Letters in shapes: B pictures.
"""
