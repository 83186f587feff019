"""Prompts, pictures and pairs in; nothing of diffusion here."""
