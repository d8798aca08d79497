"""Images with answers, for evaluation: boxes, masks, queries and the sets of transfer learning."""
