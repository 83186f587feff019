"""What judges pictures: captioners, CLIP, chat models; and `score`, which reads their verdicts word by word."""
