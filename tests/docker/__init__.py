"""What docker/ holds, read and run as far as that goes without an engine."""
