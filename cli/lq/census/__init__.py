"""A census of the Python standard library: the demonstration's work. Real input on any machine."""
