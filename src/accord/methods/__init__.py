"""One folder a method; methods do not import each other, but `video` stands on `context`."""
