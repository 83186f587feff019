"""RealignDiff's fine stage (arXiv 2305.19599): repair at inference. See README.md in this folder."""
