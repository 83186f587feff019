"""The suites, one a file, which has the suite's name with `_` for `-`."""
