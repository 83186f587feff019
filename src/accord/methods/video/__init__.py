"""Text-guided editing of a video: Tune-A-Video (arXiv 2212.11565) and ContextDiff (arXiv 2402.16627), section 4.2. See
README.md in this folder.
"""
