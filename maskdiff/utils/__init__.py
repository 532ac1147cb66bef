"""Small tools without a model: arguments, files, lines of text, time limits, batches."""
