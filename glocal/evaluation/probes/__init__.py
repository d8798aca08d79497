"""What is trained on features, or on a whole backbone with labels."""
