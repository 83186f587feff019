"""What judges a picture against a prompt: captioners and CLIP, each behind one small interface."""
