"""The studio: a page in the browser, a queue of jobs behind it, and one thread that owns the models."""
