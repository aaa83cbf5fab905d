"""Images held as files: lists, decoding, files that cannot be decoded."""
