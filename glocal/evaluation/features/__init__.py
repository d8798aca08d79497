"""What a backbone says of images: extracted once, kept by content, pooled, whitened."""
