"""How things look: text that is safe to print, tables for people, JSON for programs."""
