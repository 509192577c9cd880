"""The program ``lq``."""
