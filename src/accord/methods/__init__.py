"""One folder a method; methods do not import each other."""
