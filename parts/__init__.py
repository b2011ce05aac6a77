"""What others made and QuickBite uses: a list of it, and a question for known weaknesses."""
