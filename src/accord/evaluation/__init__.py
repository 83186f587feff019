"""Measuring a pipeline: suites, runs that are folders, intervals, comparisons."""
