"""RealignDiff's coarse stage (arXiv 2305.19599): tuning with a reward. See README.md in this folder."""
