"""Methods: a file a method, all behind one protocol."""
