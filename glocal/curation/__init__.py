"""Looking through sets of images: near-copies, outliers, choices, proposed labels, what is wrong before training."""
