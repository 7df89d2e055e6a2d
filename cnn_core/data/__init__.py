"""From a source to the RAW and AUGMENTED data sets: readers, validation, splits."""
