"""Results that show themselves: labelled pictures, pages, and what a repair and a score leave behind."""
