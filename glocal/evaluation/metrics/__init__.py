"""Pure functions from predictions and answers to numbers."""
