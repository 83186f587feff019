"""ContextDiff (arXiv 2402.16627): cross-modal context in the forward and the reverse process."""
