"""Reading of files into examples, and encoding of examples into token ids."""
