"""RealignDiff (arXiv 2305.19599): coarse-to-fine semantic re-alignment. See README.md in this folder."""
