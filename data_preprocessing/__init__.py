"""Raw text to HDF5 datasets, and tokenizers from raw text. Meets `modelzoo` in the file format alone."""
