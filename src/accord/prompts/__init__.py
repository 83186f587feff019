"""Prompts taken apart: what people type, on spaCy's dependency parse."""
