"""How images become batches of views: from memory (resident) or from files (streaming)."""
